"""The questions of a run: what was answered, what is right, and the joules of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static

from etui import units
from etui.bench.config import RunConfig
from etui.bench.folder import read_run
from etui.bench.sample import Sample
from etui.config.config import Config
from etui.datasets.mmlu import suite_dir
from etui.datasets.questions import Question
from etui.datasets.suites import SAMPLE, is_named_suite, load_suite, suite_title
from etui.errors import EtuiError
from etui.text import SEPARATOR, local_time, one_line, sanitize
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import FittedTable, TableColumn


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """An answer of a run with its question; None where the suite is not on this machine."""

    sample: Sample
    question: Question | None
    suite: str


def read_questions(folder: Path, config: Config) -> tuple[str, list[AskedQuestion]]:
    """Read a title of a run, and its answers in their order, with the questions if they are here.

    Raises:
        EtuiError: The run cannot be read.
    """
    run = read_run(folder)
    suite: Mapping[str, Sequence[Question]] = {}
    with suppress(EtuiError):
        suite = _read_suite(run.config, config)
    found = {(q.subject, q.row): q for rows in suite.values() for q in rows}
    name, arms = run.config.suite, run.config.arms.items()
    began = local_time(run.config.started_at)[:16]
    title = [f"{suite_title(name)} {began}", *(f"{a}: {arm['model']}" for a, arm in arms)]
    asked = [AskedQuestion(s, found.get((s.subject, s.row)), name) for s in run.samples]
    return one_line(SEPARATOR.join(title)), asked


def _read_suite(run: RunConfig, config: Config) -> Mapping[str, Sequence[Question]]:
    """Read the questions of a suite that is here; nothing is downloaded."""
    data = None if run.data_path is None else Path(run.data_path)
    if data is not None and not is_named_suite(run.suite):
        return load_suite(str(data), run.split, None, config).questions
    if data is None and run.suite != SAMPLE and not suite_dir(config, run.suite).is_dir():
        return {}
    return load_suite(run.suite, run.split, data, config).questions


COLUMNS = (
    TableColumn("right", "", 0, most=2, sorts=False),
    TableColumn("question", "QUESTION", 1, most=200, least=16, enough=40, sorts=False),
    TableColumn("arm", "ARM", 3, most=24, sorts=False),
    TableColumn("answer", "ANSWER", 2, most=24, sorts=False),
    TableColumn("joules", "JOULES", 4, most=12, right=True, sorts=False),
    TableColumn("seconds", "SECONDS", 5, most=10, right=True, sorts=False),
)
_UNANSWERED = {"no_answer": "none", "truncated": "cut off", "error": "failed"}


def question_texts(asked: AskedQuestion) -> dict[str, str]:
    """Format an answer by column: ``✗``, its question, the arm, ``B, right is C``, its cost."""
    sample, kind = asked.sample, asked.sample.kind
    text = f"{sample.subject} {sample.row}" if asked.question is None else asked.question.text
    answer = sample.choice or _UNANSWERED.get(sample.status, sample.status)
    return {
        "right": "✓" if sample.correct else "✗",
        "question": one_line(text),
        "arm": one_line(sample.arm),
        "answer": one_line(answer if sample.correct else f"{answer}, right is {sample.answer}"),
        "joules": units.short_energy_text(sample.joules, kind if kind == units.ESTIMATE else None),
        "seconds": f"{sample.seconds:,.2f} s",
    }


def question_lines(asked: AskedQuestion) -> list[str]:
    """Format a question in full with its options, and what the model wrote."""
    sample, question = asked.sample, asked.question
    lines = [f"{sample.subject} {sample.row}", ""]
    if question is None:
        lines.append(f"questions not on this machine; `etui bench --suite {asked.suite}` gets them")
    else:
        lines += [question.text, ""]
        for letter, choice in zip(question.letters, question.choices, strict=True):
            mark = "✓" if letter == sample.answer else "✗" if letter == sample.choice else " "
            lines.append(f"{mark} {letter}  {choice}")
    chosen = ": the most probable option is the answer" if sample.logprobs else ""
    return [*lines, "", sample.text.strip() or sample.error or f"nothing was written{chosen}"]


class QuestionsScreen(ModalScreen[None]):
    """The questions of one run, above the one under the cursor in full."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "leave", "Close", id="questions.close", key_display="esc",
                priority=True),
    ]  # fmt: skip
    HELP = "## Questions"

    def __init__(self, title: str, asked: Sequence[AskedQuestion]) -> None:
        super().__init__()
        self._title = Static(sanitize(title), markup=False, classes="title")
        self._asked = asked
        self._table = FittedTable[AskedQuestion](COLUMNS, question_texts, id="questions")
        self._text = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._table
        with VerticalScroll(id="question-text", can_focus=True):
            yield self._text
        yield KeyFooter()

    def on_mount(self) -> None:
        self._table.show(self._asked)

    def on_data_table_row_highlighted(self, _moved: DataTable.RowHighlighted) -> None:
        if (asked := self._table.current) is not None:
            self._text.update(sanitize("\n".join(question_lines(asked))))

    def action_leave(self) -> None:
        self.dismiss(None)

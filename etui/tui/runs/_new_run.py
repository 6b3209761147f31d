"""Dialog for what to measure: questions of a suite, a calibration or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from etui.datasets.suites import NAMED, SAMPLE, suite_title
from etui.text import sanitize
from etui.tui.bench_job import NewRun
from etui.tui.measurements import MeasuredKind
from etui.tui.modals import BoxModal

_KINDS: tuple[tuple[str, MeasuredKind], ...] = (
    ("answer questions: accuracy and joules", "run"),
    ("calibrate: what its tokens cost here", "calibration"),
    ("sweep: which settings cost the fewest joules", "sweep"),
)
_MOST_QUESTIONS = 100_000


@dataclass(frozen=True, slots=True)
class ChosenRun:
    """What to measure; suite and number of questions count for a run only."""

    kind: MeasuredKind
    run: NewRun


class NewRunModal(BoxModal[ChosenRun]):
    """Asks for suite, model or policy, and number of questions; the price is shown after it."""

    AUTO_FOCUS = "#who"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Price it", id="new_run.take", priority=True),
        Binding("escape", "leave", "Cancel", id="new_run.leave"),
    ]

    HELP = "## New run"

    def __init__(self, models: Sequence[str], policies: Sequence[str]) -> None:
        super().__init__(
            "What to measure", "Tab moves · Enter chooses · Ctrl+S shows cost and time, then asks"
        )
        systems = [(f"{by} {sanitize(name)}", (by, name))
                   for by, names in (("model", models), ("policy", policies))
                   for name in names]  # fmt: skip
        suites = [
            (suite_title(name), name) for name in (SAMPLE, *(n for n in NAMED if n != SAMPLE))
        ]
        self._kind = Select(_KINDS, allow_blank=False, compact=True, id="kind")
        self._suite = Select(suites, allow_blank=False, compact=True, id="suite")
        self._who = Select(systems, allow_blank=False, compact=True, id="who")
        self._questions = Input("60", type="integer", compact=True, id="questions")
        self._note = Static("", markup=False, classes="problem")

    def compose_box(self) -> ComposeResult:
        yield _row("measure", self._kind)
        yield _row("of", self._who)
        yield _row("suite", self._suite)
        yield _row("questions", self._questions)
        yield self._note

    def on_select_changed(self) -> None:
        is_run = self._kind.value == "run"
        for field in (self._suite, self._questions):
            assert field.parent is not None
            cast("Widget", field.parent).display = is_run

    def on_input_submitted(self) -> None:
        self.action_take()

    def action_take(self) -> None:
        kind = cast("MeasuredKind", self._kind.value)
        by, name = cast("tuple[Literal['model', 'policy'], str]", self._who.value)
        count = self._questions.value.strip()
        if kind != "run" and by == "policy":
            self._note.update(f"a policy has no {kind}: choose a model")
        elif kind == "run" and not (count.isdecimal() and 0 < int(count) <= _MOST_QUESTIONS):
            self._note.update(f"questions: a whole number from 1 to {_MOST_QUESTIONS:,}")
        else:
            run = NewRun(str(self._suite.value), name, int(count or 1), by)
            self.dismiss(ChosenRun(kind, run))


def _row(label: str, field: Widget) -> Horizontal:
    return Horizontal(Static(label, markup=False, classes="name"), field, classes="field")

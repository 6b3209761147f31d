"""The runs screen on run folders, good and broken."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import DataTable, Static
from textual.widgets._footer import FooterKey

from etui.bench.summary import summarise
from etui.codec import to_document
from etui.config.config import load_config
from etui.tui.jobs import JobList
from etui.tui.runs import _entries
from etui.tui.runs._entries import COLUMNS, RunEntry, arm_lines, run_texts, sort_runs
from etui.tui.runs.screen import (
    QuestionsScreen,
    RunsScreen,
    question_lines,
    question_texts,
    read_questions,
)
from etui.tui.start import EtuiApp
from tests.bench import synthetic
from tests.tui.fakes import until


class RunsApp(App[None]):
    """Nothing but the screen."""

    CSS_PATH = EtuiApp.CSS_PATH
    HORIZONTAL_BREAKPOINTS = EtuiApp.HORIZONTAL_BREAKPOINTS
    VERTICAL_BREAKPOINTS = EtuiApp.VERTICAL_BREAKPOINTS

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.config = replace(load_config(), home=folder.parent)
        self.runs = RunsScreen(self.config, lambda: None, JobList())
        self.pilot: Pilot[None]

    def on_mount(self) -> None:
        self.push_screen(self.runs)

    async def until(self, predicate: Callable[[], object]) -> None:
        await until(self.pilot, predicate)

    async def listed(self, count: int) -> None:
        await self.until(lambda: self.table.row_count == count)

    @property
    def table(self) -> DataTable[Any]:
        return self.runs.query_one(DataTable)

    def row(self, number: int) -> str:
        return " | ".join(str(cell) for cell in self.table.get_row_at(number))

    @property
    def picture(self) -> str:
        return str(self.runs.query_one("#run-detail Static", Static).content)

    def told(self) -> str:
        return "\n".join(notification.message for notification in self._notifications)


@asynccontextmanager
async def at_runs(
    folder: Path, count: int = 3, size: tuple[int, int] = (160, 45)
) -> AsyncIterator[RunsApp]:
    """The screen with so many runs on it."""
    app = RunsApp(folder)
    async with app.run_test(size=size) as app.pilot:
        await app.listed(count)
        yield app


def list_runs(folder: Path) -> list[RunEntry]:
    return _entries.list_runs(folder, folder.parent / "sweeps")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run, one without a summary, one whose summary is cut off, and a stray folder."""
    runs = tmp_path / "runs"
    made = synthetic.config(per_subject=2)
    rows = synthetic.samples(made)
    done = synthetic.write(runs / "done", made, rows)
    (done / "summary.json").write_text(json.dumps(to_document(summarise(rows, made))))
    earlier = replace(made, started_at="2025-12-31T12:00:00+00:00")
    synthetic.write(runs / "going", earlier, rows[:5])
    cut = synthetic.write(runs / "cut", earlier, rows)
    (cut / "summary.json").write_text('{"arms": {')
    (runs / "stray").mkdir()
    return runs


async def test_runs_are_listed_filtered_and_drawn_with_a_letter_an_arm(folder: Path) -> None:
    async with at_runs(folder) as app:
        rows = [app.row(number) for number in range(3)]
        done = next(row for row in rows if "| mmlu | small, large | 114 | " in row)
        assert done.startswith("01 Jan ")
        assert "| 25.0 % | " in done
        assert "| better than guessing (" in done
        assert any("| not finished" in row for row in rows)
        assert any("summary.json cannot be read" in row for row in rows)
        await app.until(lambda: "vote-5" in app.picture)
        for arm in synthetic.ARMS:
            assert arm in app.picture
        await app.pilot.press("down")
        await app.until(lambda: "vote-5" not in app.picture)
        await app.pilot.press("slash", *"not finished", "enter")
        await app.listed(1)
        assert "not finished" in app.row(0)
        assert app.table.has_focus
        await app.pilot.press("escape")
        await app.listed(3)
        (folder / "stray" / "config.json").write_bytes(
            (folder / "done" / "config.json").read_bytes()
        )
        await app.pilot.press("r")
        await app.listed(4)


async def test_a_report_is_opened_and_a_missing_one_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def browse(address: str) -> bool:
        seen.append(address)
        return len(seen) > 1

    monkeypatch.setattr(webbrowser, "open", browse)
    async with at_runs(folder) as app:
        await app.pilot.press("o")
        await app.until(lambda: "etui bench report" in app.told())
        assert not seen
        (folder / "done" / "report.html").write_text("<p>a page</p>")
        await app.pilot.press("o")
        await app.until(lambda: "no browser found" in app.told())
        await app.pilot.press("o")
        await app.until(lambda: len(seen) == 2)
        assert seen[0] == (folder / "done" / "report.html").absolute().as_uri()


async def test_without_runs_the_screen_says_how_to_make_one_over_its_whole_width(
    tmp_path: Path,
) -> None:
    async with at_runs(tmp_path / "none", 0, (110, 30)) as app:
        await app.until(lambda: "etui bench --suite sample" in app.picture)
        # The text is drawn before the folder is read.
        await app.until(lambda: not app.table.display)
        await app.until(lambda: app.runs.query_one("#run-detail").region.width == 110)
        await app.pilot.press("o")


def test_the_kind_of_a_run_is_an_estimate_where_any_of_it_is(folder: Path) -> None:
    run = next(run for run in list_runs(folder) if run.name == "done")
    assert run.kind == "counter"
    assert run.summary is not None
    changed = json.loads(json.dumps(to_document(run.summary)))
    changed["arms"]["direct"]["energy"]["kind"] = "estimate"
    (folder / "done" / "summary.json").write_text(json.dumps(changed))
    assert next(r for r in list_runs(folder) if r.name == "done").kind == "estimate"
    for arm in changed["arms"].values():
        arm["energy"] = None
    (folder / "done" / "summary.json").write_text(json.dumps(changed))
    assert next(r for r in list_runs(folder) if r.name == "done").points == {}


def test_the_cells_of_a_run_are_those_of_its_best_arm(folder: Path) -> None:
    (run,) = [run for run in list_runs(folder) if run.name == "done"]
    assert run.summary is not None
    arm = run.best
    assert arm is not None
    assert arm.energy is not None
    assert arm.accuracy.micro.value == max(
        one.accuracy.micro.value for one in run.summary.arms.values()
    )
    texts = run_texts(run)
    assert texts["model"]
    assert texts["joules"].endswith("J")
    assert run.figures["joules"] == arm.energy.per_question.value


def test_runs_without_a_value_come_last_in_either_direction(folder: Path) -> None:
    runs = list_runs(folder)
    for descending in (True, False):
        for column in COLUMNS:
            ordered = sort_runs(runs, column.key, descending)
            assert sorted(run.name for run in ordered) == sorted(run.name for run in runs)
        assert sort_runs(runs, "joules", descending)[0].name == "done"
        names = [run.name for run in sort_runs(runs, "run", descending)]
        assert names == sorted(names, reverse=descending)


async def test_columns_fit_the_width_and_an_arrow_shows_the_order(folder: Path) -> None:
    async with at_runs(folder, size=(120, 40)) as app:

        def headings() -> list[str]:
            return [str(column.label) for column in app.table.columns.values()]

        assert {"SUITE", "RIGHT", "J/QUESTION", "MODEL", "VERDICT"} <= set(headings())
        await app.pilot.press("s", "s")
        assert headings()[1] == "SUITE ▲"
        await app.pilot.press("j", "j", "g", "G")
        assert app.table.cursor_row == 2
        await app.pilot.resize_terminal(40, 20)
        await app.until(lambda: len(headings()) < 5)
        assert headings()[:3] == ["WHEN", "SUITE ▲", "RIGHT"]


@pytest.mark.parametrize("width", [80, 120, 200])
async def test_enter_shows_each_question_of_a_run_and_is_said_at_every_width(
    folder: Path, width: int
) -> None:
    async with at_runs(folder, size=(width, 40)) as app:
        labels = [key.description for key in app.runs.query(FooterKey)]
        assert labels[0] == "Questions"
        await app.pilot.press("enter")
        await app.until(lambda: isinstance(app.screen, QuestionsScreen))
        table = app.screen.query_one(DataTable)
        await app.until(lambda: table.row_count == 4 * 114)
        title, asked = read_questions(folder / "done", app.config)
        assert title.startswith("MMLU 2026-01-01 ")
        assert title.endswith("direct: small · think: small · vote-5: small · large: large")
        texts = [question_texts(each) for each in asked]
        assert {text["right"] for text in texts} == {"✓", "✗"}
        assert all(("right is" in text["answer"]) == (text["right"] == "✗") for text in texts)
        await app.pilot.press("down")
        detail = app.screen.query_one("#question-text Static", Static)
        await app.until(lambda: asked[1].sample.subject in str(detail.content))
        letters = next(each for each in asked if each.sample.logprobs)
        assert question_lines(letters)[-1].endswith(": the most probable option is the answer")
        unread = replace(letters, sample=replace(letters.sample, logprobs=None))
        assert question_lines(unread)[-1] == "nothing was written"
        await app.pilot.press("escape")
        await app.until(lambda: not isinstance(app.screen, QuestionsScreen))


def test_every_arm_has_a_row_and_narrow_tables_leave_out_the_last_columns(folder: Path) -> None:
    (run,) = [run for run in list_runs(folder) if run.name == "done"]
    wide, narrow = arm_lines(run, 160), arm_lines(run, 50)
    assert wide[0] == "MMLU: 114 questions, guessing gets 25.0 %, 5 worked examples in each prompt"
    assert " ".join(wide[2].split()).startswith("ARM RIGHT 95 % RANGE VERDICT J/QUESTION ")
    for arm in synthetic.ARMS:
        (line,) = [line for line in wide if f" {arm} " in line]
        assert " J" in line
        assert any(f" {arm} " in line for line in narrow)
    assert any("better than guessing" in line for line in wide)
    assert max(map(len, narrow[1:])) <= 50

"""Runs that begin on the runs screen: priced, confirmed, followed, stopped and continued.

A script answers in place of etui, with the lines and the folder that `etui bench` makes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import DataTable, Input, Select, Static

from etui.bench.folder import runs_dir
from etui.bench.summary import summarise
from etui.codec import to_document
from etui.design.price import Amount, ArmPrice
from etui.errors import EtuiError
from etui.tui import measurements
from etui.tui.measurements import NewRun, RunState
from etui.tui.modals import ConfirmModal
from etui.tui.models.screen import ModelsScreen
from etui.tui.runs.screen import NewRunModal, RunsScreen
from tests.bench import synthetic
from tests.tui.fakes import MODEL, House
from tests.tui.models_app import answer_by, dialog, no_process_left, put_damaged_file, shown
from tests.tui.screen import Terminal, running

SUBJECTS = ("anatomy", "virology")


def price(**totals: tuple[float, float] | None) -> dict[str, Any]:
    """What a dry run says of arms by their joules and seconds; None is unknown."""

    def arm(name: str, total: tuple[float, float] | None) -> ArmPrice:
        joules, seconds = (None, None) if total is None else (Amount(t, None, None) for t in total)
        return ArmPrice(
            name, name, MODEL, 4, "none" if total is None else "answers", "1 earlier run", 0,
            None, None, 1, None, None, None, None, joules, seconds,
        )  # fmt: skip

    arms = [to_document(arm(name, total)) for name, total in totals.items()]
    return {"questions": 4, "format": "letters", "price": {"left": {"arms": arms}}}


PRICE = price(direct=(20.0, 2.0))

FAKE = """
import json, pathlib, shutil, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
arguments = sys.argv[1:]
ready = pathlib.Path({ready!r})

def answer(n):
    for line in (ready / "samples.jsonl").read_text().splitlines()[:n]:
        print(line, flush=True)

if "--dry-run" in arguments:
    print(json.dumps({price!r}))
elif "calibrate" in arguments:
    print(json.dumps(dict(event="curve", status="complete", n=8, r2_decode=0.5)))
elif "--resume" in arguments:
    answer(4)
    shutil.copytree(ready, arguments[-1], dirs_exist_ok=True)
else:
    out = pathlib.Path(arguments[arguments.index("--out") + 1])
    out.mkdir(parents=True)
    shutil.copy(ready / "config.json", out)
    {run}
"""
COMPLETE = "shutil.copytree(ready, out, dirs_exist_ok=True); answer(4)"
STOPPED = (
    "answer(2); signal.sigwait([signal.SIGTERM]); "
    "sys.exit('etui: stopped after 2 of 4 answers\\nresume with: etui bench --resume it')"
)


@pytest.fixture
def etui(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Lets a script answer in place of etui; returns the command lines so far."""
    put_damaged_file(house)
    made = replace(
        synthetic.config(("direct",), 2), suite="sample",
        sizes=dict.fromkeys(SUBJECTS, 100), drawn=dict.fromkeys(SUBJECTS, 2),
    )  # fmt: skip
    rows = synthetic.samples(made)
    ready = synthetic.write(tmp_path / "ready", made, rows)
    (ready / "summary.json").write_text(json.dumps(to_document(summarise(rows, made))))
    monkeypatch.setattr(measurements, "read_cpu_share", lambda: 0.05)

    def by(run: str = COMPLETE, price: Any = PRICE) -> list[tuple[str, ...]]:
        return answer_by(monkeypatch, FAKE.format(ready=str(ready), price=price, run=run), 0)

    return by


@asynccontextmanager
async def at_runs(house: House, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Terminal]:
    async with running(house, size) as term:
        await term.press("f5")
        await term.at(RunsScreen)
        yield term


async def choose(term: Terminal, **values: Any) -> None:
    """Open the dialog and take it with these values of its fields."""
    await term.press("n")
    await term.at(NewRunModal)
    await term.until(lambda: len(term.app.screen.query("SelectCurrent #label")) == 3)
    for name, value in values.items():
        field = term.app.screen.query_one(f"#{name}")
        assert isinstance(field, Select | Input)
        field.value = value
    await term.pilot.pause()
    await term.press("ctrl+s")


async def started(term: Terminal, **values: Any) -> None:
    await choose(term, **values)
    await term.at(ConfirmModal)
    await term.press("y")


def cells(term: Terminal, number: int = 0) -> str:
    table: DataTable[Any] = term.app.screen.query_one(DataTable)
    return " | ".join(str(cell) for cell in table.get_row_at(number)) if table.row_count else ""


async def test_a_run_is_priced_before_it_begins_and_ends_with_a_verdict(
    house: House, etui: Callable[..., Any]
) -> None:
    asked = etui()
    house.runner.held = ["another"]
    async with at_runs(house) as term:
        await choose(term, questions="4")
        await term.until(lambda: "Costs ≈20 J and takes about 2.00 s" in dialog(term))
        assert f"Run 4 questions of sample on {MODEL}?" in dialog(term)
        assert "(from 1 earlier run)" in dialog(term)
        assert "known to ± 49 points" in dialog(term)
        assert "Questions in the chat are refused" in dialog(term)
        assert "Unloads another" in dialog(term)
        options = ("--suite", "sample", "--model", MODEL, "--limit", "4")
        assert asked == [("bench", "--dry-run", "--json", "--quiet", *options)]
        assert house.runner.resting == []
        await term.press("y")
        await term.until(lambda: "| better than guessing" in cells(term))
        assert house.runner.resting == [f"a run of sample on {MODEL} is running"]
        *command, out = asked[-1]
        assert command == ["bench", "--jsonl", "--quiet", *options, "--out"]
        assert Path(out).parent == runs_dir(house.config)
        assert "sample-letters" in out
        assert f"sample on {MODEL}: direct: " in shown(term)


async def test_its_progress_is_shown_escape_stops_it_and_m_continues_it(
    house: House, etui: Callable[..., Any]
) -> None:
    asked = etui(STOPPED)
    async with at_runs(house) as term:
        await started(term)
        await term.until(lambda: f"running sample on {MODEL} … 2 of 4" in shown(term))
        await term.until(lambda: " J so far (Esc stops)" in shown(term))
        await term.until(lambda: "answers   2 of 4" in shown(term))
        await term.press("f6")
        await term.at(ModelsScreen)
        await term.until(lambda: f"running sample on {MODEL} … 2 of 4" in shown(term))
        await term.press("c")
        await term.told("is still running")
        await term.press("escape")
        await term.until(lambda: "kept: press m to continue it" in shown(term))
        await term.press("f5")
        await term.until(lambda: "not finished" in cells(term))
        await term.press("m")
        await term.until(lambda: "guessing" in cells(term))
        folder = next(runs_dir(house.config).iterdir())
        assert asked[-1] == ("bench", "--jsonl", "--quiet", "--resume", str(folder))


async def test_a_calibration_begins_here_and_is_in_the_list(
    house: House, etui: Callable[..., Any]
) -> None:
    etui()
    async with at_runs(house) as term:
        await started(term, kind="calibration")
        await term.until(lambda: f"calibrated {MODEL}: 8 points" in cells(term))
        assert "calibration" in cells(term)
        await term.press("o")
        await term.told("F6 shows its curve")


async def test_a_run_is_refused_while_the_chat_answers_and_says_why(
    house: House, etui: Callable[..., Any]
) -> None:
    etui()
    house.runner.refusal = EtuiError("an answer or a model load is running", "wait until it ends")
    async with at_runs(house) as term:
        await started(term)
        await term.told("an answer or a model load is running\n→ wait until it ends")
        assert list(house.config.home.glob("runs/*")) == []


async def test_leaving_the_app_stops_a_run(house: House, etui: Callable[..., Any]) -> None:
    etui(STOPPED)
    with no_process_left() as note:
        async with at_runs(house) as term:
            await started(term)
            await term.until(lambda: "2 of 4" in shown(term))
            note()
            await term.press("ctrl+q")
            await term.until(lambda: not term.app.is_running)


async def test_what_cannot_be_priced_is_said_and_a_policy_costs_a_range(
    house: House, etui: Callable[..., Any]
) -> None:
    etui(price=price(direct=None))
    async with at_runs(house, (80, 24)) as term:
        await choose(term)
        await term.until(lambda: "Joules and time are not known before" in dialog(term))
        await term.press("n")
        etui(price=price(direct=(20.0, 2.0), large=(200.0, 2.0)))
        await choose(term, who=("policy", "balanced"))
        await term.until(lambda: "Costs ≈20 J to ≈200 J" in dialog(term))
        assert "by the arms that the policy chooses" in dialog(term)
        await term.press("n")
        await choose(term, who=("policy", "balanced"), kind="sweep")
        await term.until(lambda: "a policy has no sweep: choose a model" in shown(term))
        assert not term.app.screen.query_one("#questions").region
        await term.press("escape")
        await choose(term, questions="0")
        await term.until(lambda: "a whole number from 1" in shown(term))


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 50)])
async def test_questions_and_chance_or_verdict_are_read_at_every_width(
    house: House, etui: Callable[..., Any], size: tuple[int, int]
) -> None:
    etui()
    async with at_runs(house, size) as term:
        await started(term)
        await term.until(lambda: "guessing" in shown(term) and cells(term))
        await term.sees("QUESTIONS", "RIGHT", "better than guessing")
        detail = str(term.app.screen.query_one("#run-detail Static", Static).content)
        assert "better than guessing" in detail
        assert "guessing gets 25.0 %" in detail


@pytest.mark.slow
async def test_the_starter_answers_the_sample_and_its_next_run_is_priced_by_it(
    house: House, starter_model: Path
) -> None:
    house.config = replace(house.config, models_dir=starter_model.parent)
    async with at_runs(house) as term:
        await started(term, questions="6")
        await term.until(lambda: "guessing" in cells(term) and "| 6 |" in cells(term))
        folder = next(runs_dir(house.config).iterdir())
        assert (folder / "report.html").is_file()
        await term.until(lambda: f"sample on {MODEL}: " in shown(term))
        await choose(term, questions="6")
        await term.until(lambda: f"Run 6 questions of sample on {MODEL}?" in dialog(term))


def test_lines_of_answers_are_counted_and_others_are_passed_over() -> None:
    state = RunState("t", "f", answers=4)
    assert state.after(b"no json", 1.0) is state
    assert state.after(b'{"event": "note"}', 1.0) is state
    for second in (1.0, 2.0, 3.0):
        state = state.after(b'{"correct": true}', second)
    assert state.progress.text == "running t … 3 of 4 · 100.0 % right · about 1.00 s left"
    assert NewRun("mmlu", "balanced", 9, "policy").options[2:4] == ("--policy", "balanced")

"""Sweeps from the models screen: planned, confirmed, followed, stopped, applied and reverted.

A script answers in place of ``etui sweep``, with the lines that it prints.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Footer, ProgressBar, Static

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.errors import EtuiError
from etui.models.catalogue import load_catalogue
from etui.models.spec import TunedSettings
from etui.models.tuned import load_tuned, save_tuned
from etui.tui.measurements import (
    SweepState,
)
from etui.tui.modals import ConfirmModal
from etui.tui.models._cards import SweepResults
from etui.tui.models._text import wrap_facts
from tests.tui.fakes import MODEL, House
from tests.tui.models_app import (
    answer_by,
    at_models,
    confirmed,
    dialog,
    no_process_left,
    put_damaged_file,
    shown,
)
from tests.tui.screen import Terminal

VERDICT = "threads=1 saves 18 % [16, 20] of the joules and costs 4 % [3, 5] of the time"
RESULT = {
    "id": "20261125-190000-smollm2-135m-3f9a",
    "created": "2026-11-25T19:00:00+00:00",
    "model": MODEL,
    "verdict": VERDICT,
    "is_complete": True,
    "baseline": "threads=2",
    "best": "threads=1",
    "settings": [],
}
PLAN = {
    "model": MODEL,
    "settings": ["threads=2", "threads=1"],
    "axes": {"threads": [1, 2]},
    "workload": "chat",
    "seconds": 540.0,
    "notes": ["left out 4 combinations: kv_type=q8_0 needs flash attention"],
}
BEGUN = {
    "event": "begun", "sweep": RESULT["id"], "folder": "/sweeps/one", "model": MODEL,
    "settings": ["threads=2", "threads=1", "threads=4"], "baseline": "threads=2", "blocks": 0,
    "blocks_left": 14, "seconds_left": 540.0,
}  # fmt: skip
BLOCK = {
    "event": "block", "stage": "race", "block": 5, "blocks_left": 9, "remaining": 2,
    "best": "threads=1", "seconds_left": 240.0, "joules": 100.0,
}  # fmt: skip
DROPPED = {"event": "dropped", "setting": "threads=4", "reason": "12 % more joules"}

FAKE = """
import json, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
arguments = sys.argv[1:]

def say(**fields):
    print(json.dumps(fields), flush=True)

if "--dry-run" in arguments:
    {plan}
elif "--apply" in arguments:
    {apply}
elif "--jsonl" in arguments:
    {measure}
"""
EVENTS = f"say(**{BEGUN!r}); say(**{BLOCK!r}); say(**{DROPPED!r}); "
STOPPED = (
    EVENTS
    + "signal.sigwait([signal.SIGTERM]); "
    + f"say(**{dict(RESULT, event='result', is_complete=False)!r}); "
    + "sys.exit(3)"
)
COMPLETE = EVENTS + f"say(**{dict(RESULT, event='result')!r})"
REFUSED = (
    "sys.exit('etui: the machine is not at rest: the CPUs are busy\\nmeasure with --force') "
    f"if '--force' not in arguments else say(**{dict(RESULT, event='result')!r})"
)
APPLIED = {"model": MODEL, "applied": {"values": {"threads": 1}}, "why": VERDICT}


@pytest.fixture
def here(house: House) -> House:
    return put_damaged_file(house)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a script answer in place of ``etui sweep``; returns the command lines so far."""

    def by(measure: str = COMPLETE, plan: str = f"say(**{PLAN!r})", apply: str = "") -> Any:
        script = FAKE.format(plan=plan, apply=apply or f"say(**{APPLIED!r})", measure=measure)
        return answer_by(monkeypatch, script, 1)

    return by


def write_result(config: Config, name: str = "20261125-190000-one", **changes: Any) -> Path:
    folder = config.home / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({**RESULT, **changes}))
    (folder / "report.html").write_text("<html></html>")
    return folder


def tune(config: Config, sweep: str = str(RESULT["id"])) -> None:
    save_tuned(config, TunedSettings(
        MODEL, load_catalogue(config).get(MODEL).sha256 or "", machine_name(), {"threads": 1},
        {"threads": "auto"}, sweep, "2026-11-25T19:30:00+00:00", "joules", VERDICT,
    ))  # fmt: skip


def facts(term: Terminal) -> str:
    """The facts without their line breaks."""
    text = str(term.app.screen.query_one("#model-facts Static", Static).content)
    return " ".join(text.split())


def offered(term: Terminal) -> set[str]:
    """The names of the keys in the footer."""
    keys = term.app.screen.query_one(Footer).query("FooterKey")
    return {str(getattr(key, "description", "")) for key in keys}


async def test_a_sweep_is_planned_and_begins_only_when_confirmed(here: House, sweeps: Any) -> None:
    asked = sweeps()
    here.runner.held = ["another"]
    async with at_models(here) as term:
        await term.press("s")
        await term.until(lambda: "questions are refused until it ends" in dialog(term))
        assert f"Sweep {MODEL}" in dialog(term)
        assert "threads: 1, 2" in dialog(term)
        assert "left out 4 combinations" in dialog(term)
        assert "2 settings, workload chat, about 9 min" in dialog(term)
        await term.press("n")
        await term.until(lambda: "nothing was measured" in shown(term))
        assert asked == [("--dry-run", "--json", MODEL)]
        assert here.runner.resting == []
        await confirmed(term, "s")
        await term.until(
            lambda: f"swept {MODEL}, a applies the best setting: {VERDICT}" in shown(term)
        )
        assert here.runner.held == []
        assert here.runner.resting == [f"a sweep of {MODEL} is running"]
        assert asked[-1] == ("--jsonl", MODEL)
        assert not any("--cap" in arguments for arguments in asked)
        assert "Sweep running" not in facts(term)


async def test_its_progress_is_on_the_card_and_escape_stops_it(here: House, sweeps: Any) -> None:
    sweeps(STOPPED)
    async with at_models(here) as term:
        await confirmed(term, "s")
        await term.until(lambda: "12 % more joules" in facts(term))
        await term.until(lambda: " J so far (Esc stops)" in shown(term))
        assert "race: all settings that are left" in facts(term)
        assert "blocks 5 of about 14" in facts(term)
        assert "settings 2 of 3 left" in facts(term)
        assert "best threads=1 so far" in facts(term)
        assert "about 4 min" in facts(term)
        bar = term.app.screen.query_one("#job-bar", ProgressBar)
        assert (bar.display, bar.progress, bar.total) == (True, 5, 14)
        await term.press("s")
        await term.told("Esc stops it")
        await term.press("escape")
        await term.until(lambda: "what was measured is kept: press s to resume" in shown(term))
        assert "Sweep running" not in facts(term)


async def test_leaving_the_app_stops_a_sweep(here: House, sweeps: Any) -> None:
    sweeps(STOPPED)
    with no_process_left() as note:
        async with at_models(here) as term:
            await confirmed(term, "s")
            await term.until(lambda: "block 5 of about 14" in shown(term))
            note()
            await term.press("ctrl+q")
            await term.until(lambda: not term.app.is_running)


async def test_a_machine_at_work_is_swept_only_when_confirmed_again(
    here: House, sweeps: Any
) -> None:
    asked = sweeps(REFUSED)
    async with at_models(here) as term:
        await confirmed(term, "s")
        await term.until(lambda: "the CPUs are busy" in dialog(term))
        await term.press("y")
        await term.until(lambda: f"swept {MODEL}" in shown(term))
        assert asked[-1] == ("--jsonl", MODEL, "--force")


async def test_errors_are_told_with_their_fix(here: House, sweeps: Any) -> None:
    sweeps(plan="sys.exit('etui: m has one combination only\\nadd values with --axis')")
    async with at_models(here) as term:
        await term.press("s")
        await term.told("m has one combination only\n→ add values with --axis")
        sweeps("sys.exit('etui: the meter failed\\nsee etui doctor')")
        await confirmed(term, "s")
        await term.told("the meter failed")
        here.runner.refusal = EtuiError("an answer or a load is on its way", "wait for its end")
        await confirmed(term, "s")
        await term.told("an answer or a load is on its way")
        sweeps(plan="print('no plan')")
        await term.press("s")
        await term.told("the plan of the sweep cannot be read")


async def test_a_model_without_a_file_is_not_swept(house: House, sweeps: Any) -> None:
    asked = sweeps()
    async with at_models(house) as term:
        await term.press("s")
        await term.told("p pulls it")
        assert asked == []


async def test_the_last_sweep_is_on_the_card_and_a_applies_it(here: House, sweeps: Any) -> None:
    folder = write_result(here.config)
    asked = sweeps()
    async with at_models(here, (140, 40)) as term:
        await term.until(lambda: VERDICT in facts(term))
        assert "a applies the best setting" in facts(term)
        assert "report.html" in facts(term).replace(" ", "")  # a long path is wrapped
        assert offered(term) >= {"Apply"}
        assert "Revert" not in offered(term)
        await term.press("a")
        await term.until(lambda: f"applied to {MODEL}: {VERDICT}" in shown(term))
        assert asked == [("--apply", str(folder), "--json")]
        tune(here.config)
        await term.press("r")
        await term.until(lambda: "tuned threads=1" in facts(term))
        assert "a applies" not in facts(term)
        assert ", applied" in facts(term)
        assert facts(term).count(VERDICT) == 1
        assert "Apply" not in offered(term)
        assert offered(term) >= {"Revert"}
        await term.press("R")
        await term.until(lambda: "uses the settings of models.yaml again" in shown(term))
        assert load_tuned(here.config) == ()
        await term.until(lambda: "Revert" not in offered(term))


async def test_the_keys_and_the_dialog_fit_a_small_terminal_in_ascii(
    here: House, sweeps: Any
) -> None:
    sweeps(STOPPED)
    here.config = replace(here.config, ascii="always")
    async with at_models(here, (80, 24)) as term:
        keys = {str(getattr(k, "description", "")): k for k in term.app.screen.query("FooterKey")}
        assert keys["Sweep"].region.right <= 80
        assert keys["Help"].region.right <= 80
        assert "Stop" not in offered(term)  # there is nothing to stop
        await term.pilot.click(keys["Sweep"])
        await term.at(ConfirmModal)
        box = term.app.screen.query_one(".box")
        assert box.region.height <= 24
        assert term.app.screen.query_one(".help").region.bottom <= box.region.bottom
        await term.press("y")
        await term.until(lambda: "blocks 5 of about 14" in facts(term))
        assert "Stop" in offered(term)


async def test_what_cannot_be_applied_or_reverted_is_told(here: House, sweeps: Any) -> None:
    write_result(here.config)
    nothing = {"model": MODEL, "applied": None, "why": "no setting beats the one in use"}
    sweeps(apply=f"say(**{nothing!r})")
    async with at_models(here) as term:
        screen = term.app.screen
        await term.until(lambda: VERDICT in facts(term))
        await term.press("a")
        await term.until(lambda: "no setting beats the one in use" in shown(term))
        sweeps(apply="sys.exit('etui: the file is another one\\nsweep it again')")
        await term.press("a")
        await term.told("→ sweep it again")
        screen.action_revert()
        await term.told("has the settings of models.yaml")
        await term.press("down")
        screen.action_apply_sweep()
        await term.told("s starts a sweep")
        here.config.tuned_file.write_text("{")
        await term.press("r")
        await term.told("tuned.json")


@pytest.mark.parametrize(
    "line",
    [b"", b"no json", b"[1]", b'{"event": "begun"}', b'{"event": 1}', b'{"event": "ask_cap"}',
     b'{"event": "block", "stage": 7}', b"\xff"],
)  # fmt: skip
def test_other_lines_are_passed_over(line: bytes) -> None:
    assert SweepState(MODEL).after(line) == SweepState(MODEL)


def after(*lines: dict[str, Any]) -> SweepState:
    state = SweepState(MODEL)
    for line in lines:
        state = state.after(json.dumps(line).encode())
    return state


def test_answers_of_a_suite_are_progress_too() -> None:
    answered = {"event": "answered", "done": 30, "answers": 200}
    progress = after(BEGUN, BLOCK, answered).progress
    assert (progress.done, progress.total) == (30, 200)
    assert "answer 30 of 200" in progress.text
    assert "answers   30 of 200" in progress.details


def test_only_the_newest_drops_and_notes_are_shown() -> None:
    lines = [{"event": "dropped", "setting": f"threads={n}", "reason": "worse"} for n in range(5)]
    notes = [{"event": "note", "text": f"note {n}"} for n in range(5)]
    details = after(*lines, *notes).progress.details
    assert [line for line in details if line.startswith("dropped")] == [
        f"dropped   threads={number}: worse" for number in (2, 3, 4)
    ]
    assert details[-1] == "note      note 4"


def test_the_newest_result_of_a_model_counts_and_damaged_ones_do_not(config: Config) -> None:
    results = SweepResults(config.home / "sweeps")
    assert results.find_last() == {}
    write_result(config, "20261125-1")
    newest = write_result(config, "20261126-1", best="threads=2")
    write_result(config, "20261127-1", is_complete="perhaps")
    found = results.find_last()[MODEL]
    assert found.folder == str(newest)
    assert not found.is_better, "the best is the baseline"
    unclaimed = {"best": "threads=1", "is_best_claimed": False}
    (newest / "result.json").write_text(json.dumps({**RESULT, **unclaimed}))
    assert not results.find_last()[MODEL].is_better
    (newest / "result.json").write_text(json.dumps({**RESULT, "is_complete": False}))
    assert not results.find_last()[MODEL].is_complete
    (newest / "result.json").unlink()
    assert Path(results.find_last()[MODEL].folder).name == "20261125-1"


def test_long_facts_are_wrapped_below_their_text() -> None:
    lines = ["a title that is longer than the pane", "label     " + "word " * 8]
    assert list(wrap_facts(lines, 34)) == [
        lines[0],
        "label     word word word word word",
        "          word word word",
    ]
    assert list(wrap_facts(lines, 10)) == lines

"""Sweeps from the models screen: planned, confirmed, followed, stopped, applied and reverted.

A script answers in place of ``etui sweep``, with the lines that it prints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Footer, ProgressBar, Static

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.errors import EtuiError
from etui.models.catalogue import load_catalogue
from etui.models.spec import TunedSettings
from etui.models.tuned import load_tuned, save_tuned
from etui.tui import jobs
from etui.tui.modals import ConfirmModal
from etui.tui.models._cards import SweepResults
from etui.tui.models._jobs import (
    SweepState,
    advance,
    build_progress,
    describe_state,
    parse_line,
)
from etui.tui.models._text import wrap_facts
from etui.tui.models.screen import ModelsScreen
from etui.tui.start import EtuiApp
from tests.tui.fakes import DEADLINE_SECONDS, MODEL, House, until
from tests.tui.models.test_screen import notices, opened, shown

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
    """The starter's file is there, damaged; the fakes do not read it."""
    house.config.models_dir.mkdir(parents=True, exist_ok=True)
    (house.config.models_dir / f"{MODEL}.gguf").write_bytes(b"GGUF and no more")
    return house


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a script answer in place of ``etui sweep``; returns the command lines so far."""
    asked: list[tuple[str, ...]] = []

    def by(measure: str = COMPLETE, plan: str = f"say(**{PLAN!r})", apply: str = "") -> Any:
        script = FAKE.format(plan=plan, apply=apply or f"say(**{APPLIED!r})", measure=measure)

        def command(_sweep: str, *arguments: str) -> list[str]:
            asked.append(arguments)
            return [sys.executable, "-c", script, *arguments]

        monkeypatch.setattr(jobs, "command", command)
        return asked

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


async def confirmed(pilot: Pilot[Any], app: EtuiApp) -> None:
    """Start a sweep of the model under the cursor and say yes."""
    await pilot.press("s")
    await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
    await pilot.press("y")


def dialog(app: EtuiApp) -> str:
    """The text of the open dialog; empty without one."""
    if not isinstance(app.screen, ConfirmModal):
        return ""
    return " ".join(str(line.content) for line in app.screen.query(Static))


def facts(screen: ModelsScreen) -> str:
    """The facts without their line breaks."""
    text = str(screen.query_one("#model-facts Static", Static).content)
    return " ".join(text.split())


async def test_a_sweep_is_planned_and_begins_only_when_confirmed(here: House, sweeps: Any) -> None:
    asked = sweeps()
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("s")
        await until(pilot, lambda: "questions are refused until it ends" in dialog(app))
        assert f"Sweep {MODEL}" in dialog(app)
        assert "threads: 1, 2" in dialog(app)
        assert "left out 4 combinations" in dialog(app)
        assert "2 settings, workload chat, about 9 min" in dialog(app)
        await pilot.press("n")
        await until(pilot, lambda: "nothing was measured" in shown(screen))
        assert asked == [("--dry-run", "--json", MODEL)]
        assert here.runner.resting == []


async def test_a_sweep_is_followed_to_its_verdict(here: House, sweeps: Any) -> None:
    asked = sweeps()
    here.runner.held = ["another"]
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(
            pilot, lambda: f"swept {MODEL}, a applies the best setting: {VERDICT}" in shown(screen)
        )
        assert here.runner.held == []
        assert here.runner.resting == [f"a sweep of {MODEL} is running"]
        assert asked[-1] == ("--jsonl", MODEL)
        assert not any("--cap" in arguments for arguments in asked)
        assert "Sweep running" not in facts(screen)


async def test_its_progress_is_on_the_card_and_escape_stops_it(here: House, sweeps: Any) -> None:
    sweeps(STOPPED)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "12 % more joules" in facts(screen))
        await until(pilot, lambda: " J so far (Esc stops)" in shown(screen))
        assert "race: all settings that are left" in facts(screen)
        assert "blocks 5 of about 14" in facts(screen)
        assert "settings 2 of 3 left" in facts(screen)
        assert "best threads=1 so far" in facts(screen)
        assert "about 4 min" in facts(screen)
        bar = screen.query_one("#job-bar", ProgressBar)
        assert (bar.display, bar.progress, bar.total) == (True, 5, 14)
        await pilot.press("s")
        await until(pilot, lambda: "Esc stops it" in notices(app))
        await pilot.press("escape")
        await until(pilot, lambda: "what was measured is kept: press s to resume" in shown(screen))
        assert "Sweep running" not in facts(screen)


async def test_leaving_the_app_stops_a_sweep(here: House, sweeps: Any) -> None:
    sweeps(STOPPED)
    before = set(psutil.Process().children())
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "block 5 of about 14" in shown(screen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    started = set(psutil.Process().children()) - before
    _gone, alive = psutil.wait_procs(started, timeout=DEADLINE_SECONDS)
    assert alive == []


async def test_a_machine_at_work_is_swept_only_when_confirmed_again(
    here: House, sweeps: Any
) -> None:
    asked = sweeps(REFUSED)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "the CPUs are busy" in dialog(app))
        await pilot.press("y")
        await until(pilot, lambda: f"swept {MODEL}" in shown(screen))
        assert asked[-1] == ("--jsonl", MODEL, "--force")


async def test_errors_are_told_with_their_fix(here: House, sweeps: Any) -> None:
    sweeps(
        plan="sys.exit('etui: m has one combination only\\nadd values with --axis')",
    )
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("s")
        await until(pilot, lambda: "m has one combination only" in notices(app))
        assert "→ add values with --axis" in notices(app)
        sweeps("sys.exit('etui: the meter failed\\nsee etui doctor')")
        await confirmed(pilot, app)
        await until(pilot, lambda: "the meter failed" in notices(app))
        here.runner.refusal = EtuiError("an answer or a load is on its way", "wait for its end")
        await confirmed(pilot, app)
        await until(pilot, lambda: "an answer or a load is on its way" in notices(app))
        sweeps(plan="print('no plan')")
        await pilot.press("s")
        await until(pilot, lambda: "the plan of the sweep cannot be read" in notices(app))


async def test_a_model_without_a_file_is_not_swept(house: House, sweeps: Any) -> None:
    asked = sweeps()
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("s")
        await until(pilot, lambda: "p pulls it" in notices(app))
        assert asked == []


async def test_the_last_sweep_is_on_the_card_and_a_applies_it(here: House, sweeps: Any) -> None:
    folder = write_result(here.config)
    asked = sweeps()
    app = here.app()
    async with app.run_test(size=(140, 40)) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: VERDICT in facts(screen))
        assert "a applies the best setting" in facts(screen)
        assert "report.html" in facts(screen).replace(" ", "")  # a long path is wrapped
        assert offered(app) >= {"Apply"}
        assert "Revert" not in offered(app)
        await pilot.press("a")
        await until(pilot, lambda: f"applied to {MODEL}: {VERDICT}" in shown(screen))
        assert asked == [("--apply", str(folder), "--json")]
        tune(here.config)
        await pilot.press("r")
        await until(pilot, lambda: "tuned threads=1" in facts(screen))
        assert "a applies" not in facts(screen)
        assert ", applied" in facts(screen)
        assert facts(screen).count(VERDICT) == 1
        assert "Apply" not in offered(app)
        assert offered(app) >= {"Revert"}
        await pilot.press("R")
        await until(pilot, lambda: "uses the settings of models.yaml again" in shown(screen))
        assert load_tuned(here.config) == ()
        await until(pilot, lambda: "Revert" not in offered(app))


async def test_a_click_in_the_footer_starts_a_sweep(here: House, sweeps: Any) -> None:
    sweeps()
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        key = next(k for k in screen.query("FooterKey") if getattr(k, "action", "") == "sweep")
        await pilot.click(key)
        await until(pilot, lambda: isinstance(app.screen, ConfirmModal))


async def test_the_keys_and_the_dialog_fit_a_small_terminal_in_ascii(
    here: House, sweeps: Any
) -> None:
    sweeps(STOPPED)
    here.config = here.config.__class__(
        **{**{f: getattr(here.config, f) for f in here.config.__slots__}, "ascii": "always"}
    )
    app = here.app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, app)
        sweep_key = next(
            k for k in screen.query("FooterKey") if getattr(k, "action", "") == "sweep"
        )
        assert sweep_key.region.right <= 80
        help_key = next(k for k in screen.query("FooterKey") if k.description == "Help")
        assert help_key.region.right <= 80
        assert "Stop" not in offered(app)  # there is nothing to stop
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
        box = app.screen.query_one(".box")
        assert box.region.height <= 24
        assert app.screen.query_one(".help").region.bottom <= box.region.bottom
        await pilot.press("y")
        await until(pilot, lambda: "blocks 5 of about 14" in facts(screen))
        assert "Stop" in offered(app)


async def test_what_cannot_be_applied_or_reverted_is_told(here: House, sweeps: Any) -> None:
    write_result(here.config)
    nothing = {"model": MODEL, "applied": None, "why": "no setting beats the one in use"}
    sweeps(apply=f"say(**{nothing!r})")
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: VERDICT in facts(screen))
        await pilot.press("a")
        await until(pilot, lambda: "no setting beats the one in use" in shown(screen))
        sweeps(apply="sys.exit('etui: the file is another one\\nsweep it again')")
        await pilot.press("a")
        await until(pilot, lambda: "→ sweep it again" in notices(app))
        screen.action_revert()
        await until(pilot, lambda: "has the settings of models.yaml" in notices(app))
        await pilot.press("down")
        screen.action_apply_sweep()
        await until(pilot, lambda: "s starts a sweep" in notices(app))


async def test_a_damaged_file_of_tuned_settings_is_told(here: House) -> None:
    here.config.tuned_file.write_text("{")
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await until(pilot, lambda: "tuned.json" in notices(app))


def offered(app: EtuiApp) -> set[str]:
    """The names of the keys in the footer."""
    keys = app.screen.query_one(Footer).query("FooterKey")
    return {str(getattr(key, "description", "")) for key in keys}


@pytest.mark.parametrize(
    "line",
    [b"", b"no json", b"[1]", b'{"event": "begun"}', b'{"event": 1}', b'{"event": "ask_cap"}',
     b'{"event": "block", "stage": 7}', b"\xff"],
)  # fmt: skip
def test_other_lines_are_passed_over(line: bytes) -> None:
    assert parse_line(line) is None


def test_answers_of_a_suite_are_progress_too() -> None:
    state = SweepState(MODEL)
    for fields in (BEGUN, BLOCK, {"event": "answered", "done": 30, "answers": 200}):
        event = parse_line(json.dumps(fields).encode())
        assert event is not None
        state = advance(state, event)
    progress = build_progress(state)
    assert (progress.done, progress.total) == (30, 200)
    assert "answer 30 of 200" in progress.text
    assert "answers   30 of 200" in describe_state(state)


def test_only_the_newest_drops_and_notes_are_shown() -> None:
    state = SweepState(MODEL)
    for number in range(5):
        for fields in (
            {"event": "dropped", "setting": f"threads={number}", "reason": "worse"},
            {"event": "note", "text": f"note {number}"},
        ):
            event = parse_line(json.dumps(fields).encode())
            assert event is not None
            state = advance(state, event)
    lines = describe_state(state)
    assert [line for line in lines if line.startswith("dropped")] == [
        f"dropped   threads={number}: worse" for number in (2, 3, 4)
    ]
    assert lines[-1] == "note      note 4"


def test_the_newest_result_of_a_model_counts_and_damaged_ones_do_not(config: Config) -> None:
    results = SweepResults(config.home / "sweeps")
    assert results.find_last() == {}
    write_result(config, "20261125-1")
    newest = write_result(config, "20261126-1", best="threads=2")
    write_result(config, "20261127-1", is_complete="perhaps")
    found = results.find_last()[MODEL]
    assert found.folder == newest
    assert not found.is_better, "the best is the baseline"
    unclaimed = {"best": "threads=1", "is_best_claimed": False}
    (newest / "result.json").write_text(json.dumps({**RESULT, **unclaimed}))
    assert not results.find_last()[MODEL].is_better
    (newest / "result.json").write_text(json.dumps({**RESULT, "is_complete": False}))
    assert not results.find_last()[MODEL].is_complete
    (newest / "result.json").unlink()
    assert results.find_last()[MODEL].folder.name == "20261125-1"


def test_long_facts_are_wrapped_below_their_text() -> None:
    lines = ["a title that is longer than the pane", "label     " + "word " * 8]
    assert list(wrap_facts(lines, 34)) == [
        lines[0],
        "label     word word word word word",
        "          word word word",
    ]
    assert list(wrap_facts(lines, 10)) == lines

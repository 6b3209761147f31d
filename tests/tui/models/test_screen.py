"""The models screen: what is there, and what its keys do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import DataTable, ProgressBar, Static

from etui.config.backend_spec import BackendSpec
from etui.energy.types import Energy
from etui.errors import DownloadFailed, EtuiError
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.found import FoundModel
from etui.models.spec import ModelSampling, ModelSpec, OwnSettings
from etui.tui import measurements as measuring
from etui.tui.jobs import AppJob, JobProgress
from etui.tui.models._cards import CardReader, Cards, ModelCard
from etui.tui.models._text import fact_lines
from etui.tui.models.screen import OwnSettingsModal
from tests.contract.tiny_model import write_tiny_model
from tests.fixtures.turns import TURN
from tests.log.idle_log import write_baselines, write_residence
from tests.log.test_curve_rows import CURVE
from tests.models.test_gguf import UNUSABLE
from tests.tui.fakes import MODEL, WATTS, FakeMeter, House
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

SAY = """
import json, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def say(**fields):
    print(json.dumps(fields), flush=True)
"""
MEASURES = (
    SAY
    + """
points = dict(model="m", points=9, seconds_left=4.0,
              next=dict(prompt_tokens=128, output_tokens=64))
say(event="begun", done=0, **points)
say(event="measured", done=1, **points)
"""
)
COMPLETE = MEASURES + 'say(event="curve", status="complete", n=8, r2_decode=0.97)'
REFUSED = (
    SAY
    + """
if "--force" in sys.argv:
    say(event="curve", status="complete", n=8, r2_decode=0.5)
else:
    sys.exit("etui: the machine is not at rest: the CPUs are busy\\nmeasure with --force")
"""
)
STOPPED = (
    MEASURES
    + """
signal.sigwait([signal.SIGTERM])
say(event="curve", status="stopped", n=6, r2_decode=0.9)
sys.exit(3)
"""
)
BROKEN = 'import sys; sys.exit("etui: m is not on this machine\\nrun: etui models pull m")'


@pytest.fixture
def here(house: House) -> House:
    return put_damaged_file(house)


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a script measure in place of ``etui calibrate``."""

    def by(script: str, cpu_share: float = 0.05) -> None:
        monkeypatch.setattr(measuring, "read_cpu_share", lambda: cpu_share)
        answer_by(monkeypatch, script, 3)

    return by


def row(term: Terminal, name: str = MODEL) -> list[str]:
    table = term.app.screen.query_one(DataTable)
    rows = [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]
    for cells in rows:
        cells[0] = cells[0].removesuffix(" ★")
    return next((cells for cells in rows if cells[0] == name), [])


async def test_every_entry_is_there_with_what_it_needs_and_its_curve(house: House) -> None:
    spec = load_catalogue(house.config).get(MODEL)
    with TurnWriter(house.config) as writer:
        writer.save_turn(replace(TURN, model=MODEL))
        writer.save_curve(replace(CURVE, model=MODEL, model_sha256=spec.sha256))
    async with at_models(house, (140, 40)) as term:
        name, where, size, *_forecast, good_for, curve = row(term)
        assert (name, where, size) == (MODEL, "not on disk", "98.4 MB")
        assert "tiny demo" in good_for
        assert "needs 415 MB, " in " ".join(shown(term).split())
        assert curve.startswith("measured ")
        assert curve.endswith("R² 0.980")
        assert row(term, "qwen3-8b")[-1] == "no"
        await term.until(lambda: "output tokens" in shown(term))
        assert "turns off the grid: 4 % mean error" in shown(term)
        details = " ".join(shown(term).split())
        for fact in ("spent for answers: 12.34 ± 0.41 J", "answers 1,", "used last on 2026-11-2"):
            assert fact in details


async def test_the_system_prompt_and_the_sampling_of_a_model_are_set(house: House) -> None:
    async with at_models(house, (80, 24)) as term:
        await term.until(lambda: row(term) != [])
        await term.press("e")
        modal = await term.at(OwnSettingsModal)
        name = str(modal.query_one(".title", Static).content).removeprefix("Settings of ")
        await term.sees("system prompt", "temperature", "presence_penalty")
        await term.press(*"Be brief.", "tab", *"0.2")
        await term.press("ctrl+s")
        await term.told(f"{name}: its next answers use these settings")
        own = load_catalogue(house.config).get(name).own
        assert own == OwnSettings("Be brief.", ModelSampling(temperature=0.2))
        await term.press("e")
        modal = await term.at(OwnSettingsModal)
        await term.until(lambda: modal._system.text == "Be brief.")
        await term.press("tab", "9", "ctrl+s")
        await term.told("temperature")
        await term.until(lambda: not isinstance(term.app.screen, OwnSettingsModal))
        assert load_catalogue(house.config).get(name).own == own


def test_the_facts_name_the_draft_model() -> None:
    spec = ModelSpec("m", "tiny", (), draft="small", speculate="auto")
    card = ModelCard(spec, Path("m.gguf"), "absent", None)
    lines = list(fact_lines(card, Cards((card,)), resident=False))
    assert "speculate auto, drafts from small" in lines


async def test_a_model_of_another_machine_has_nothing_to_pull_or_to_load(house: House) -> None:
    config = replace(house.config, backends={"desk": BackendSpec("desk", "http://127.0.0.1:9/v1")})
    config.models_file.write_text("models: {far: {backend: desk, remote_name: big}}")
    house.config = config
    async with at_models(house, (140, 40)) as term:
        assert row(term, "far")[1] == "on desk"
        cards = term.app.screen._cards
        card = next(card for card in cards.models if card.spec.name == "far")
        lines = list(fact_lines(card, cards, resident=False))
        assert "          as big; nothing to pull or to load here" in lines


async def test_a_damaged_file_says_so_and_one_that_is_removed_is_gone(here: House) -> None:
    async with at_models(here) as term:
        assert row(term)[1] == "damaged"
        await term.until(lambda: f"press p to pull {MODEL} again" in shown(term))
        (here.config.models_dir / f"{MODEL}.gguf").unlink()
        await term.press("r")
        await term.until(lambda: row(term)[1] == "not on disk")
        await term.press("l")
        await term.told("p pulls it")


@pytest.mark.parametrize("name", UNUSABLE)
async def test_a_header_that_aborts_llama_cpp_is_shown_as_damaged(house: House, name: str) -> None:
    changes, says = UNUSABLE[name]
    house.config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(house.config.models_dir / f"{MODEL}.gguf", changes=changes)
    async with at_models(house, (140, 40)) as term:
        assert row(term)[1] == "damaged"
        await term.until(lambda: says in shown(term))


async def test_p_pulls_with_progress_and_escape_stops_it(house: House) -> None:
    async with at_models(house) as term:
        bar = term.app.screen.query_one("#job-bar", ProgressBar)
        await term.press("p")
        await term.until(lambda: bar.display and bar.progress == 98_000_000)
        assert f"pulling {MODEL}" in shown(term)
        await term.press("v", "p")
        await term.told("Esc stops it")
        await term.press("escape")
        await term.until(lambda: "press p to resume it" in shown(term))
        assert not bar.display
        house.shelf.go_on.set()
        house.shelf.error = DownloadFailed("the disk of /models is full", "free some room")
        await term.press("p")
        await term.told("→ free some room")
        assert "✗ the disk of /models is full" in shown(term)
        house.shelf.error = None
        await term.press("p")
        await term.until(lambda: f"{MODEL} is downloaded and verified" in shown(term))
        assert house.shelf.pulled == [MODEL]


async def test_models_come_into_memory_leave_it_and_are_checked(here: House) -> None:
    async with at_models(here) as term:
        await term.press("l")
        await term.until(lambda: f"loaded {MODEL} in 0.40 s" in shown(term))
        assert here.runner.held == [MODEL]
        await term.press("u")
        await term.until(lambda: f"unloaded {MODEL}" in shown(term))
        assert here.runner.held == []
        here.runner.refusal = EtuiError("an answer or a load is on its way", "wait for its end")
        await term.press("u")
        await term.told("→ wait for its end")
        await term.press("v")
        await term.until(lambda: "checking the sha256" in shown(term))
        here.shelf.go_on.set()
        await term.until(lambda: "sha256 abababababababab… (as expected)" in shown(term))


async def test_the_cost_of_keeping_warm_and_the_way_back_to_cold_are_shown(here: House) -> None:
    spec = load_catalogue(here.config).get(MODEL)
    write_baselines(here.config, MODEL)
    here.runner.held = [MODEL]
    async with at_models(here, (160, 48)) as term:
        await term.until(
            lambda: "45.0 ± 0.4 W with it in memory, 10.0 ± 0.2 W without" in shown(term)
        )
        assert "break-even" not in shown(term), "no load is in the log"
        write_residence(here.config, 1_795_000_000.0, MODEL, sha256=spec.sha256)
        here.runner.held.clear()
        here.runner.cooled += 1  # the screen notices by itself
        await term.until(lambda: "after the last unload: as without a model" in shown(term))
        await term.until(lambda: "break-even 8.57 s (7.83-9.31 s)" in shown(term))
        assert "in memory after an answer: always" in shown(term)
        assert "unload    45.2 W idle before, 10.1 W after: as without a model" in shown(term)


@pytest.mark.parametrize("key", ["c", "C"])
async def test_nothing_is_given_up_before_a_calibration_is_confirmed(
    here: House, measure: Any, key: str
) -> None:
    measure(COMPLETE)
    here.runner.held = ["another"]
    async with at_models(here) as term:
        await term.press(key)
        await term.until(lambda: "questions are refused until it ends" in dialog(term))
        assert "Unloads another." in dialog(term)
        assert "busy" not in dialog(term)
        await term.press("n")
        await term.until(lambda: "nothing was measured" in shown(term))
        assert here.runner.held == ["another"]
        assert here.runner.resting == []
        await confirmed(term, key)
        await term.until(lambda: "calibrated smollm2-135m: 8 points, R² 0.970" in shown(term))
        assert here.runner.held == []
        assert here.runner.resting == [f"a calibration of {MODEL} is running"]


async def test_a_busy_machine_is_said_in_a_question_that_fits_a_small_terminal(
    here: House, measure: Any
) -> None:
    measure(REFUSED, cpu_share=0.6)
    async with at_models(here, (40, 10)) as term:
        await term.press("c")
        await term.until(lambda: "The CPUs are busy (60 %)" in dialog(term))
        await term.until(lambda: "the curve will be too" in " ".join(term.drawn.split()))
        assert "y Yes" in " ".join(term.drawn.split())
        await term.pilot.resize_terminal(120, 36)
        await term.press("y")  # the command is forced and does not ask a second time
        await term.until(lambda: "calibrated smollm2-135m: 8 points, R² 0.500" in shown(term))


async def test_a_machine_at_work_is_measured_only_when_confirmed(here: House, measure: Any) -> None:
    measure(REFUSED)
    async with at_models(here) as term:
        await confirmed(term, "c")
        await term.until(lambda: "the machine is not at rest" in dialog(term))
        await term.press("y")
        await term.until(lambda: "calibrated smollm2-135m: 8 points, R² 0.500" in shown(term))


async def test_a_calibration_is_refused_during_an_answer_and_its_errors_are_told(
    here: House, measure: Any
) -> None:
    measure(BROKEN)
    async with at_models(here) as term:
        here.runner.busy = True
        await term.press("c")
        await term.told("an answer or a model load is running")
        here.runner.busy = False
        await confirmed(term, "c")
        await term.told("m is not on this machine\n→ run: etui models pull m")
        here.runner.refusal = EtuiError("an answer or a load is on its way", "wait for its end")
        await confirmed(term, "c")
        await term.told("an answer or a load is on its way")


@pytest.mark.parametrize("key", ["c", "C"])
async def test_a_calibration_shows_its_joules_its_bar_and_what_is_measured(
    here: House, measure: Any, key: str
) -> None:
    measure(STOPPED)
    async with at_models(here) as term:
        await confirmed(term, key)
        await term.until(lambda: "1 of 9, about 4.00 s left" in shown(term))
        assert "measuring 128 prompt tokens, 64 output tokens" in shown(term)
        bar = term.app.screen.query_one("#job-bar", ProgressBar)
        await term.until(lambda: (bar.progress, bar.total) == (1, 9))
        await term.until(lambda: " J so far (Esc stops)" in shown(term))
        await term.press("escape")
        await term.until(lambda: f"press {key} to resume" in shown(term))
        await term.until(lambda: "measuring 128" not in shown(term))


async def test_leaving_ends_a_calibration(here: House, measure: Any) -> None:
    measure(STOPPED)
    with no_process_left() as note:
        async with at_models(here) as term:
            await confirmed(term, "c")
            await term.until(lambda: "1 of 9" in shown(term))
            note()
            await term.press("ctrl+q")
            await term.until(lambda: not term.app.is_running)


def test_joules_are_added_up_and_pieces_without_a_reading_are_counted_later() -> None:
    class Meter(FakeMeter):
        silent = False

        def energy(self, start_ns: int, end_ns: int) -> Energy:
            if self.silent:
                return Energy(start_ns, end_ns, None, None, None, 0.0)
            return super().energy(start_ns, end_ns)

    meter = Meter()
    job = AppJob("", lambda: None, JobProgress(""), meter=meter)
    meter.silent = True
    job.count(1_000_000_000)
    assert job.joules is None
    meter.silent = False
    job.count(3_000_000_000)
    job.count(4_000_000_000)
    assert job.joules == pytest.approx(4 * WATTS)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, "calibrating m … 1 of 9, about 4 s left · ≈200 J so far (Esc stops)"),
        (60, "calibrating m … 1 of 9, about 4 s left · ≈200 J so far"),
        (40, "1 of 9, about 4 s left · ≈200 J so far"),
        (10, "1 of 9, about 4 s left · ≈200 J"),
    ],
)
def test_a_narrow_line_of_a_job_keeps_its_numbers(width: int, line: str) -> None:
    progress = JobProgress("calibrating m … 1 of 9, about 4 s left")
    job = AppJob("", lambda: None, progress, joules=200.0, joules_kind="estimate")
    assert job.line(width) == line
    assert "J" not in AppJob("", lambda: None, progress).line(width)


async def test_a_fault_in_a_worker_is_a_notice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_reader: CardReader) -> None:
        raise ZeroDivisionError("of all things")

    async with at_models(house) as term:
        monkeypatch.setattr(CardReader, "read", broken)
        monkeypatch.setattr(house.shelf, "pull", broken)
        await term.press("r")
        await term.told("internal error: ZeroDivisionError")
        await term.press("p")
        await term.until(lambda: "✗ internal error: TypeError" in shown(term))
        assert term.app.is_running
        assert term.app.fault is None


async def test_a_model_of_another_program_is_below_and_used_where_it_is(
    house: House, tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "blob")
    cut = write_tiny_model(tmp_path / "cut.gguf")
    tiny = FoundModel("ollama:tiny:3b", "ollama", path, path.stat().st_size, None, "F32")
    bad = FoundModel("lmstudio:a/b/cut.gguf", "lmstudio", cut, 9, problem="is truncated")
    house.shelf.of_others = (tiny, bad)
    house.shelf.go_on.set()
    async with at_models(house, (140, 40)) as term:
        await term.until(lambda: row(term, tiny.name) != [])
        assert row(term, tiny.name)[1:4] == ["in Ollama", "1.46 MB", "memory"]
        assert row(term, bad.name)[1] == "not usable"
        table = term.app.screen.query_one(DataTable)
        table.move_cursor(row=table.row_count - 2)
        await term.until(lambda: "p uses it there, nothing is copied" in shown(term))
        await term.press("l")
        await term.told("is not one of etui's models")
        await term.press("p")
        await term.until(lambda: house.shelf.pulled == [tiny.name])
        await term.until(lambda: "is in models.yaml now" in shown(term))
        table.move_cursor(row=table.row_count - 1)
        await term.until(lambda: "it is truncated" in shown(term))

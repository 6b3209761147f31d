"""The models screen: what is there, and what its keys do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, ProgressBar, Static

from etui.config.backend_spec import BackendSpec
from etui.energy.types import Energy
from etui.errors import DownloadFailed, EtuiError
from etui.log.curve_lookup import build_curve_record
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.spec import ModelSpec
from etui.tui import jobs
from etui.tui.jobs import JobProgress
from etui.tui.modals import ConfirmModal
from etui.tui.models import _jobs as measuring
from etui.tui.models._cards import CardReader, Cards, ModelCard
from etui.tui.models._job_bar import JobJoules, format_job
from etui.tui.models._text import fact_lines
from etui.tui.models.screen import ModelsScreen
from etui.tui.start import EtuiApp
from tests.contract.tiny_model import write_tiny_model
from tests.fixtures.turns import TURN
from tests.log.idle_log import write_baselines, write_residence
from tests.log.test_curve_rows import CURVE
from tests.models.test_gguf import UNUSABLE
from tests.tui.fakes import DEADLINE_SECONDS, MODEL, WATTS, FakeMeter, House, until
from tests.tui.screen import drawn

MEASURES = """
import json, sys
lengths = dict(prompt_tokens=128, output_tokens=64)
points = dict(model="m", points=9, seconds_left=4.0, next=lengths)
print(json.dumps(dict(event="begun", done=0, **points)), flush=True)
print(json.dumps(dict(event="measured", done=1, **points)), flush=True)
"""
COMPLETE = (
    MEASURES + 'print(json.dumps(dict(event="curve", status="complete", n=8, r2_decode=0.97)))'
)
REFUSED = """
import sys
if "--force" in sys.argv:
    import json
    print(json.dumps(dict(event="curve", status="complete", n=8, r2_decode=0.5)))
else:
    sys.exit("etui: the machine is not at rest: the CPUs are busy\\nmeasure with --force")
"""
STOPPED = (
    MEASURES
    + """
import signal
signal.sigwait([signal.SIGTERM])
print(json.dumps(dict(event="curve", status="stopped", n=6, r2_decode=0.9)))
sys.exit(3)
"""
)
BROKEN = 'import sys; sys.exit("etui: m is not on this machine\\nrun: etui models pull m")'


@pytest.fixture
def here(house: House) -> House:
    """The starter's file is there, damaged; the fakes do not read it."""
    house.config.models_dir.mkdir(parents=True, exist_ok=True)
    (house.config.models_dir / f"{MODEL}.gguf").write_bytes(b"GGUF and no more")
    return house


async def opened(pilot: Pilot[Any], app: EtuiApp) -> ModelsScreen:
    """The screen with its models on it."""
    await until(pilot, lambda: app.backend is not None)
    await pilot.press("f6")
    await until(pilot, lambda: isinstance(app.screen, ModelsScreen))
    screen = app.screen
    assert isinstance(screen, ModelsScreen)
    await until(pilot, lambda: screen.query_one(DataTable).row_count)
    return screen


def row(screen: ModelsScreen, name: str = MODEL) -> list[str]:
    table = screen.query_one(DataTable)
    rows = [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]
    for cells in rows:
        cells[0] = cells[0].removesuffix(" ★")
    return next((cells for cells in rows if cells[0] == name), [])


def shown(screen: ModelsScreen) -> str:
    return "\n".join(str(static.content) for static in screen.query(Static))


def notices(app: EtuiApp) -> str:
    return "\n".join(notice.message for notice in app._notifications)


async def test_every_entry_is_there_with_what_it_needs_and_its_curve(house: House) -> None:
    spec = load_catalogue(house.config).get(MODEL)
    writer = TurnWriter(house.config)
    writer.save_turn(replace(TURN, model=MODEL))
    writer.save_curve(build_curve_record(replace(CURVE, model=MODEL, model_sha256=spec.sha256)))
    writer.close()
    app = house.app()
    async with app.run_test(size=(140, 40)) as pilot:
        screen = await opened(pilot, app)
        name, where, size, _fits, _speed, joules, good_for, curve = row(screen)
        assert (name, where, size) == (MODEL, "not on disk", "98.4 MB")
        assert not joules.startswith("≈")
        assert "tiny demo" in good_for
        assert "needs 415 MB, " in " ".join(shown(screen).split())
        assert curve.startswith("R² 0.980 measured, ")
        assert row(screen, "qwen3-8b")[-1] == "uncalibrated"
        await until(pilot, lambda: "output tokens" in shown(screen))
        assert "turns off the grid: 4 % mean error" in shown(screen)


def test_the_facts_name_the_draft_model() -> None:
    spec = ModelSpec("m", "tiny", (), draft="small", speculate="auto")
    card = ModelCard(spec, Path("m.gguf"), "absent", None)
    lines = list(fact_lines(card, Cards((card,)), resident=False))
    assert "speculate auto, drafts from small" in lines


async def test_a_model_of_another_machine_has_nothing_to_pull_or_to_load(house: House) -> None:
    config = replace(house.config, backends={"desk": BackendSpec("desk", "http://127.0.0.1:9/v1")})
    config.models_file.write_text("models: {far: {backend: desk, remote_name: big}}")
    house.config = config
    app = house.app()
    async with app.run_test(size=(140, 40)) as pilot:
        screen = await opened(pilot, app)
        assert row(screen, "far")[1] == "on desk"
        card = next(card for card in screen._cards.models if card.spec.name == "far")
        lines = list(fact_lines(card, screen._cards, resident=False))
        assert "          as big; nothing to pull or to load here" in lines


async def test_a_damaged_file_says_so_and_how_to_mend_it(here: House) -> None:
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        assert row(screen)[1] == "damaged"
        await until(pilot, lambda: f"press p to pull {MODEL} again" in shown(screen))


@pytest.mark.parametrize("name", UNUSABLE)
async def test_a_header_that_aborts_llama_cpp_is_shown_as_damaged(house: House, name: str) -> None:
    changes, says = UNUSABLE[name]
    house.config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(house.config.models_dir / f"{MODEL}.gguf", changes=changes)
    app = house.app()
    async with app.run_test(size=(140, 40)) as pilot:
        screen = await opened(pilot, app)
        assert row(screen)[1] == "damaged"
        await until(pilot, lambda: says in shown(screen))


async def test_a_file_that_is_removed_meanwhile_is_gone_at_the_next_look(here: House) -> None:
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        (here.config.models_dir / f"{MODEL}.gguf").unlink()
        await pilot.press("r")
        await until(pilot, lambda: row(screen)[1] == "not on disk")
        await pilot.press("l")
        await until(pilot, lambda: "p pulls it" in notices(app))


async def test_p_pulls_with_progress_and_escape_stops_it(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        bar = screen.query_one("#job-bar", ProgressBar)
        await pilot.press("p")
        await until(pilot, lambda: bar.display and bar.progress == 98_000_000)
        assert f"pulling {MODEL}" in shown(screen)
        await pilot.press("v")
        await pilot.press("p")
        await until(pilot, lambda: "Esc stops it" in notices(app))
        await pilot.press("escape")
        await until(pilot, lambda: "press p to resume it" in shown(screen))
        assert not bar.display
        house.shelf.go_on.set()
        await pilot.press("p")
        await until(pilot, lambda: f"{MODEL} is downloaded and verified" in shown(screen))
        assert house.shelf.pulled == [MODEL]


@pytest.mark.parametrize(
    "error",
    [
        DownloadFailed("no source gave it: no connection", "check the connection and pull again"),
        DownloadFailed("the disk of /models is full", "free some room and pull again"),
    ],
)
async def test_a_pull_that_fails_is_told_with_its_fix(house: House, error: EtuiError) -> None:
    house.shelf.error = error
    house.shelf.go_on.set()
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("p")
        await until(pilot, lambda: error.fix in notices(app))
        assert f"✗ {error.what}" in shown(screen)


async def test_models_come_into_memory_and_leave_it(here: House) -> None:
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("l")
        await until(pilot, lambda: f"loaded {MODEL} in 0.40 s" in shown(screen))
        assert here.runner.held == [MODEL]
        await pilot.press("u")
        await until(pilot, lambda: f"unloaded {MODEL}" in shown(screen))
        assert here.runner.held == []
        here.runner.refusal = EtuiError("an answer or a load is on its way", "wait for its end")
        await pilot.press("u")
        await until(pilot, lambda: "→ wait for its end" in notices(app))


async def test_the_cost_of_keeping_warm_and_the_way_back_to_cold_are_shown(here: House) -> None:
    spec = load_catalogue(here.config).get(MODEL)
    write_baselines(here.config, MODEL)
    here.runner.held = [MODEL]
    app = here.app()
    async with app.run_test(size=(160, 48)) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: "idle 45.0 ± 0.4 W, cold 10.0 ± 0.2 W" in shown(screen))
        assert "break-even" not in shown(screen), "no load is in the log"
        write_residence(here.config, 1_795_000_000.0, MODEL, sha256=spec.sha256)
        here.runner.held.clear()
        here.runner.cooled += 1  # the screen notices by itself
        await until(pilot, lambda: "after the last unload: back to cold" in shown(screen))
        await until(pilot, lambda: "break-even 8.57 s (7.83-9.31 s)" in shown(screen))
        assert "kept: always" in shown(screen)
        assert "unloaded  45.2 W before, 10.1 W after: back to cold" in shown(screen)


async def test_v_checks_the_whole_file(here: House) -> None:
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("v")
        await until(pilot, lambda: "checking the sha256" in shown(screen))
        here.shelf.go_on.set()
        await until(pilot, lambda: "sha256 abababababababab… (as expected)" in shown(screen))


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a script measure in place of ``etui calibrate``."""

    def by(script: str, cpu_share: float = 0.05) -> None:
        monkeypatch.setattr(measuring, "read_cpu_share", lambda: cpu_share)
        monkeypatch.setattr(
            jobs, "command", lambda *arguments: [sys.executable, "-c", script, *arguments[3:]]
        )

    return by


async def confirmed(pilot: Pilot[Any], app: EtuiApp, key: str = "c") -> None:
    """Ask for a calibration and say yes."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
    await pilot.press("y")


def dialog(app: EtuiApp) -> str:
    if not isinstance(app.screen, ConfirmModal):
        return ""
    return "\n".join(str(static.content) for static in app.screen.query(Static))


@pytest.mark.parametrize("key", ["c", "C"])
async def test_nothing_is_given_up_before_a_calibration_is_confirmed(
    here: House, measure: Any, key: str
) -> None:
    measure(COMPLETE)
    here.runner.held = ["another"]
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press(key)
        await until(pilot, lambda: "questions are refused until it ends" in dialog(app))
        assert "Unloads another." in dialog(app)
        assert "busy" not in dialog(app)
        assert here.runner.held == ["another"]
        await pilot.press("n")
        await until(pilot, lambda: "nothing was measured" in shown(screen))
        assert here.runner.held == ["another"]
        assert here.runner.resting == []


async def test_the_question_fits_a_small_terminal(here: House, measure: Any) -> None:
    measure(COMPLETE, cpu_share=0.6)
    app = here.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await opened(pilot, app)
        await pilot.press("c")
        await until(pilot, lambda: "busy" in dialog(app))
        await until(pilot, lambda: "the curve will be too" in " ".join(drawn(app).split()))
        assert "y Yes" in " ".join(drawn(app).split())


async def test_a_busy_machine_is_said_before_anything_is_given_up(
    here: House, measure: Any
) -> None:
    measure(REFUSED, cpu_share=0.6)
    here.runner.held = ["another"]
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("c")
        await until(pilot, lambda: "The CPUs are busy (60 %)" in dialog(app))
        assert here.runner.held == ["another"]
        await pilot.press("y")  # the command is forced and does not ask a second time
        await until(pilot, lambda: "calibrated smollm2-135m: 8 points, R² 0.500" in shown(screen))


async def test_a_calibration_is_not_even_planned_during_an_answer(
    here: House, measure: Any
) -> None:
    measure(COMPLETE)
    here.runner.busy = True
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("c")
        await until(pilot, lambda: "an answer or a model load is running" in notices(app))


async def test_a_calibration_shows_its_joules_its_bar_and_what_is_measured(
    here: House, measure: Any
) -> None:
    measure(STOPPED)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "measuring 128 prompt tokens, 64 output tokens" in shown(screen))
        bar = screen.query_one("#job-bar", ProgressBar)
        assert (bar.progress, bar.total) == (1, 9)
        await until(pilot, lambda: " J so far (Esc stops)" in shown(screen))
        await pilot.press("escape")
        await until(pilot, lambda: "press c to resume" in shown(screen))
        assert "measuring 128" not in shown(screen)


async def test_a_stopped_quick_calibration_names_its_own_key(here: House, measure: Any) -> None:
    measure(STOPPED)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app, "C")
        await until(pilot, lambda: "1 of 9" in shown(screen))
        await pilot.press("escape")
        await until(pilot, lambda: "press C to resume" in shown(screen))


def test_joules_are_added_up_and_pieces_without_a_reading_are_counted_later() -> None:
    class Meter(FakeMeter):
        silent = False

        def energy(self, start_ns: int, end_ns: int) -> Energy:
            if self.silent:
                return Energy(start_ns, end_ns, None, None, None, 0.0)
            return super().energy(start_ns, end_ns)

    meter = Meter()
    joules = JobJoules(meter, 0)
    meter.silent = True
    joules.read(1_000_000_000)
    assert joules.joules is None
    meter.silent = False
    joules.read(3_000_000_000)
    joules.read(4_000_000_000)
    assert joules.joules == pytest.approx(4 * WATTS)


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
    assert format_job(progress, 200.0, "estimate", width) == line
    without = format_job(progress, None, None, width)
    assert "J" not in without


async def test_c_calibrates_while_no_model_is_held(here: House, measure: Any) -> None:
    measure(COMPLETE)
    here.runner.held = ["another"]
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "calibrated smollm2-135m: 8 points, R² 0.970" in shown(screen))
        assert here.runner.held == []
        assert here.runner.resting == [f"a calibration of {MODEL} is running"]


async def test_escape_stops_a_calibration_and_keeps_what_was_measured(
    here: House, measure: Any
) -> None:
    measure("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])" + STOPPED)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "1 of 9, about 4.00 s left" in shown(screen))
        await pilot.press("escape")
        await until(pilot, lambda: "press c to resume" in shown(screen))


async def test_a_machine_at_work_is_measured_only_when_confirmed(here: House, measure: Any) -> None:
    measure(REFUSED)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "the machine is not at rest" in dialog(app))
        await pilot.press("y")
        await until(pilot, lambda: "calibrated smollm2-135m: 8 points, R² 0.500" in shown(screen))


async def test_a_calibration_is_refused_during_an_answer_and_its_errors_are_told(
    here: House, measure: Any
) -> None:
    measure(BROKEN)
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "m is not on this machine" in notices(app))
        assert "→ run: etui models pull m" in notices(app)
        here.runner.refusal = EtuiError("an answer or a load is on its way", "wait for its end")
        await confirmed(pilot, app)
        await until(pilot, lambda: "an answer or a load is on its way" in notices(app))


async def test_a_fault_in_a_worker_is_a_notice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)

        def broken(_reader: CardReader) -> None:
            raise ZeroDivisionError("of all things")

        monkeypatch.setattr(CardReader, "read", broken)
        monkeypatch.setattr(house.shelf, "pull", broken)
        await pilot.press("r")
        await until(pilot, lambda: "internal error: ZeroDivisionError" in notices(app))
        await pilot.press("p")
        await until(pilot, lambda: "✗ internal error: TypeError" in shown(screen))
        assert app.is_running
        assert app.fault is None


async def test_leaving_ends_a_calibration(here: House, measure: Any) -> None:
    measure("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])" + STOPPED)
    before = set(psutil.Process().children())
    app = here.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await confirmed(pilot, app)
        await until(pilot, lambda: "1 of 9" in shown(screen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    started = set(psutil.Process().children()) - before
    _gone, alive = psutil.wait_procs(started, timeout=DEADLINE_SECONDS)
    assert alive == []

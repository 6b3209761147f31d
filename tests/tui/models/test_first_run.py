"""A machine without any model: what to do, and a key that does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, ProgressBar, Static

from etui.config.machine import machine_name
from etui.energy.types import Channel, Kind
from etui.errors import DownloadFailed, EtuiError
from etui.models.memory_speed import MemorySpeed, save_memory_speed
from etui.routing.signals import HostState
from etui.runtime.decide import load_fallback_model
from etui.tui.chat.screen import ChatScreen
from etui.tui.models import _cards as card_reader
from etui.tui.models._model_list import ModelDetailsModal
from etui.tui.models.first_run import FirstRunScreen
from etui.tui.start import EtuiApp
from tests.tui.fakes import MODEL, House, until
from tests.tui.screen import drawn, notices


@pytest.fixture
def bare(house: House) -> House:
    """The same machine before its first model."""
    house.shelf.on_offer = tuple(replace(m, on_disk=False) for m in house.shelf.on_offer)
    return house


def guide_text(app: EtuiApp) -> str:
    return "\n".join(str(static.content) for static in app.screen.query(Static))


async def opened(pilot: Pilot[Any], app: EtuiApp) -> FirstRunScreen:
    """The chooser with its models on it."""
    await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
    screen = app.screen
    assert isinstance(screen, FirstRunScreen)
    await until(pilot, lambda: screen.query_one(DataTable).row_count)
    return screen


def rows(screen: FirstRunScreen) -> dict[str, list[str]]:
    table = screen.query_one(DataTable)
    found = [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]
    return {cells[0].removesuffix(" ★"): cells for cells in found}


async def go_to(pilot: Pilot[Any], screen: FirstRunScreen, name: str) -> None:
    """Move the cursor to a model."""
    names = list(rows(screen))
    screen.query_one(DataTable).move_cursor(row=names.index(name))
    await until(pilot, lambda: str(screen._facts.content).startswith(f"{name}:"))


def keep_speed(house: House, bytes_per_second: float) -> None:
    save_memory_speed(house.config, MemorySpeed(machine_name(), 2, bytes_per_second))


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """22 GB of memory are free, and no GPU is there."""
    monkeypatch.setattr(card_reader, "read_host", lambda _config: HostState(free_memory_gb=22.0))


@pytest.mark.usefixtures("roomy")
async def test_every_model_is_offered_with_what_it_costs_here(bare: House) -> None:
    keep_speed(bare, 20e9)
    bare.meter.channels = (
        Channel("package:0", "package:0", Kind.COUNTER, limit_watts=30.0, label="CPU"),
    )
    app = bare.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: rows(screen)["qwen3-8b"][3] == "≈4.0")
        assert rows(screen)["qwen3-8b"][1:] == [
            "5.03 GB", "memory", "≈4.0", "≈7.5", "hard questions, thinks",
        ]  # fmt: skip
        assert rows(screen)["qwen2.5-coder-1.5b"][0].endswith("★")
        assert str(screen._advice.content).startswith(
            "★ qwen2.5-coder-1.5b (1.12 GB, ≈18 tok/s, ≈1.7 J/token) suits this machine"
        )
        await until(pilot, lambda: "qwen2.5-coder-1.5b" in str(screen._facts.content))
        details = " ".join(guide_text(app).split())
        assert "at most, estimated from memory bandwidth (20.0 GB/s)" in details
        assert "at the power limit (30 W)" in details
        assert "etui models pull qwen2.5-coder-1.5b" in details
        assert str(bare.config.models_dir) in details
        assert bare.shelf.measured == [], "it is known already"


@pytest.mark.usefixtures("roomy")
async def test_the_memory_is_measured_once_and_the_recommendation_follows(bare: House) -> None:
    bare.shelf.on_measured = lambda: keep_speed(bare, 80e9)
    app = bare.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: rows(screen)["qwen3-8b"][0].endswith("★"))
        await until(pilot, lambda: str(screen._facts.content).startswith("qwen3-8b"))
        await pilot.press("r")
        await until(pilot, lambda: "still no model in" in guide_text(app))
        assert bare.shelf.measured == [1]


async def test_a_measurement_that_fails_is_said_and_models_can_still_be_chosen(
    bare: House,
) -> None:
    bare.shelf.memory_error = EtuiError("the speed of the memory is unknown: no numpy", "reinstall")
    app = bare.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: "no numpy\n→ reinstall" in notices(app))
        assert rows(screen)["qwen3-8b"][3] == "–"


@pytest.mark.parametrize("name", [MODEL, "llama-3.2-1b"])
async def test_p_pulls_the_chosen_model_with_progress_and_opens_the_chat(
    bare: House, name: str
) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, app)
        await go_to(pilot, screen, name)
        await pilot.press("p")
        bar = app.screen.query_one(ProgressBar)
        await until(pilot, lambda: bar.progress == 98_000_000)
        assert "98.0 MB of 98.0 MB" in guide_text(app)
        bare.shelf.go_on.set()
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        assert bare.shelf.pulled == [name]
        assert load_fallback_model(bare.config) == name
        await until(pilot, lambda: bare.runner.warmed)


async def test_a_slash_finds_models_by_purpose_and_enter_shows_everything(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("slash", *"hard")
        await until(pilot, lambda: list(rows(screen)) == ["qwen3-8b"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(screen.focused, DataTable))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ModelDetailsModal))
        await until(pilot, lambda: "hf Qwen/Qwen3-8B-GGUF" in guide_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("slash", "escape")
        await until(pilot, lambda: len(rows(screen)) == 12)
        await pilot.press("G")
        await until(pilot, lambda: screen.query_one(DataTable).cursor_row == 11)
        await pilot.press("g", "j", "j", "k")
        await until(pilot, lambda: screen.query_one(DataTable).cursor_row == 1)


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (120, 36), (200, 60)])
async def test_the_chooser_fits_every_terminal(bare: House, size: tuple[int, int]) -> None:
    app = bare.app()
    async with app.run_test(size=size) as pilot:
        screen = await opened(pilot, app)
        await until(pilot, lambda: str(screen._advice.content))
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.region.height >= 3)
        assert table.region.bottom < size[1]
        name = screen._cards.recommended or MODEL
        await until(pilot, lambda: name in drawn(app).split("MODEL")[1])  # the cursor is in sight
        assert "p Pull" in " ".join(drawn(app).split())


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (DownloadFailed("no connection to the hub", "check the connection"), "llama-3.2-3b"),
        (DownloadFailed("the disk of /models is full", "free some room and pull again"), MODEL),
    ],
)
async def test_no_network_and_a_full_disk_are_said_with_a_fix(
    bare: House, error: DownloadFailed, name: str
) -> None:
    bare.shelf.error = error
    bare.shelf.go_on.set()
    app = bare.app()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await opened(pilot, app)
        await go_to(pilot, screen, name)
        await pilot.press("p")
        await until(pilot, lambda: f"✗ {error.what}\n→ {error.fix}" in guide_text(app))
        other = "qwen2.5-coder-1.5b comes from the package index"
        assert (other in guide_text(app)) == (name != MODEL), "only where the hub gave nothing"
        assert screen._job.is_running is False
        assert load_fallback_model(bare.config) is None


async def test_a_failed_pull_says_why_and_can_be_tried_again(bare: House) -> None:
    bare.shelf.error = DownloadFailed("no source gave [the file]", "check the network")
    bare.shelf.go_on.set()
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot, app)
        await pilot.press("p")
        await until(pilot, lambda: "no source gave [the file]" in guide_text(app))
        assert "→ check the network" in guide_text(app)
        bare.shelf.error = None
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))


async def test_escape_stops_a_pull(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot, app)
        await pilot.press("p")
        await until(pilot, lambda: "MB of" in guide_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "the download was stopped" in guide_text(app))
        assert "✗" not in guide_text(app), "a stop is no error"
        assert bare.shelf.pulled == []
        assert isinstance(app.screen, FirstRunScreen)


async def test_r_finds_a_model_that_was_put_there_meanwhile(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await pilot.press("r")
        await until(pilot, lambda: "still no model in" in guide_text(app))
        bare.shelf.put_on_disk(MODEL)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        assert load_fallback_model(bare.config) == MODEL


async def test_quitting_from_here_works(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)


LONG_ERROR = DownloadFailed(
    "could not download qwen3-4b from any source: hf Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf: "
    "cannot get Qwen3-4B-Q4_K_M.gguf from the hub: no address",
    "check the connection and pull again",
)


def squeezed(text: str) -> str:
    """Text without frames, bars and white space, which wrapping adds and removes."""
    return "".join(char for char in text if char.isprintable() and char not in " │▂▄█▅▆▇▁▃")


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (110, 34), (200, 60)])
async def test_a_failed_download_is_said_whole_with_its_fix(
    bare: House, size: tuple[int, int]
) -> None:
    bare.shelf.error = LONG_ERROR
    bare.shelf.go_on.set()
    app = bare.app()
    async with app.run_test(size=size) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("p")
        await until(pilot, lambda: "not pulled" in drawn(app))
        assert "…" not in drawn(app).splitlines()[-2], "the line of the pull is not cut"
        assert "✗ could not" not in drawn(app).splitlines()[-2], "said once"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ModelDetailsModal))
        await until(pilot, lambda: squeezed(LONG_ERROR.what)[:30] in squeezed(drawn(app)))
        seen = drawn(app)
        if size[1] > 10:
            assert squeezed(LONG_ERROR.what) in squeezed(seen)
            assert squeezed(LONG_ERROR.fix) in squeezed(seen)
        else:  # the page scrolls
            await pilot.press("j", "j", "j")
            await until(pilot, lambda: "→" in drawn(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        if size[1] > 10:
            pane = squeezed(drawn(app))
            await until(pilot, lambda: squeezed(LONG_ERROR.what) in squeezed(drawn(app)))
            assert squeezed(LONG_ERROR.fix) in squeezed(drawn(app)), pane

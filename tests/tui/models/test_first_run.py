"""A machine without any model: what to do, and a key that does it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.widgets import ProgressBar, Static

from etui.errors import DownloadFailed
from etui.tui.app import EtuiApp
from etui.tui.chat.screen import ChatScreen
from etui.tui.models.first_run import FirstRunScreen
from tests.tui.fakes import MODEL, House, until


@pytest.fixture
def bare(house: House) -> House:
    """The same machine before its first model."""
    house.shelf.on_offer = tuple(replace(m, on_disk=False) for m in house.shelf.on_offer)
    return house


def guide_text(app: EtuiApp) -> str:
    return "\n".join(str(static.content) for static in app.screen.query(Static))


async def test_it_says_the_exact_command_and_where_the_file_goes(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        assert f"etui models pull {MODEL}" in guide_text(app)
        assert str(bare.config.models_dir) in guide_text(app)
        assert "135M parameters, 98 MB" in guide_text(app)
        assert "qwen3-0.6b" in guide_text(app)


async def test_p_pulls_the_starter_with_progress_and_opens_the_chat(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await pilot.press("p")
        bar = app.screen.query_one(ProgressBar)
        await until(pilot, lambda: bar.progress == 98_000_000)
        assert "98.0 MB of 98.0 MB" in guide_text(app)
        bare.shelf.go_on.set()
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        assert bare.shelf.pulled == [MODEL]
        await until(pilot, lambda: bare.runner.warmed)


async def test_a_failed_pull_says_why_and_can_be_tried_again(bare: House) -> None:
    bare.shelf.error = DownloadFailed("no source gave [the file]", "check the network")
    bare.shelf.go_on.set()
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await pilot.press("p")
        await until(pilot, lambda: "no source gave [the file]" in guide_text(app))
        assert "→ check the network" in guide_text(app)
        bare.shelf.error = None
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))


async def test_escape_stops_a_pull(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await pilot.press("p")
        await until(pilot, lambda: "MB of" in guide_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "the download was stopped" in guide_text(app))
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


async def test_quitting_from_here_works(bare: House) -> None:
    app = bare.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)

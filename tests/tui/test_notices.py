"""Notices rise above the prompt and never cover it."""

from __future__ import annotations

import pytest
from textual.geometry import Region
from textual.widgets._toast import ToastRack

from etui.tui.chat._prompt import Prompt
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until
from tests.tui.screen import drawn

LONG = "a notice of several words that need more than one row in a small terminal " * 3


def toasts(app: EtuiApp) -> list[Region]:
    """Where notices are drawn, and were cut to what is in view."""
    rack = app.screen.get_child_by_type(ToastRack)
    return [toast.region for holder in rack.children for toast in holder.children]


@pytest.mark.parametrize("size", [(40, 10), (60, 12), (80, 24), (120, 36)])
@pytest.mark.parametrize("message", ["short", LONG])
async def test_the_prompt_stays_free_while_notices_are_shown(
    house: House, size: tuple[int, int], message: str
) -> None:
    app = house.app()
    async with app.run_test(size=size, notifications=True) as pilot:
        prompt = app.screen.query_one(Prompt)
        await until(pilot, lambda: app.backend is not None and prompt.region.height)
        for number in range(3):
            app.notify(f"{number} {message}", markup=False, timeout=600)
        await until(pilot, lambda: len(toasts(app)) == 3 and any(toasts(app)))
        for text in ("", "one\ntwo\nthree\nfour", "word " * 60, ""):
            prompt.text = text
            await until(
                pilot, lambda: all(region.bottom <= prompt.region.y for region in toasts(app))
            )
        assert "2 " in drawn(app), "the newest one is in view"


async def test_notices_make_room_while_the_terminal_changes_its_size(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        prompt = app.screen.query_one(Prompt)
        await until(pilot, lambda: app.backend is not None and prompt.region.height)
        app.notify(LONG, markup=False, timeout=600)
        await until(pilot, lambda: any(toasts(app)))
        for size in ((40, 10), (20, 6), (200, 60), (41, 9), (80, 24)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: app.screen.size == size)
            await until(
                pilot, lambda: all(region.bottom <= prompt.region.y for region in toasts(app))
            )

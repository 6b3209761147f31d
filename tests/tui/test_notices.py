"""Notices stand at the top right, and never cover the prompt, a dialog, a search or costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.geometry import Region
from textual.widgets._toast import ToastRack

from etui.runtime.routes import Route
from etui.tui._work import choose_gap
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._transcript import FindBar
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until
from tests.tui.screen import WIDE, Terminal, drawn

LONG = "a notice of several words that need more than one row in a small terminal " * 3


def toasts(app: EtuiApp) -> list[Region]:
    """Where notices are drawn, cut to what is in view."""
    rack = app.screen.get_child_by_type(ToastRack)
    shown = [toast for holder in rack.children for toast in holder.children if toast.region]
    seen = [app.screen.find_widget(toast).visible_region for toast in shown]
    return [region for region in seen if region.height]


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
        await until(pilot, lambda: toasts(app))
        for text in ("", "one\ntwo\nthree\nfour", "word " * 60, ""):
            prompt.text = text
            await until(
                pilot, lambda: all(region.bottom <= prompt.region.y for region in toasts(app))
            )
        await until(pilot, lambda: "2 " in drawn(app))  # the newest one is in view
        await until(pilot, lambda: min(region.y for region in toasts(app)) == 1)  # at the top


async def test_notices_make_room_while_the_terminal_changes_its_size(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        prompt = app.screen.query_one(Prompt)
        await until(pilot, lambda: app.backend is not None and prompt.region.height)
        app.notify(LONG, markup=False, timeout=600)
        await until(pilot, lambda: toasts(app))
        for size in ((40, 10), (20, 6), (200, 60), (41, 9), (80, 24)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: app.screen.size == size)
            await until(
                pilot, lambda: all(region.bottom <= prompt.region.y for region in toasts(app))
            )


@given(
    st.integers(1, 80),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 40)), max_size=4),
    st.integers(0, 1),
)
def test_a_gap_covers_nothing_that_is_taken_where_there_is_one(
    height: int, taken: list[tuple[int, int]], first: int
) -> None:
    spans = [(start, min(start + rows, height)) for start, rows in taken if start < height]
    row, rows = choose_gap(height, spans, first)
    free = [y for y in range(first, height) if not any(a <= y < b for a, b in spans)]
    assert rows >= 1
    if free:
        assert set(range(row, row + rows)) <= set(free)


async def test_a_dialog_and_a_search_stay_free(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        term = Terminal(house, app, pilot)
        await term.answer("First?")
        await term.press("shift+tab", "slash")
        bar = term.app.screen.query_one(FindBar)
        await term.until(lambda: bar.region.height)
        app.notify("short", timeout=600)
        await term.until(lambda: toasts(app))
        await term.until(lambda: all(not one.overlaps(bar.region) for one in toasts(app)))
        await term.press("escape", "ctrl+o")
        await term.until(lambda: term.app.screen.query(".box"))
        box = term.app.screen.query_one(".box")
        await term.until(lambda: toasts(app))
        await term.until(lambda: all(not one.overlaps(box.region) for one in toasts(app)))
        assert "short" in term.drawn


async def test_costs_that_are_compared_stay_free(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        term = Terminal(house, app, pilot)
        await term.answer("First?")
        house.runner.other = Route("balanced", arm="think")
        await term.press("shift+tab", "plus")
        await term.answered(2)
        row = term.turns[-1].query_one(".energy-row")
        await term.until(lambda: "× the " in term.text(1, "energy"))
        app.notify(LONG, timeout=600)
        await term.until(lambda: toasts(app))
        await term.until(lambda: all(not one.overlaps(row.region) for one in toasts(app)))

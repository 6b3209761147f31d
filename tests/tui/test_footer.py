"""The footer: whole keys only, the most important first, from 40 to 200 columns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.tui.widgets.key_footer import (
    HELP_ACTION,
    PINNED_ACTIONS,
    KeyFooter,
    KeyLabel,
    choose_labels,
)
from tests.tui.fakes import House, until
from tests.tui.screen import drawn

LABELS = st.lists(
    st.builds(
        KeyLabel,
        key=st.uuids().map(str),
        display=st.text("abcdf^", min_size=1, max_size=4),
        description=st.text("abc", min_size=1, max_size=12),
        action=st.sampled_from(PINNED_ACTIONS) | st.uuids().map(str),
    ),
    unique_by=lambda label: label.action,
    max_size=12,
)


@given(LABELS, st.integers(0, 200))
def test_the_keys_that_are_shown_fit_and_keep_their_order(
    labels: list[KeyLabel], width: int
) -> None:
    shown = choose_labels(labels, width)
    assert sum(label.cells for label in shown) <= width + 1
    assert [label for label in labels if label in shown] == list(shown)
    plain = [label for label in labels if label.action not in PINNED_ACTIONS]
    kept = [label for label in shown if label.action not in PINNED_ACTIONS]
    assert plain[: len(kept)] == kept, "none is left out before one that is shown"


def test_the_help_is_shown_where_only_one_key_has_room() -> None:
    send, help_ = KeyLabel("a", "a", "Send", "send"), KeyLabel("f1", "f1", "Help", HELP_ACTION)
    assert choose_labels([send, help_], 7) == (help_,)
    assert choose_labels([send, help_], 14) == (send, help_)
    assert choose_labels([send, help_], 5) == ()


@pytest.mark.parametrize("key", ["f2", "f3", "f4", "f5", "f6"])
async def test_no_word_of_the_last_line_is_cut(house: House, key: str) -> None:
    app = house.app()
    async with app.run_test(size=(40, 24)) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await pilot.press(key)
        for width in (40, 53, 66, 80, 99, 120, 200):
            await pilot.resize_terminal(width, 24)
            await until(pilot, lambda width=width: app.screen.size.width == width)
            await until(pilot, lambda: "Help" in drawn(app).split("\n")[-1])
            footer = app.screen.query_one(KeyFooter)

            def is_whole(footer: KeyFooter = footer) -> bool:
                said = " ".join(f"{label.display} {label.description}" for label in footer._labels)
                return drawn(app).split("\n")[-1].split() == said.split()

            await until(pilot, is_whole)


async def test_a_wider_terminal_shows_more_keys(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(40, 24)) as pilot:
        await until(pilot, lambda: "Help" in drawn(app).split("\n")[-1])
        assert "History" not in drawn(app).split("\n")[-1]
        await pilot.resize_terminal(140, 24)
        await until(pilot, lambda: "History" in drawn(app).split("\n")[-1])
        await pilot.resize_terminal(40, 24)
        await until(pilot, lambda: "History" not in drawn(app).split("\n")[-1])

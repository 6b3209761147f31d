"""The graph's fixed scale, and the words beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.types import Channel, ChannelPower, Kind
from etui.tui.channel_meter import total_watts, watts_line
from etui.tui.power_graph import bar_rows, scale_top

GPU = Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, limit_watts=350.0, label="NVIDIA L40S")


def power(watts: float | None, channel: Channel = GPU, in_total: bool = True) -> ChannelPower:
    return ChannelPower(channel, 0, watts, None, in_total)


def test_steady_watts_are_drawn_steady_at_their_share_of_the_limit() -> None:
    rows = bar_rows([250.0, 251.0, 252.0, 250.0], top_watts=500.0, width=4, height=4)
    assert rows == ["    ", "    ", "████", "████"]


def test_the_newest_sample_is_at_the_right_edge() -> None:
    assert bar_rows([10.0], top_watts=10.0, width=5, height=1) == ["    █"]
    assert bar_rows([10.0] * 9 + [5.0], top_watts=10.0, width=3, height=1) == ["██▄"]


def test_a_gap_is_empty_and_a_small_value_is_not() -> None:
    assert bar_rows([None, 0.0, 0.1], top_watts=100.0, width=3, height=2) == ["   ", " ▁▁"]


def test_more_than_the_limit_fills_the_column() -> None:
    assert bar_rows([900.0], top_watts=350.0, width=1, height=3) == ["█", "█", "█"]


@given(
    st.lists(st.none() | st.floats(0, 1e4), max_size=50),
    st.floats(1, 1e4),
    st.integers(0, 40),
    st.integers(1, 8),
)
def test_the_graph_always_fills_its_place(
    watts: list[float | None], top: float, width: int, height: int
) -> None:
    rows = bar_rows(watts, top, width, height)
    assert len(rows) == height
    assert all(len(row) == width for row in rows)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_more_watts_never_draw_lower(a: float, b: float) -> None:
    low, high = sorted((a, b))

    def filled(watts: float) -> int:
        return sum(" ▁▂▃▄▅▆▇█".index(row) for row in bar_rows([watts], 1000.0, 1, 4))

    assert filled(low) <= filled(high)


@pytest.mark.parametrize(
    ("limit", "highest", "top"),
    [(350.0, 10.0, 350.0), (350.0, 900.0, 350.0), (None, 0.0, 1.0), (None, 14.0, 20.0),
     (None, 50.0, 50.0), (None, 51.0, 100.0), (0.0, 3.0, 5.0)],
)  # fmt: skip
def test_the_scale_ends_at_the_limit_or_at_a_round_number(
    limit: float | None, highest: float, top: float
) -> None:
    assert scale_top(limit, highest) == top


def test_the_watts_are_said_with_their_limit_and_kind() -> None:
    assert watts_line(power(118.0), 350.0) == "118 W of 350 W · counter"


def test_watts_that_are_not_known_are_unmeasured() -> None:
    assert watts_line(power(None), 350.0) == "unmeasured now · counter"


def test_an_estimate_is_marked_as_one() -> None:
    estimate = Channel("estimate:cpu", "package:0", Kind.ESTIMATE, limit_watts=65.0)
    assert watts_line(power(12.0, estimate), 65.0) == "~12 W (estimate) of 65.0 W"
    assert total_watts([power(12.0, estimate)]) == "~12 W (estimate)"


def test_a_scale_without_a_limit_says_so() -> None:
    unlimited = replace(GPU, limit_watts=None)
    assert watts_line(power(14.0, unlimited), 20.0) == "14.0 W (scale to 20.0 W) · counter"


def test_the_total_sums_what_is_in_it() -> None:
    psys = Channel("psys", "psys", Kind.COUNTER)
    assert total_watts([power(100.0), power(20.0), power(180.0, psys, False)]) == "120 W"


def test_a_total_with_an_unknown_part_is_unmeasured() -> None:
    assert total_watts([power(100.0), power(None)]) == "unmeasured"
    assert total_watts([]) == "unmeasured"

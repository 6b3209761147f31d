"""The graph of a turn of the past: from its start to its end, with its phases."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from etui.plots.braille import draw_graph
from etui.tui.history._detail import power_heading, turn_graph, turn_phases
from etui.turn.record import Seconds, Tokens
from tests.fixtures.turns import TURN

MADE = replace(
    TURN,
    power_watts=(10.0, 50.0, 100.0, None),
    seconds=Seconds(0.0, 2.0, 6.0, 8.0, 2.0),
    tokens=Tokens(10, 0, 10, 5, 20),
)


def test_the_graph_covers_the_turn_and_ends_with_it() -> None:
    graph = turn_graph(MADE, 80)
    assert graph.buckets.seconds * 80 == 8.0
    assert graph.buckets.means[:20] == (10.0,) * 20
    assert graph.buckets.means[-1] is None
    assert graph.top_watts == 100.0
    assert turn_graph(replace(MADE, power_watts=(12.3, 4.0)), 80).top_watts == 12.3, "its own peak"
    text = ["".join(part for part, _ in row) for row in draw_graph(graph, 45, 6)]
    assert text[-2].rstrip().endswith("end")
    assert "now" not in text[-2]
    assert text[-1].split("─")[0].strip() == "read"
    assert "write──" in text[-1]


def test_thinking_and_answer_share_the_decode_by_their_tokens() -> None:
    assert turn_phases(MADE, 80) == "P" * 20 + "T" * 15 + "A" * 45
    assert turn_phases(replace(MADE, seconds=Seconds(0.0, 0.0, 0.0, 0.0, None)), 4) == "    "


def test_the_heading_says_how_long_and_how_much() -> None:
    assert power_heading(MADE) == "power over 8.00 s, at most 100 W"
    assert power_heading(replace(MADE, power_watts=())) == "power over time: unmeasured"


@given(
    st.lists(st.none() | st.floats(0, 1e4), max_size=70),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(1, 300),
)
def test_every_value_has_a_phase(
    watts: list[float | None], prefill: float, total: float, thinking: int, output: int, values: int
) -> None:
    turn = replace(
        MADE,
        power_watts=tuple(watts),
        seconds=Seconds(0.0, prefill, 0.0, total, None),
        tokens=Tokens(1, 0, 1, thinking, output),
    )
    graph = turn_graph(turn, values)
    assert len(graph.buckets.phases) == values
    assert len(graph.buckets.means) == (values if watts else 0)

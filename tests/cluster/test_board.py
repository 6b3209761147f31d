"""Pieces in flight: nothing is lost, nothing is counted twice, whatever the nodes do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.schedule import Piece
from etui.cluster.drive import PieceBoard


def board(*sizes, machine=None):
    pieces = [Piece("a", f"s{at}", tuple(range(size)), 0) for at, size in enumerate(sizes)]
    return PieceBoard({machine: pieces})


def test_a_piece_that_is_lost_is_asked_again_without_its_answered_rows():
    found = board(3, 1)
    taken = found.take("x")
    assert (taken.piece.subject, taken.done) == ("s0", ())
    assert found.add("x", [("a", "s0", 1)]) == [True]
    assert found.lose("x") == ("x",)
    again = found.take("y")
    assert (again.piece.subject, again.done) == ("s0", (1,))
    assert found.take("x").piece.subject == "s1"


def test_a_late_answer_counts_once():
    found = board(2)
    found.take("slow")
    assert found.give_back("slow") == 2
    assert found.give_back("slow") == 0
    found.take("quick")
    assert found.add("slow", [("a", "s0", 0)]) == [True]
    assert found.add("quick", [("a", "s0", 0)]) == [False]
    assert not found.is_answered_by_others("slow")
    assert found.add("quick", [("a", "s0", 1)]) == [True]
    assert found.is_answered_by_others("slow")
    assert not found.left
    found.finish("slow")
    found.finish("quick")
    assert found.take("slow") is None


def test_a_piece_of_one_machine_is_for_no_other():
    found = board(1, machine="x")
    assert found.take("y") is None
    assert not found.can_continue(["y"])
    assert found.can_continue(["x"])
    assert found.take("x") is not None
    assert found.can_continue(["x"])


def test_an_answer_that_nobody_asked_for_does_not_count():
    found = board(1)
    assert found.add("x", [("a", "s9", 0)]) == [False]
    assert found.left == 1


def test_losses_of_a_piece_name_their_machines():
    found = board(1)
    for machine, expected in (("x", "x"), ("x", "xx"), ("y", "xxy")):
        found.take(machine)
        assert found.lose(machine) == tuple(expected)
    assert found.lose("x") == ()
    found.take("x")
    found.add("x", [("a", "s0", 0)])
    assert found.lose("x") == ()  # it died after its last answer


def test_a_machine_has_one_piece_at_a_time():
    found = board(1, 1)
    found.take("x")
    with pytest.raises(ValueError, match="already"):
        found.take("x")


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["x", "y", "z"]),
        st.sampled_from(["take", "answer", "answer", "answer", "finish", "lose", "give_back"]),
    ),
    max_size=80,
)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), ACTIONS)
def test_no_key_is_lost_or_doubled(sizes, actions):
    found = board(*sizes)
    held: dict[str, list[tuple]] = {}
    counted: list[tuple] = []
    for machine, action in actions:
        if action == "take" and machine not in held:
            taken = found.take(machine)
            if taken is not None:
                rows = [row for row in taken.piece.rows if row not in taken.done]
                held[machine] = [("a", taken.piece.subject, row) for row in rows]
        elif action == "answer" and held.get(machine):
            key = held[machine].pop(0)
            counted += [key] if found.add(machine, [key]) == [True] else []
        elif action == "finish":
            found.finish(machine)
            held.pop(machine, None)
        elif action == "lose":
            found.lose(machine)
            held.pop(machine, None)
        elif action == "give_back":
            found.give_back(machine)
    for machine in held:
        found.lose(machine)
    while (taken := found.take("last")) is not None:  # whatever happened, the rest can be answered
        for row in taken.piece.rows:
            if row not in taken.done:
                key = ("a", taken.piece.subject, row)
                counted += [key] if found.add("last", [key]) == [True] else []
        found.finish("last")
    assert not found.left
    assert sorted(counted) == sorted(
        ("a", f"s{at}", row) for at, size in enumerate(sizes) for row in range(size)
    )

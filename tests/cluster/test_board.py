"""Pieces in flight: nothing is lost, nothing is counted twice, whatever the nodes do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.schedule import Piece
from etui.cluster.drive import PieceBoard


def board(*sizes, system="a"):
    found = PieceBoard(compare="@" in system)
    found.ask(Piece(system, f"s{at}", tuple(range(size)), 0) for at, size in enumerate(sizes))
    return found


def test_a_piece_that_is_lost_is_asked_again_without_its_answered_rows():
    found = board(3, 1)
    taken = found.take("x")
    assert (taken.piece.subject, taken.done) == ("s0", ())
    assert found.add([("a", "s0", 1)]) == [True]
    assert found.lose("x") == ("x",)
    again = found.take("y")
    assert (again.piece.subject, again.done) == ("s0", (1,))
    assert found.take("x").piece.subject == "s1"


def test_a_late_answer_counts_once():
    found = board(2)
    found.take("slow")
    assert found.take("quick") is None
    assert found.take("quick", ["slow"]).piece.subject == "s0"
    assert found.take("third", ["slow"]) is None  # one other machine is enough
    assert found.add([("a", "s0", 0)]) == [True]
    assert found.add([("a", "s0", 0)]) == [False]
    assert found.in_flight("slow") == found.in_flight("quick") == (("a", "s0", 1),)
    assert found.add([("a", "s0", 1)]) == [True]
    assert not found.left
    found.finish("slow")
    found.finish("quick")
    assert found.take("slow") is None


def test_a_piece_of_two_machines_waits_again_once_both_have_left_it():
    found = board(1)
    found.take("slow")
    found.take("quick", ["slow"])
    assert found.lose("quick") == ("quick",)
    assert found.take("quick") is None
    found.finish("slow")
    assert found.take("quick") is not None


def test_a_piece_of_one_machine_is_for_no_other():
    found = board(1, system="a@x")
    assert found.take("y") is None
    assert found.take("x") is not None
    assert found.take("y", ["x"]) is None


def test_answered_questions_do_not_wait():
    found = PieceBoard([("a", "s0", 0), ("a", "s1", 0)])
    found.ask([Piece("a", "s0", (0, 1), 0), Piece("a", "s1", (0,), 0)])
    assert found.left == 1
    assert found.take("x").done == (0,)
    assert found.take("y") is None


def test_an_answer_that_nobody_asked_for_does_not_count():
    found = board(1)
    assert found.add([("a", "s9", 0)]) == [False]
    assert found.left == 1


def test_losses_of_a_piece_name_their_machines():
    found = board(1)
    for machine, expected in (("x", "x"), ("x", "xx"), ("y", "xxy")):
        found.take(machine)
        assert found.lose(machine) == tuple(expected)
    assert found.lose("x") == ()
    found.take("x")
    found.add([("a", "s0", 0)])
    assert found.lose("x") == ()  # it died after its last answer


def test_a_machine_has_one_piece_at_a_time():
    found = board(1, 1)
    found.take("x")
    with pytest.raises(ValueError, match="already"):
        found.take("x")


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["x", "y", "z"]),
        st.sampled_from(["take", "backup", "answer", "answer", "answer", "finish", "lose"]),
    ),
    max_size=80,
)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), ACTIONS)
def test_no_key_is_lost_or_doubled(sizes, actions):
    found = board(*sizes)
    held: dict[str, list[tuple]] = {}
    counted: list[tuple] = []
    for machine, action in actions:
        if action in ("take", "backup") and machine not in held:
            taken = found.take(machine, list(held) if action == "backup" else ())
            if taken is not None:
                rows = [row for row in taken.piece.rows if row not in taken.done]
                held[machine] = [("a", taken.piece.subject, row) for row in rows]
        elif action == "answer" and held.get(machine):
            key = held[machine].pop(0)
            counted += [key] if found.add([key]) == [True] else []
        elif action == "finish":
            found.finish(machine)
            held.pop(machine, None)
        elif action == "lose":
            found.lose(machine)
            held.pop(machine, None)
    for machine in held:
        found.lose(machine)
    while (taken := found.take("last")) is not None:  # whatever happened, the rest can be answered
        for row in taken.piece.rows:
            if row not in taken.done:
                key = ("a", taken.piece.subject, row)
                counted += [key] if found.add([key]) == [True] else []
        found.finish("last")
    assert not found.left
    assert sorted(counted) == sorted(
        ("a", f"s{at}", row) for at, size in enumerate(sizes) for row in range(size)
    )

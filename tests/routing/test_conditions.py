"""Bounds and conditions: truth, reasons, and what follows from their form."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.routing._check_rules import Form, never_holds
from etui.routing.decision import SignalValue
from etui.routing.signals import (
    All,
    AnyOf,
    Bound,
    Condition,
    Holds,
    Not,
    first_failed,
    iter_signal_names,
    reasons_for,
)

NAMES = ("a", "b", "c", "d")

conditions: st.SearchStrategy[Condition] = st.recursive(
    st.sampled_from(NAMES).map(Holds),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=8,
)


def covers(one: Condition, two: Condition) -> bool:
    return Form.of(one).covers(Form.of(two))


def worlds() -> list[dict[str, bool]]:
    return [dict(zip(NAMES, t, strict=True)) for t in product((True, False), repeat=4)]


def seen(truth: dict[str, bool]) -> dict[str, SignalValue]:
    return {n: SignalValue(n, t, int(t), 1.0, "at least 1") for n, t in truth.items()}


@given(conditions)
def test_reasons_and_failures_agree_with_truth(condition: Condition) -> None:
    for truth in worlds():
        true = condition.holds(truth.__getitem__)
        assert (first_failed(condition, seen(truth)) is None) is true
        reasons = reasons_for(condition, seen(truth))
        assert (reasons is not None) is true
        assert reasons is None or reasons


@given(conditions, conditions)
def test_covered_conditions_are_covered_in_every_world(one: Condition, two: Condition) -> None:
    if covers(one, two):
        assert all(
            one.holds(world.__getitem__) for world in worlds() if two.holds(world.__getitem__)
        )


@given(conditions)
def test_contradictions_are_the_unsatisfiable_ones(condition: Condition) -> None:
    assert never_holds(condition) is not any(
        condition.holds(world.__getitem__) for world in worlds()
    )
    assert covers(condition, condition)


def test_forms_that_cover() -> None:
    a, b, c = Holds("a"), Holds("b"), Holds("c")
    assert covers(a, All((a, b)))
    assert covers(AnyOf((a, b)), b)
    assert covers(AnyOf((a, b, c)), AnyOf((c, a)))
    assert covers(All((a, b)), All((c, All((b, a)))))
    assert covers(Not(All((a, b))), Not(All((b, a))))
    assert not covers(All((a, b)), a)
    assert not covers(a, AnyOf((a, b)))


def test_the_first_failing_condition_is_named() -> None:
    world = seen({"a": True, "b": False, "c": False, "d": True})
    assert first_failed(All((Holds("a"), Holds("b"), Holds("c"))), world) == "b (0, at least 1)"
    assert (
        first_failed(AnyOf((Holds("b"), Holds("c"))), world)
        == "none of b (0, at least 1), c (0, at least 1)"
    )
    assert first_failed(Not(Holds("a")), world) == "not a (1, at least 1)"
    assert list(iter_signal_names(All((Holds("a"), Not(Holds("b")))))) == ["a", "b"]
    assert reasons_for(Not(AnyOf((Holds("b"), Holds("c")))), world) == [
        "not b (0, at least 1)",
        "not c (0, at least 1)",
    ]


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        (Bound(at_least=3), [3, 4], [2.9]),
        (Bound(above=3), [3.1], [3]),
        (Bound(at_most=3), [3, -1], [3.1]),
        (Bound(below=3), [2.9], [3]),
        (Bound(at_least=2, below=4), [2, 3.9], [1, 4]),
        (Bound(at_least=22, below=7, wraps=True), [22, 23.5, 0, 6.9], [7, 12, 21.9]),
        (Bound(at_least=9, below=17, wraps=True), [9, 16], [8, 17, 23]),
    ],
)
def test_bounds(bound: Bound, inside: list[float], outside: list[float]) -> None:
    assert all(map(bound.holds, inside))
    assert not any(map(bound.holds, outside))


def test_the_nearest_end_is_the_boundary() -> None:
    bound = Bound(at_least=2, below=10)
    assert [bound.nearest(v) for v in (None, 0, 5, 7, 40)] == [2, 2, 2, 10, 10]
    assert bound.words == "at least 2 and below 10"

"""Which turns are drawn for an audit, and when two answers are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import OutputOptions, Query
from etui.routing.policy import AuditPlan
from etui.runtime.auditor import Agreement, can_audit, compare_answers, is_drawn
from etui.turn.record import TurnRecord

CHOICE = "Which one?\nA) red\nB) blue\nC) green"


@given(st.text(min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_turn_that_is_drawn_at_a_share_is_drawn_at_a_larger_one(
    turn_id: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert not is_drawn(turn_id, small) or is_drawn(turn_id, large)
    assert is_drawn(turn_id, 1)
    assert not is_drawn(turn_id, 0)


def test_the_share_of_drawn_turns_is_the_one_asked_for() -> None:
    drawn = sum(is_drawn(f"turn{number}", 0.05) for number in range(20_000))
    assert 0.045 < drawn / 20_000 < 0.055


@pytest.mark.parametrize(
    ("question", "one", "other", "agrees"),
    [
        (CHOICE, "B", "The answer is (B).", True),
        (CHOICE, "B", "C) green", False),
        (CHOICE, "B", "I do not know", None),
        ("What is 3*4?", "12", "It is 12.0", True),
        ("What is 3*4?", "12", "13", False),
        ("What is the capital of France?", "Paris", "The capital of France is Paris.", True),
        ("What is the capital of France?", "Paris", "Lyon", False),
        ("Is water wet?", "Yes.", "Yes, it is.", True),
        ("Write a poem", "the sea " * 20, "the sky " * 20, None),
        ("Write a poem", "the sea " * 20, "The sea " * 20, True),
        ("What is 3*4?", "", "12", None),
    ],
)
def test_answers_are_compared_by_what_they_mean(
    question: str, one: str, other: str, agrees: bool | None
) -> None:
    found = compare_answers(Query(question), one, other)
    assert found.agrees is agrees
    assert bool(found.why) == (agrees is None)


def test_comparing_is_symmetric() -> None:
    assert compare_answers(Query(CHOICE), "A", "B") == Agreement(False)
    assert compare_answers(Query(CHOICE), "B", "A") == Agreement(False)


def test_only_whole_answers_of_other_arms_are_audited(
    make_turn: Callable[..., TurnRecord],
) -> None:
    plan, query = AuditPlan(1.0, "large", 100.0, 50.0), Query("What is a joule?")
    turn = make_turn(1, arm="quick", status="complete")
    assert can_audit(query, turn, plan)
    assert not can_audit(query, turn, replace(plan, share=0.0))
    assert not can_audit(query, turn, replace(plan, arm="quick"))
    assert not can_audit(query, replace(turn, status="truncated"), plan)
    assert not can_audit(query, replace(turn, answer=" "), plan)
    assert not can_audit(query, replace(turn, tool_calls="[{}]"), plan)
    assert not can_audit(replace(query, options=OutputOptions(json_schema="{}")), turn, plan)
    assert can_audit(replace(query, options=OutputOptions(number=True)), turn, plan)

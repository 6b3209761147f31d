"""Signals are looked at only where a rule asks for them, and words come when they are read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Query
from etui.routing._compile import find_literal_prefix
from etui.routing.decide import decide
from etui.routing.decision import Deferred
from etui.routing.policy import Policy
from tests.routing.seen import see_signals

Make = Callable[[str], Policy]

POLICY = """
version: 1
arms: {quick: {model: tiny}}
signals:
  sums: {keywords: [add]}
  digits: {regex: 'no 1\\d+'}
  asks: {question_marks: {at_least: 1}}
  far: {keywords: [far]}
  both: {score: {asks: 1, far: 1}, at_least: 2}
rules:
  - {name: first, priority: 9, when: {all: [sums, digits]}, use: quick}
  - {name: second, priority: 5, when: {any: [asks, far]}, use: quick}
  - {name: third, priority: 3, when: both, use: quick}
  - {name: rest, use: quick}
"""


def looked_at(policy: Policy, text: str) -> list[str]:
    return [value.name for value in decide(Query(text), policy, available={"tiny"}).signals]


def test_only_what_the_rules_ask_for_is_looked_at(make: Make) -> None:
    policy = make(POLICY)
    # Of an `any` that holds every part is looked at, since the reason names all that hold.
    assert looked_at(policy, "subtract?") == ["sums", "asks", "far"]
    assert looked_at(policy, "add it?") == ["sums", "digits", "asks", "far"]
    assert looked_at(policy, "add no 12") == ["sums", "digits"]
    assert looked_at(policy, "subtract") == ["sums", "asks", "far", "both"]
    every = decide(Query("subtract?"), policy, available={"tiny"}, every_signal=True)
    assert [value.name for value in every.signals] == list(policy.signals)


def test_reading_the_trace_twice_gives_the_same(make: Make) -> None:
    decision = decide(Query("add?"), make(POLICY), available={"tiny"})
    first = decision.trace()
    assert [rule["name"] for rule in first["rules"]] == ["first", "second"]
    assert decision.trace() == first


def test_a_deferred_sequence_is_made_once() -> None:
    made: list[int] = []

    def make_it() -> tuple[int, ...]:
        made.append(1)
        return (1, 2)

    deferred = Deferred(make_it)
    assert made == []
    assert (len(deferred), deferred[0], deferred[-1:], list(deferred)) == (2, 1, (2,), [1, 2])
    assert deferred == (1, 2)
    assert made == [1]


PIECES = st.sampled_from(["a", "b", "ab ", "a?", "b*", "a+", "a{0,2}", "[ab]", "(a)", "\\d", "1_"])


@given(st.lists(PIECES, min_size=1, max_size=5), st.text(alphabet="ab 1_", max_size=12))
def test_every_match_begins_as_the_pattern_plainly_does(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    start = find_literal_prefix(pattern)
    for match in regex.finditer(pattern, text):
        assert match[0].startswith(start)


def test_patterns_that_are_not_looked_into() -> None:
    assert find_literal_prefix("word7\\s+") == "word7"
    assert [find_literal_prefix(p) for p in ("a|b", "(?i)a", "[ab]c", "", "x?y")] == [""] * 5


def test_the_look_ahead_of_a_pattern_changes_no_count(make: Make) -> None:
    policy = make(POLICY)
    seen = see_signals(Query("no 12, no 13"), policy)["digits"]
    assert (seen.holds, seen.value) == (True, 2)
    assert see_signals(Query("none"), policy)["digits"].value == 0


@pytest.mark.parametrize("step", [1, -1])
def test_a_long_chain_of_scores_is_evaluated(make: Make, step: int) -> None:
    """3,000 scores, each of which counts the next or the previous one in the file."""
    names = [f"s{at}" for at in range(3_000)][::step]
    scores = [f"  {a}: {{score: {{{b}: 1}}, at_least: 1}}" for a, b in pairwise(names)]
    last = f"  {names[-1]}: {{keywords: [add]}}"
    lines = [*scores, last] if step == 1 else [last, *scores]
    policy = make(
        "version: 1\narms: {quick: {model: tiny}}\nsignals:\n"
        + "\n".join(lines)
        + f"\nrules:\n  - {{name: a, when: {names[0]}, use: quick}}\n  - {{name: b, use: quick}}\n"
    )
    assert decide(Query("add it"), policy, available={"tiny"}).rule == "a"
    decision = decide(Query("what"), policy, available={"tiny"})
    assert decision.rule == "b"
    assert [value.name for value in decision.signals] == names[::-1]

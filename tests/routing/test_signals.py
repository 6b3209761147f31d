"""Signals are looked at only where a rule asks for them, and words come when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Query
from etui.routing._compile import find_literal_prefix
from etui.routing.check import Form, never_holds
from etui.routing.decide import decide
from etui.routing.decision import Deferred, SignalValue
from etui.routing.policy import Policy
from etui.routing.probes import run_probes
from etui.routing.signals import (
    REGEX_SECONDS,
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
from tests.routing.conftest import Make
from tests.routing.seen import see_signals

BY_METADATA = """
version: 1
arms: {quick: {model: tiny}, deep: {model: tiny, reasoning: cot}}
signals:
  lab: {metadata: {key: team, equals: lab}}
  ours: {metadata: {key: team, one_of: [lab, home]}}
  nightly: {metadata: {key: job, matches: '^night-\\d+$'}}
  named: {metadata: {key: team, exists: true}}
rules:
  - {name: lab, priority: 3, when: lab, use: deep}
  - {name: nightly, priority: 2, when: nightly, use: deep}
  - {name: nobody, priority: 1, when: {not: named}, use: quick}
  - {name: rest, use: quick}
probes:
  - {query: hello, metadata: {team: lab}, rule: lab, arm: deep}
  - {query: hello, metadata: {team: other}, rule: rest, signals: {named: true, ours: false}}
  - {query: hello, rule: nobody, signals: {lab: false}}
"""


def see(policy: Policy, metadata: Mapping[str, str]) -> dict[str, bool]:
    query = Query("hello", metadata=tuple(metadata.items()))
    return {name: value.holds for name, value in see_signals(query, policy).items()}


@pytest.mark.parametrize(
    ("metadata", "holding"),
    [
        ({}, set()),
        ({"team": "lab"}, {"lab", "ours", "named"}),
        ({"team": "home"}, {"ours", "named"}),
        ({"team": "Lab"}, {"named"}),
        ({"team": ""}, {"named"}),
        ({"job": "night-12"}, {"nightly"}),
        ({"job": "a night-12"}, set()),
        ({"jobs": "night-12", "other": "lab"}, set()),
    ],
)
def test_a_signal_holds_for_the_values_it_names(
    make: Make, metadata: Mapping[str, str], holding: set[str]
) -> None:
    found = see(make(BY_METADATA), metadata)
    assert {name for name, holds in found.items() if holds} == holding


def test_metadata_leads_to_an_arm_and_is_unknown_without_it(make: Make) -> None:
    policy = make(BY_METADATA)
    decision = decide(Query("hello", metadata=(("team", "lab"),)), policy, available={"tiny"})
    assert (decision.rule, decision.arm.name) == ("lab", "deep")
    assert decision.why == "lab: lab (lab)"
    situation = see_signals(Query("hello"), policy)
    for name, key in (("lab", "team"), ("nightly", "job"), ("named", "team")):
        signal = situation[name]
        assert (signal.holds, signal.value) == (False, None)
        assert signal.detail == f"the request has no metadata {key!r}"
    assert [outcome.failures for outcome in run_probes(policy)] == [(), (), ()]


def test_a_pattern_that_takes_too_long_is_unknown(make: Make) -> None:
    slow = BY_METADATA.replace("'^night-\\d+$'", "'(a|aa)+$'")
    situation = see_signals(Query("hello", metadata=(("job", "a" * 5000 + "!"),)), make(slow))
    assert situation["nightly"].value is None
    assert f"took more than {REGEX_SECONDS * 1000:.0f} ms" in situation["nightly"].detail


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
    decision = decide(Query("add?"), policy, available={"tiny"})
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


def test_the_literal_prefix_of_a_pattern_changes_no_count(make: Make) -> None:
    assert find_literal_prefix("word7\\s+") == "word7"
    assert [find_literal_prefix(p) for p in ("a|b", "(?i)a", "[ab]c", "", "x?y")] == [""] * 5
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

"""Metadata of a request as signals: its value, a pattern, or that it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from etui.chat import Query
from etui.routing.decide import decide
from etui.routing.policy import Policy
from etui.routing.probes import run_probes
from etui.routing.signals import REGEX_SECONDS
from tests.routing.seen import see_signals

Make = Callable[[str], Policy]

POLICY = """
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
    found = see(make(POLICY), metadata)
    assert {name for name, holds in found.items() if holds} == holding


def test_metadata_leads_to_an_arm_and_the_reason_names_the_signal(make: Make) -> None:
    query = Query("hello", metadata=(("team", "lab"),))
    decision = decide(query, make(POLICY), available={"tiny"})
    assert (decision.rule, decision.arm.name) == ("lab", "deep")
    assert decision.why == "lab: lab (lab)"


def test_without_metadata_the_value_is_unknown_and_the_trace_says_why(make: Make) -> None:
    situation = see_signals(Query("hello"), make(POLICY))
    for name, key in (("lab", "team"), ("nightly", "job"), ("named", "team")):
        signal = situation[name]
        assert (signal.holds, signal.value) == (False, None)
        assert signal.detail == f"the request has no metadata {key!r}"


def test_a_pattern_that_takes_too_long_is_unknown(make: Make) -> None:
    slow = POLICY.replace("'^night-\\d+$'", "'(a|aa)+$'")
    situation = see_signals(Query("hello", metadata=(("job", "a" * 5000 + "!"),)), make(slow))
    assert situation["nightly"].value is None
    assert f"took more than {REGEX_SECONDS * 1000:.0f} ms" in situation["nightly"].detail


def test_probes_can_have_metadata(make: Make) -> None:
    assert [outcome.failures for outcome in run_probes(make(POLICY))] == [(), (), ()]

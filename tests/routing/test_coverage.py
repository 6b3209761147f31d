"""What questions reach of a policy, and whether paraphrases are routed alike."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from etui.routing.library import compile_text
from etui.routing.probes import (
    ProbeOutcome,
    group_paraphrases,
    measure_coverage,
    measure_robustness,
    parse_cases,
    run_probes,
)

POLICY = """
version: 1
arms:
  quick: {model: m}
  large: {model: n}
  huge: {model: m, max_tokens: 999}
  spare: {model: m}
  stated: {model: m}
signals: {a: {keywords: [a]}, b: {keywords: [b]}, c: {keywords: [c]}}
rules:
  - {name: a, when: a, cascade: {arms: [quick, large], accept_at: 0.7}}
  - name: b
    when: b
    objective: {minimize: joules, accuracy: {at_least: 0.5}}
    arms: [quick, huge]
    otherwise: quick
  - name: c
    when: c
    objective: {maximize: accuracy, prior: {quick: 0.4, stated: 0.6}}
    arms: [quick, stated]
  - {name: rest, use: quick}
fallbacks: {load_failed: spare}
"""


def run(*questions: tuple[str, str]) -> tuple[ProbeOutcome, ...]:
    lines = [json.dumps({"query": q, "not_rule": "c", "group": g}) for q, g in questions]
    policy = compile_text(POLICY, "p", ["m", "n"])
    return run_probes(policy, parse_cases("\n".join(lines), policy, file="f"))


def test_a_cascade_reaches_all_its_arms_and_fallbacks_are_not_counted() -> None:
    policy = compile_text(POLICY, "p", ["m", "n"])
    nothing = measure_coverage(policy, ())
    assert nothing.rules == nothing.missed_rules == ("a", "b", "c", "rest")
    assert nothing.arms == nothing.missed_arms == ("quick", "large", "stated")
    assert nothing.percent == 0
    some = measure_coverage(policy, run(("a", "g"), ("x", "g")))
    assert (some.missed_rules, some.missed_arms) == (("b", "c"), ("stated",))
    assert some.percent == 100 * 4 / 7
    every = measure_coverage(policy, run(*((question, "g") for question in "abcx")))
    assert every.percent == 100


def test_groups_that_are_not_routed_alike() -> None:
    groups = group_paraphrases(run(("a", "g"), ("b", "g"), ("b b", "g"), ("x", "h"), ("y", "h")))
    assert [(group.name, group.size, group.is_alike) for group in groups] == [
        ("g", 3, False),
        ("h", 2, True),
    ]
    assert groups[0].routes == ((("b", "quick"), (2, 3)), (("a", "quick"), (1,)))
    assert measure_robustness(groups) == 50
    assert measure_robustness(group_paraphrases(run(("a", "alone")))) is None


@given(st.lists(st.tuples(st.sampled_from("abx"), st.sampled_from("gh")), min_size=1, max_size=12))
def test_shares_are_within_bounds_and_grow_with_questions(asked: list[tuple[str, str]]) -> None:
    policy = compile_text(POLICY, "p", ["m", "n"])
    outcomes = run(*asked)
    percents = [measure_coverage(policy, outcomes[:n]).percent for n in range(len(outcomes) + 1)]
    assert percents == sorted(percents)
    assert 0 <= percents[-1] <= 100
    groups = group_paraphrases(outcomes)
    assert sum(group.size for group in groups) <= len(asked)
    robust = measure_robustness(groups)
    assert robust is None or 0 <= robust <= 100

"""Static checks: every fault of a policy has a place, and the nearest name where one is unknown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import OPEN_SAMPLING, VOTE_TEMPERATURE, Arm, Sampling, VoteStop
from etui.chat import Query
from etui.models.spec import ModelSpec
from etui.routing._compile import compile_regex
from etui.routing.library import CheckedPolicy, check_text
from etui.routing.policy import AuditPlan, Policy, choose_served_arm
from etui.routing.schema.policy_file import json_schema
from etui.yaml.named_files import NamedFile
from tests.routing.seen import see_signals

TEXT = """\
version: 1
arms:
  quick: {model: tiny}
  large: {model: tiny, max_tokens: 900}
rules: [{name: all, use: quick}]
audit: """


@pytest.mark.parametrize(
    ("audit", "faults"),
    [
        (
            "{share: 0, arm: large, joules: {day: 9}}",
            ["a share of 0 audits nothing; write `audit: off`"],
        ),
        (
            "{share: 2, arm: large, joules: {day: 9}}",
            ["the share of audited turns is above 0 and at most 1, not 2"],
        ),
        (
            "{share: -0.1, arm: large, joules: {day: 9}}",
            ["the share of audited turns is above 0 and at most 1, not -0.1"],
        ),
        ("{share: 1, arm: lage, joules: {day: 9}}", ["unknown arm 'lage', did you mean 'large'?"]),
        ("{share: 1, arm: large}", ["missing key 'joules'"]),
        ("{share: 1, arm: large, joules: {}}", ["missing key 'day'"]),
        ("{share: 1, arm: large, joules: {day: 0}}", ["day: must be greater than 0.0, found 0"]),
        (
            "{share: 1, arm: large, joules: {day: 9, reserve: 9}}",
            ["`reserve` (9 J) must be less than `day` (9 J), or no audit begins"],
        ),
        ("no", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
        ("on", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
        ("", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
        ("0.02", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
    ],
)  # fmt: skip
def test_faults_have_one_message(
    check: Callable[[str], CheckedPolicy], audit: str, faults: list[str]
) -> None:
    assert [problem.message for problem in check(TEXT + audit).errors] == faults


def test_an_audit_uses_its_arm(check: Callable[[str], CheckedPolicy]) -> None:
    checked = check(f"{TEXT}{{share: 1, arm: large, joules: {{day: 2000}}}}")
    assert checked.policy is not None
    assert checked.policy.audit == AuditPlan(1.0, "large", 2000.0, 1000.0)
    assert not checked.warnings


def test_an_arm_that_answers_every_turn_audits_nothing(
    check: Callable[[str], CheckedPolicy],
) -> None:
    checked = check(f"{TEXT}{{share: 1, arm: quick, joules: {{day: 2000}}}}")
    assert [problem.message for problem in checked.warnings] == [
        "arm 'large' is unused",
        "nothing is audited: 'quick' answers every turn itself; name another arm",
    ]


@pytest.mark.parametrize("text", [f"{TEXT}off", TEXT.removesuffix("audit: ")])
def test_no_audit_is_the_default(check: Callable[[str], CheckedPolicy], text: str) -> None:
    checked = check(text)
    assert checked.policy is not None
    assert checked.policy.audit is None
    assert [problem.message for problem in checked.warnings] == ["arm 'large' is unused"]


def test_the_schema_has_both_forms() -> None:
    forms = json_schema()["properties"]["audit"]["oneOf"]
    assert {"const": "off", "type": "string"} in forms
    assert any("$ref" in form for form in forms)


Check = Callable[[str], CheckedPolicy]

HEAD = "version: 1\nmodels: {small: [tiny]}\narms:\n  quick: {model: small}\n"
REST = "rules:\n  - {name: rest, use: quick}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("arms: {q: {model: tiny}}\nrules: [{name: r, use: q}]\n", "1:1: missing key 'version'"),
        (
            HEAD.replace("1", "2", 1) + REST,
            "1:10: unsupported version 2; this etui reads version 1",
        ),
        (
            HEAD.replace("[tiny]", "[tiny, smal-1b]") + REST,
            "2:24: unknown model 'smal-1b', did you mean 'small-1b'?",
        ),
        (
            HEAD.replace("[tiny]", "[tiny, tiny]") + REST,
            "2:24: model 'tiny' is listed twice in role 'small'",
        ),
        (
            HEAD.replace("model: small", "model: smal") + REST,
            "4:18: unknown role or model 'smal', did you mean 'small'?",
        ),
        (
            HEAD.replace("model: small", "model: small, think_tokens: 5") + REST,
            "4:39: think_tokens has no effect with reasoning: direct; use cot or vote",
        ),
        (
            HEAD.replace("model: small", "model: small, max_joules: 0") + REST,
            "4:37: max_joules: must be greater than 0.0, found 0",
        ),
        (
            HEAD + REST.replace("use: quick", "use: quik"),
            "6:23: unknown arm 'quik', did you mean 'quick'?",
        ),
        (
            HEAD + "signals: {calc: {keywords: [a]}}\nrules:\n"
            "  - {name: a, when: {any: [{not: clac}]}, use: quick}\n  - {name: b, use: quick}\n",
            "7:34: unknown signal 'clac', did you mean 'calc'?",
        ),
        (
            HEAD + "signals: {calc: {keyword: [a]}}\n" + REST,
            "5:18: unknown key 'keyword', did you mean 'keywords'?",
        ),
        (
            HEAD + "signals: {calc: {keywords: [a], regex: b}}\n" + REST,
            "5:40: keywords and regex in one signal; split it into two signals",
        ),
        (
            HEAD + "signals: {calc: {at_least: 3}}\n" + REST,
            "5:17: a signal needs a kind: keywords, regex, tokens, options, language, score, "
            "nearest, metadata, host",
        ),
        (
            HEAD + "signals: {t: {metadata: {key: team}}}\n" + REST,
            "5:25: say what it has to be: equals, one_of, matches, or exists: true",
        ),
        (
            HEAD + "signals: {t: {metadata: {key: team, equals: a, one_of: [b]}}}\n" + REST,
            "5:56: equals and one_of in one signal; use one of them",
        ),
        (
            HEAD + "signals: {t: {metadata: {key: team, exists: false}}}\n" + REST,
            "5:45: exists: false has no effect; use exists: true, and {not: SIGNAL} in the rule",
        ),
        (
            HEAD + "signals: {t: {metadata: {key: team, matches: '(a'}}}\n" + REST,
            "5:46: invalid regular expression: missing ) at position 2",
        ),
        (
            HEAD + "signals: {t: {metadata: {key: team, equal: a}}}\n" + REST,
            "5:37: unknown key 'equal', did you mean 'equals'?",
        ),
        (
            HEAD + "signals: {t: {metadata: {key: team, equals: a}, at_least: 1}}\n" + REST,
            "5:59: at_least has no effect: this signal is not a number",
        ),
        (
            HEAD + "efforts: {hihg: quick}\n" + REST,
            "5:11: unknown effort 'hihg', did you mean 'high' or 'xhigh'?",
        ),
        (
            HEAD + "efforts: {high: quik}\n" + REST,
            "5:17: unknown arm 'quik', did you mean 'quick'?",
        ),
        (
            HEAD + "signals: {long: {tokens: {at_least: 9}, below: 3}}\n" + REST,
            "5:48: `below` belongs under `tokens`, as in {tokens: {below: 3}}",
        ),
        (
            HEAD + "signals: {long: {tokens: {at_least: 9, below: 3}}}\n" + REST,
            "5:47: no number is both at_least 9 and below 3",
        ),
        (
            HEAD + "signals: {long: {tokens: {}}}\n" + REST,
            "5:26: give at_least, above, at_most or below, as in {at_least: 3}",
        ),
        (
            HEAD + "signals: {low: {host: battery, below: 3}}\n" + REST,
            "5:23: host: 'battery' is not one of battery_percent, hour, free_memory_gb, "
            "gpu_free_memory_gb, gpu_temperature, watts, on_battery, resident, did you mean "
            "'on_battery'?",
        ),
        (
            HEAD + "signals: {low: {host: watts}}\n" + REST,
            "5:23: give a bound, as in {host: ..., at_least: 0.5}",
        ),
        (
            HEAD + "signals: {r: {host: resident}}\n" + REST,
            "5:21: name the model, as in {host: resident, is: large}",
        ),
        (
            HEAD + "signals: {r: {host: resident, is: smol}}\n" + REST,
            "5:35: unknown role or model 'smol', did you mean 'small'?",
        ),
        (
            HEAD + "signals: {r: {regex: '(a'}}\n" + REST,
            "5:22: invalid regular expression: missing ) at position 2",
        ),
        (
            HEAD + "signals: {r: {regex: 'a*'}}\n" + REST,
            "5:22: this pattern matches an empty text, so it always holds",
        ),
        (
            HEAD + "signals: {g: {language: dee}}\n" + REST,
            "5:25: unknown language 'dee', did you mean 'de'?",
        ),
        (
            HEAD + "signals: {s: {score: {t: 1}, at_least: 1}}\n" + REST,
            "5:23: unknown signal 't'; known: s",
        ),
        (
            HEAD + "signals: {s: {score: {s: 1}, at_least: 1}}\n" + REST,
            "5:15: score 's' includes itself",
        ),
        (
            HEAD + "rules:\n  - {name: a, use: quick}\n  - {name: b, use: quick}\n",
            "7:5: rule 'b' is never reached: 'a' (line 6) takes every question before it",
        ),
        (
            HEAD + "signals: {x: {keywords: [a]}}\nrules: [{name: a, when: x, use: quick}]\n",
            "6:9: no rule takes the remaining questions: 'a' is tried last and has a `when`; "
            "end with a rule without `when`",
        ),
        (
            HEAD + "signals: {x: {keywords: [a]}}\nrules:\n"
            "  - {name: a, when: {all: [x, {not: x}]}, use: quick}\n  - {name: b, use: quick}\n",
            "7:5: rule 'a' can never match: its condition contradicts itself",
        ),
        (
            HEAD + "signals: {x: {keywords: [a]}, y: {keywords: [b]}}\nrules:\n"
            "  - {name: a, when: x, use: quick}\n"
            "  - {name: b, when: {all: [x, y]}, use: quick}\n  - {name: c, use: quick}\n",
            "8:5: rule 'b' is never reached: 'a' (line 7) takes every question it would match "
            "before it",
        ),
        (
            HEAD + "signals: {x: {keywords: [a]}}\nrules:\n"
            "  - {name: a, when: x, use: quick}\n  - {name: a, use: quick}\n",
            "8:12: duplicate rule 'a'; the first is on line 7",
        ),
        (
            HEAD + REST.replace("use:", "when: [a], use:"),
            "6:24: when: a condition is the name of a signal, or {all: [...]}, {any: [...]}, "
            "{not: ...}",
        ),
        (
            HEAD + REST + "probes: [{query: x, rule: rst}]\n",
            "7:27: unknown rule 'rst', did you mean 'rest'?",
        ),
        (
            HEAD + REST + "probes: [{query: x}]\n",
            "7:10: a probe needs an expectation: rule, not_rule, arm, not_arm or signals",
        ),
    ],
)
def test_each_fault(check: Check, text: str, fault: str) -> None:
    checked = check(text)
    assert checked.policy is None
    assert f"p.yaml:{fault}" in [str(problem) for problem in checked.errors]


def test_six_faults_at_once(check: Check) -> None:
    checked = check(
        "version: 1\n"
        "models: {small: [tiny, tini]}\n"
        "arms:\n  quick: {model: smal}\n"
        "signals:\n  r: {regex: '['}\n"
        "rules:\n"
        "  - {name: a, when: rr, use: quick}\n"
        "  - {name: b, use: quik}\n"
        "  - {name: c, use: quick}\n"
    )
    assert [problem.line for problem in checked.errors] == [2, 4, 6, 8, 9, 10]


def test_rules_with_the_same_condition_may_differ_in_their_models(check: Check) -> None:
    text = (
        "version: 1\nmodels: {small: [tiny], large: [large-8b]}\n"
        "arms: {quick: {model: small}, big: {model: large}, both: {model: small}}\n"
        "signals: {x: {keywords: [a]}}\nrules:\n"
        "  - {name: a, when: x, use: big}\n  - {name: b, when: x, use: quick}\n"
        "  - {name: c, use: both}\n"
    )
    assert check(text).errors == ()
    swapped = text.replace("use: big", "use: both")
    assert [str(p) for p in check(swapped).errors] == [
        "p.yaml:7:5: rule 'b' is never reached: 'a' (line 6) takes every question it would match "
        "before it"
    ]


def test_warnings(check: Check) -> None:
    checked = check(
        "version: 1\nmodels: {small: [tiny], spare: [tiny]}\n"
        "arms: {quick: {model: small}, slow: {model: tiny}}\n"
        "signals: {x: {keywords: [a]}}\n" + REST
    )
    assert checked.policy is not None
    assert [str(problem) for problem in checked.warnings] == [
        "p.yaml:2:25: role 'spare' is unused",
        "p.yaml:3:31: arm 'slow' is unused",
        "p.yaml:4:11: signal 'x' is unused",
    ]


def test_an_arm_of_an_effort_is_used(check: Check) -> None:
    text = HEAD + "  slow: {model: tiny}\n" + REST + "efforts: {max: slow}\n"
    assert check(text).warnings == ()


@pytest.mark.parametrize(
    ("arm", "fault"),
    [
        ("reasoning: cot, votes: 3", "votes has no effect with reasoning: cot; use vote"),
        ("reasoning: cot, early_exit: {every: 1}", "every: must be at least 8, found 1"),
        (
            "stop: {rule: lead, eps: 0.1}",
            "eps has no effect with rule: lead; use rule: flip",
        ),
        ("votes: 0", "votes: must be at least 1, found 0"),
        ("votes: 3", "votes has no effect with reasoning: direct; use vote"),
        (
            "reasoning: vote, temperature: 0",
            "votes drawn at temperature 0 are identical; use about 0.7",
        ),
        (
            "reasoning: cot, think_tokens: 0",
            "think_tokens: 0 means no thinking; use reasoning: direct",
        ),
        ("weight: one", "weight: 'one' is not one of none, probability, did you mean 'none'?"),
        (
            "reasoning: vote, speculate: auto",
            "speculate: auto and reasoning: vote exclude each other: votes share each batch "
            "already; remove one of them",
        ),
        (
            "speculate: fast",
            "speculate: 'fast' is not one of off, lookup, draft, mtp, auto",
        ),
        (
            "early_exit: {}, reasoning: vote",
            "early_exit has no effect with reasoning: vote; use cot",
        ),
    ],
)
def test_faults_of_arms(check: Check, arm: str, fault: str) -> None:
    checked = check(HEAD.replace("model: small", f"model: small, {arm}") + REST)
    assert checked.policy is None
    assert [problem.message for problem in checked.errors] == [fault]


def test_speculation_of_votes_is_refused_at_its_place(check: Check) -> None:
    arm = "model: small, reasoning: vote, speculate: lookup"
    (problem,) = check(HEAD.replace("model: small", arm) + REST).errors
    assert (problem.line, problem.column) == (4, 53)


SPECS = {
    "tiny": ModelSpec("tiny", "s", (), draft="mini", speculate="auto"),
    "small-1b": ModelSpec("small-1b", "s", ()),
}


def check_arms(arms: str) -> CheckedPolicy:
    text = f"version: 1\nmodels: {{role: [tiny, small-1b]}}\narms: {{{arms}}}\n"
    rules = "rules: [{name: rest, use: a}]\n"
    return check_text(text + rules, NamedFile("p", Path("p.yaml"), "file"), SPECS)


def test_an_arm_that_does_not_say_follows_its_model() -> None:
    checked = check_arms("a: {model: role}, b: {model: role, speculate: off}")
    assert checked.policy is not None
    plans = checked.policy.arms
    assert [(arm.model, arm.speculate) for arm in plans["a"].arms] == [
        ("tiny", "auto"),
        ("small-1b", "off"),
    ]
    assert [arm.speculate for arm in plans["b"].arms] == ["off", "off"]
    assert choose_served_arm(plans["a"], {"small-1b"}.__contains__) == plans["a"].arms[1]


def test_the_speculation_of_a_model_is_ignored_for_votes() -> None:
    checked = check_arms("a: {model: tiny, reasoning: vote}")
    assert checked.policy is not None
    assert checked.policy.arms["a"].arm.speculate == "off"


def test_a_draft_model_that_is_not_there_is_warned_of() -> None:
    checked = check_arms("a: {model: role, speculate: draft}")
    assert [str(problem) for problem in checked.warnings] == [
        "p.yaml:3:36: small-1b has no draft model; add `draft: NAME` to its entry in models.yaml, "
        "or use speculate: lookup"
    ]


def test_a_shadow_is_a_policy_there_is() -> None:
    text = HEAD + REST + "shadow: {policy: frugl}\n"
    place = NamedFile("p", Path("p.yaml"), "file")
    checked = check_text(text, place, {"tiny"}, ["frugal", "best"])
    assert [str(problem) for problem in checked.errors] == [
        "p.yaml:7:18: unknown policy 'frugl', did you mean 'frugal'?"
    ]


def test_an_arm_that_votes(make: Callable[[str], Policy]) -> None:
    arm = (
        "small, reasoning: vote, votes: 5, batch: 3, think_tokens: 0, weight: probability, "
        "stop: {rule: adaptive, threshold: 0.9}"
    )
    policy = make(HEAD.replace("small}", arm + "}") + REST)
    assert policy.arms["quick"].arm == Arm(
        name="quick",
        model="tiny",
        reasoning="vote",
        votes=5,
        batch=3,
        think_tokens=0,
        sampling_from=replace(OPEN_SAMPLING, temperature="vote"),
        weight="probability",
        stop=VoteStop(rule="adaptive", threshold=0.9),
        sampling=Sampling(temperature=VOTE_TEMPERATURE),
    )


EVIL = (r"(a+)+$", r"(a|a)*b", r"(.*a){20}x", r"(\w+\s?)*!", r"(?:(?:a{1,99}){1,99}){1,99}b")


@pytest.mark.parametrize("pattern", EVIL)
def test_a_pattern_cannot_hang_the_decision(make: Callable[[str], Policy], pattern: str) -> None:
    policy = make(HEAD + f"signals: {{evil: {{regex: '{pattern}'}}, fine: {{regex: a}}}}\n" + REST)
    # A hang would take years; what comes back in time is a count or "not known".
    seen = see_signals(Query("a" * 30_000 + " b!?"), policy)
    assert seen["evil"].value is None or isinstance(seen["evil"].value, int)
    assert seen["fine"].holds


@given(st.text(alphabet="ab()[]{}|*+?^$.\\dw,0129-:=!<>P&~'#", max_size=40))
def test_any_pattern_compiles_or_says_why(text: str) -> None:
    with suppress(ValueError):
        compile_regex(text)

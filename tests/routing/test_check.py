"""Static checks: every fault of a policy has a place, and the nearest name where one is unknown."""

from __future__ import annotations

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
from etui.routing.library import CheckedPolicy, FitFacts, check_text
from etui.routing.policy import AuditPlan, choose_served_arm
from etui.routing.schema.policy_file import json_schema
from etui.yaml.named_files import NamedFile
from tests.routing.conftest import Check, Make
from tests.routing.seen import see_signals

PLACE = NamedFile("p", Path("p.yaml"), "file")
HEAD = "version: 1\nmodels: {small: [tiny]}\narms:\n  quick: {model: small}\n"
REST = "rules:\n  - {name: rest, use: quick}\n"
TWO = (
    "version: 1\nmodels: {small: [tiny], large: [large-8b]}\narms:\n"
    "  quick: {model: small}\n  large: {model: large}\n"
)
AUDIT = """\
version: 1
arms:
  quick: {model: tiny}
  large: {model: tiny, max_tokens: 900}
rules: [{name: all, use: quick}]
audit: """
BASES = {
    "whole": ("", ""),
    "after arms": (HEAD, ""),
    "before rules": (HEAD, REST),
    "after rules": (HEAD + REST, ""),
    "arm": (HEAD.removesuffix("}\n") + ", ", "}\n" + REST),
    "two arms": (TWO + REST, "\n"),
    "end": (TWO + "rules:\n  - name: rest\n    ", "\n"),
    "signal": (TWO + "signals:\n  s: ", "\n  a: {keywords: [b]}\n" + REST),
    "audit": (AUDIT, ""),
}
"""Name in faults.tsv -> what comes before and after the text of a fault."""
FAULTS = [
    line.split("\t")
    for line in Path(__file__).with_name("faults.tsv").read_text(encoding="utf-8").splitlines()[1:]
]


@pytest.mark.parametrize(("base", "text", "fault"), FAULTS)
def test_each_fault(check: Check, base: str, text: str, fault: str) -> None:
    before, after = BASES[base]
    checked = check(before + text.replace("\\n", "\n") + after)
    assert checked.policy is None
    errors = [str(problem) for problem in checked.errors]
    assert f"p.yaml:{fault}" in errors
    if base in ("arm", "two arms", "audit"):
        assert len(errors) == 1


def test_an_audit_uses_its_arm(check: Check) -> None:
    checked = check(f"{AUDIT}{{share: 1, arm: large, joules: {{day: 2000}}}}")
    assert checked.policy is not None
    assert checked.policy.audit == AuditPlan(1.0, "large", 2000.0, 1000.0)
    assert not checked.warnings
    checked = check(f"{AUDIT}{{share: 1, arm: quick, joules: {{day: 2000}}}}")
    assert [problem.message for problem in checked.warnings] == [
        "arm 'large' is unused",
        "nothing is audited: 'quick' answers every turn itself; name another arm",
    ]
    for text in (f"{AUDIT}off", AUDIT.removesuffix("audit: ")):
        checked = check(text)
        assert checked.policy is not None
        assert checked.policy.audit is None
        assert [problem.message for problem in checked.warnings] == ["arm 'large' is unused"]
    forms = json_schema()["properties"]["audit"]["oneOf"]
    assert {"const": "off", "type": "string"} in forms
    assert any("$ref" in form for form in forms)


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


SPECS = {
    "tiny": ModelSpec("tiny", "s", (), draft="mini", speculate="auto"),
    "small-1b": ModelSpec("small-1b", "s", ()),
}


def check_arms(arms: str) -> CheckedPolicy:
    text = f"version: 1\nmodels: {{role: [tiny, small-1b]}}\narms: {{{arms}}}\n"
    rules = "rules: [{name: rest, use: a}]\n"
    return check_text(text + rules, PLACE, SPECS)


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
    checked = check_text(text, PLACE, {"tiny"}, ["frugal", "best"])
    assert [str(problem) for problem in checked.errors] == [
        "p.yaml:7:18: unknown policy 'frugl', did you mean 'frugal'?"
    ]


def test_an_arm_that_votes(make: Make) -> None:
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
def test_a_pattern_cannot_hang_the_decision(make: Make, pattern: str) -> None:
    policy = make(HEAD + f"signals: {{evil: {{regex: '{pattern}'}}, fine: {{regex: a}}}}\n" + REST)
    # A hang would take years; what comes back in time is a count or "not known".
    seen = see_signals(Query("a" * 30_000 + " b!?"), policy)
    assert seen["evil"].value is None or isinstance(seen["evil"].value, int)
    assert seen["fine"].holds


@given(st.text(alphabet="ab()[]{}|*+?^$.\\dw,0129-:=!<>P&~'#", max_size=40))
def test_any_pattern_compiles_or_says_why(text: str) -> None:
    with suppress(ValueError):
        compile_regex(text)


VOTING = (
    "version: 1\nmodels: {small: [tiny], large: [large-8b]}\narms:\n"
    "  quick: {model: small}\n  short: {model: small, max_tokens: 9}\n"
    "  thrice: {model: small, reasoning: vote, votes: 3, think_tokens: 0}\n"
    "  large: {model: large}\n"
)


def agreeing(arms: str) -> str:
    end = f"cascade: {{arms: [{{agree: [{arms}]}}, large], accept_at: 0.7}}"
    return f"rules:\n  - name: r\n    {end}\n"


def test_arms_that_differ_only_in_their_names_do_not_agree(check: Check) -> None:
    (fault,) = check(VOTING + agreeing("quick, short")).errors
    assert str(fault).startswith("p.yaml:10:38: 'quick' and 'short' are the same arm: an arm alw")


def test_one_arm_of_votes_agrees_with_itself(check: Check) -> None:
    end = agreeing("thrice")
    checked = check(VOTING + end)
    assert checked.policy is not None
    warnings = [str(each) for each in checked.warnings]
    assert any("the votes of 'thrice' stop by flip in a bench" in each for each in warnings)
    sure = VOTING.replace("votes: 3", "votes: 3, stop: {rule: unanimous}")
    assert not any("stop by" in str(each) for each in check(sure + end).warnings)
    once = VOTING.replace("votes: 3", "votes: 1")
    assert "only 'thrice' answers" in str(check(once + end).errors[0])


BANDS = (
    "signals:\n  a: {keywords: [add]}\n  b: {keywords: [prove]}\n"
    "  hard: {score: {a: 0.3, b: 0.5}, bands: {no: {below: 0.3}, some: {at_least: 0.3, below: 0.6},"
    " very: {at_least: 0.6}}}\n"
)


def test_bands_partition_a_score(make: Make, check: Check) -> None:
    rules = "rules:\n  - {name: a, when: hard.very, use: large}\n  - {name: b, use: quick}\n"
    policy = make(TWO + BANDS + rules)
    for text, band in (("x", "no"), ("add", "some"), ("prove", "some"), ("add, prove", "very")):
        seen = see_signals(Query(text), policy)
        assert [name for name in ("no", "some", "very") if seen[f"hard.{name}"].holds] == [band]
    whole = check(TWO + BANDS + rules.replace("hard.very", "hard"))
    assert [problem.message for problem in whole.errors] == [
        "signal 'hard' has bands; name one: hard.no, hard.some, hard.very"
    ]
    wrong = check(TWO + BANDS + rules.replace("hard.very", "hard.vry"))
    assert "did you mean 'hard.very'?" in wrong.errors[0].message
    assert check(TWO + BANDS + rules).warnings == ()


def test_a_score_of_bands_adds_up_what_lies_behind(check: Check) -> None:
    text = TWO + BANDS + "  top: {score: {hard.very: 1}, at_least: 1}\n" + REST
    assert check(text).errors == ()
    cycle = text.replace("b: {keywords: [prove]}", "b: {score: {top: 1}, at_least: 1}")
    assert [problem.line for problem in check(cycle).errors] == [8, 9, 10]


def test_an_objective_without_otherwise_lets_others_be_reached(check: Check) -> None:
    text = (
        TWO + "rules:\n  - name: best\n    objective: {minimize: joules}\n    arms: [quick]\n"
        "{otherwise}  - {name: rest, use: quick}\n"
    )
    assert check(text.replace("{otherwise}", "")).errors == ()
    taken = check(text.replace("{otherwise}", "    otherwise: quick\n"))
    assert "'best' (line 7) takes every question" in taken.errors[0].message


def test_objectives_without_fit_or_prior_are_worth_a_look() -> None:
    end = "objective: {minimize: joules, accuracy: {at_least: 0.6}}\n    arms: [quick, large]\n"
    text = BASES["end"][0] + end

    def warned(text: str, *fitted: str) -> list[str]:
        found = check_text(text, PLACE, {"tiny", "large-8b"}, fit=FitFacts(dict.fromkeys(fitted)))
        assert found.errors == ()
        return [str(problem) for problem in found.warnings]

    last = (
        "p.yaml:8:5: rule 'rest' is the last and has no `otherwise`: if no candidate qualifies, "
        "no arm answers"
    )
    assert warned(text, "quick", "large") == [last]
    assert warned(text) == [
        "p.yaml:8:5: no accuracy was fitted or stated for quick, large, so it cannot choose until "
        "you run `etui policy fit`",
        last,
    ]
    assert warned(text + "    otherwise: quick\n", "large") == [
        "p.yaml:8:5: no accuracy was fitted or stated for quick, so they never qualify until "
        "you run `etui policy fit`"
    ]
    stated = text.replace("0.6}}", "0.6}, prior: {quick: 0.5, large: 0.7}}")
    assert warned(stated + "    otherwise: quick\n") == []


def test_steps_that_are_never_accepted_and_arms_of_other_models_are_worth_a_look() -> None:
    end = "cascade: {arms: [{agree: [quick, poll], accept: 0.7}, large], accept_at: 0.75}\n"
    text = (BASES["end"][0] + end).replace(
        "arms:\n", "arms:\n  poll: {model: tiny, reasoning: cot}\n", 1
    )

    def warn(at_most: float, known: bool = True, **arms: str | None) -> list[str]:
        fit = FitFacts(arms, {("quick", "poll"): (at_most, known)})
        found = check_text(text, PLACE, {"tiny", "large-8b"}, fit=fit)
        assert found.errors == ()
        return [problem.message for problem in found.warnings]

    assert warn(0.7, quick="tiny", poll="tiny") == []
    (never,) = warn(0.6234, quick="tiny", poll=None)
    assert never == (
        "an answer that quick and poll agree on is never accepted: by the fit it is right 62.3 % "
        "of the time at most, and 70 % is required; lower `accept`, or remove the step"
    )
    (unsure,) = warn(0.6234, False, quick="tiny", poll=None)
    assert unsure.endswith(
        "never accepted: the fit knows only right and wrong, and of that 62.3 % of the time is "
        "certain, and 70 % is required; fit it from bench runs, which have the answers, or lower "
        "`accept`"
    )
    (other,) = warn(0.6, quick="old-model", poll="tiny", gone="x")  # nor is the step predicted
    assert other.startswith("the fit of arm 'quick' is of old-model, so nothing is predicted")

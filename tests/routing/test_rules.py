"""Static checks of cascades, objectives, budgets, fallbacks, bands and neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etui.chat import Query
from etui.routing.library import CheckedPolicy, FitFacts, check_text
from etui.routing.policy import Policy
from etui.yaml.named_files import NamedFile
from tests.routing.seen import see_signals

PLACE = NamedFile("p", Path("p.yaml"), "file")
Check = Callable[[str], CheckedPolicy]

HEAD = (
    "version: 1\nmodels: {small: [tiny], large: [large-8b]}\narms:\n"
    "  quick: {model: small}\n  large: {model: large}\n"
)
REST = "rules:\n  - {name: rest, use: quick}\n"


def rule(end: str) -> str:
    return HEAD + "rules:\n  - name: rest\n    " + end + "\n"


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ("priority: 1", "7:5: a rule needs one of use, cascade, objective, as in `use: ARM`"),
        (
            "use: quick\n    cascade: {arms: [quick, large], accept_at: 0.7}",
            "9:14: use and cascade cannot be combined; use one of them",
        ),
        (
            "cascade: {arms: [quick], accept_at: 0.7}",
            "8:21: a cascade needs two arms or more; use `use: quick`",
        ),
        (
            "cascade: {arms: [quick, large, quick], accept_at: 0.7}",
            "8:36: arm 'quick' is listed twice: the cascade would loop",
        ),
        (
            "cascade: {arms: [quick, lage], accept_at: 0.7}",
            "8:29: unknown arm 'lage', did you mean 'large'?",
        ),
        (
            "cascade: {arms: [quick, large], accept_at: 1}",
            "8:48: accept_at: must be less than 1.0, found 1",
        ),
        ("cascade: {arms: [quick, large]}", "8:14: missing key 'accept_at'"),
        (
            "cascade: {arms: [quick, large], accept_at: 0.7, max_hops: 3}",
            "8:63: max_hops: there are only 2 arms",
        ),
        (
            "cascade: {arms: [quick, large], accept_at: 0.7, max_joules: no}",
            "8:65: max_joules: expected a number, found 'no'",
        ),
        (
            "cascade: {arms: [quick, {arms: [large, quick]}], accept_at: 0.7}",
            "8:29: missing key 'agree'",
        ),
        (
            "cascade: {arms: [{agree: [quick, quick]}, large], accept_at: 0.7}",
            "8:38: arm 'quick' is listed twice: an arm always agrees with itself; name two arms, "
            "or one with `reasoning: vote` and two votes or more",
        ),
        (
            "cascade: {arms: [{agree: [quick]}, large], accept_at: 0.7}",
            "8:30: only 'quick' answers: an arm always agrees with itself; name two arms, or one "
            "with `reasoning: vote` and two votes or more",
        ),
        (
            "cascade: {arms: [{agree: [quick, lage]}, large], accept_at: 0.7}",
            "8:38: unknown arm 'lage', did you mean 'large'?",
        ),
        (
            "cascade: {arms: [{agree: [quick, large]}], accept_at: 0.7}",
            "8:21: nothing follows where the arms of `agree` differ; add a larger arm",
        ),
        (
            "cascade: {arms: [quick, {agree: [quick, large]}], accept_at: 0.7}",
            "8:29: a cascade cannot end with `agree`: nothing follows where its arms differ; add a "
            "larger arm",
        ),
        (
            "cascade: {arms: [{agree: [quick, large]}, quick], accept_at: 0.7}",
            "8:47: arm 'quick' is listed twice: the cascade would loop",
        ),
        (
            "cascade: {arms: [{agree: [quick, large], accept: 1.5}, quick], accept_at: 0.7}",
            "8:54: accept: must be less than 1.0, found 1.5",
        ),
        (
            "cascade: {arms: [{agree: []}, quick], accept_at: 0.7}",
            "8:30: agree: must have at least 1 item",
        ),
        (
            "cascade: {arms: [3, quick], accept_at: 0.7}",
            "8:22: a step of a cascade is the name of an arm, or {agree: [ARM, ARM]}",
        ),
        (
            "objective: {minimize: joules}",
            "8:16: an objective needs candidates: `arms: [quick, large]` in its rule",
        ),
        (
            "objective: {}\n    arms: [quick]",
            "8:16: an objective needs a goal: minimize: joules, or maximize: accuracy",
        ),
        (
            "objective: {minimize: joules, maximize: accuracy}\n    arms: [quick]",
            "8:45: minimize and maximize cannot be combined; put a bound on the other one instead",
        ),
        (
            "objective: {minimize: jouls}\n    arms: [quick]",
            "8:27: minimize: 'jouls' is not one of joules, did you mean 'joules'?",
        ),
        (
            "objective: {minimize: joules, accuracy: {at_least: 62}}\n    arms: [quick]",
            "8:56: at_least: must be less than 1.0, found 62",
        ),
        (
            "objective: {minimize: joules, prior: {large: 0.5}}\n    arms: [quick]",
            "8:50: 'large' is not a candidate of this rule",
        ),
        (
            "objective: {minimize: joules}\n    arms: [quick, quick]",
            "9:19: arm 'quick' is listed twice among the candidates",
        ),
        (
            "objective: {minimize: joules}\n    arms: [quick]\n    otherwise: lrge",
            "10:16: unknown arm 'lrge', did you mean 'large'?",
        ),
        (
            "objective: {maximize: accuracy}\n    arms: [quick]\n    switch_margin_joules: 5",
            "10:27: switch_margin_joules has no effect with maximize: accuracy",
        ),
        (
            "use: quick\n    otherwise: large",
            "9:16: otherwise needs an objective; it has no effect with use",
        ),
    ],
)
def test_faults_of_ends(check: Check, end: str, fault: str) -> None:
    checked = check(rule(end))
    assert checked.policy is None
    assert f"p.yaml:{fault}" in [str(problem) for problem in checked.errors]


TWO = (
    "version: 1\nmodels: {small: [tiny], large: [large-8b]}\narms:\n"
    "  quick: {model: small}\n  short: {model: small, max_tokens: 9}\n"
    "  thrice: {model: small, reasoning: vote, votes: 3, think_tokens: 0}\n"
    "  large: {model: large}\n"
)


def agreeing(arms: str) -> str:
    end = f"cascade: {{arms: [{{agree: [{arms}]}}, large], accept_at: 0.7}}"
    return f"rules:\n  - name: r\n    {end}\n"


def test_arms_that_differ_only_in_their_names_do_not_agree(check: Check) -> None:
    (fault,) = check(TWO + agreeing("quick, short")).errors
    assert str(fault).startswith("p.yaml:10:38: 'quick' and 'short' are the same arm: an arm alw")


def test_one_arm_of_votes_agrees_with_itself(check: Check) -> None:
    end = agreeing("thrice")
    checked = check(TWO + end)
    assert checked.policy is not None
    warnings = [str(each) for each in checked.warnings]
    assert any("the votes of 'thrice' stop by flip in a bench" in each for each in warnings)
    sure = TWO.replace("votes: 3", "votes: 3, stop: {rule: unanimous}")
    assert not any("stop by" in str(each) for each in check(sure + end).warnings)
    once = TWO.replace("votes: 3", "votes: 1")
    assert "only 'thrice' answers" in str(check(once + end).errors[0])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("budgets: {}", "8:10: budgets needs turn, hour or day, as in {turn: {joules: 400}}"),
        ("budgets: {turn: {}}", "8:17: a budget needs a limit: joules, tokens or seconds"),
        (
            "budgets: {turn: {joules: 0}}",
            "8:26: joules: must be greater than 0.0, found 0",
        ),
        (
            "budgets: {hour: {joules: -5}}",
            "8:26: joules: must be greater than 0.0, found -5",
        ),
        (
            "budgets: {hour: {joules: .inf}}",
            "8:26: joules: expected a finite number, found inf",
        ),
        ("budgets: {hour: {joules: yes}}", "8:26: joules: expected a number, found 'yes'"),
        (
            "budgets: {hour: {joules: true}}",
            "8:26: joules: expected a number, found true",
        ),
        (
            "budgets: {turn: {tokens: 2.5}}",
            "8:26: tokens: expected a whole number, found 2.5",
        ),
        (
            "budgets: {turn: {joules: 5, when_exceeded: refuse}}",
            "8:44: when_exceeded: 'refuse' is not one of answer_now",
        ),
        (
            "budgets: {hour: {joules: 5, when_exceeded: degrad}}",
            "8:44: when_exceeded: 'degrad' is not one of degrade, ask, refuse, did you mean "
            "'degrade'?",
        ),
        (
            "budgets: {week: {joules: 5}}",
            "8:11: unknown key 'week'; known: day, degrade_to, hour, turn",
        ),
        (
            "budgets: {turn: {joules: 5}, degrade_to: quick}",
            "8:42: degrade_to has no effect: no hour or day has when_exceeded: degrade",
        ),
        (
            "budgets: {hour: {joules: 5}, degrade_to: quik}",
            "8:42: unknown arm 'quik', did you mean 'quick'?",
        ),
        (
            "fallbacks: {load_failed: quik}",
            "8:26: unknown arm 'quik', did you mean 'quick'?",
        ),
        (
            "fallbacks: {no_answer: next}",
            "8:24: no_answer: 'next' is not one of ask_constrained, next_arm, keep, did you mean "
            "'next_arm'?",
        ),
    ],
)
def test_faults_of_budgets(check: Check, line: str, fault: str) -> None:
    checked = check(HEAD + REST + line + "\n")
    assert checked.policy is None
    assert [str(problem) for problem in checked.errors] == [f"p.yaml:{fault}"]


@pytest.mark.parametrize(
    ("signal", "fault"),
    [
        (
            "{keywords: [a], bands: {x: {below: 1}}}",
            "7:29: bands need a score; they have no effect with keywords",
        ),
        (
            "{score: {a: 1}, bands: {x: {below: 1}}, at_least: 1}",
            "7:56: bands and a bound cannot be combined; turn the bound into a band",
        ),
        (
            "{score: {a: 1}, bands: {low: {at_most: 1}, high: {at_least: 1}}}",
            "7:55: bands 'low' and 'high' overlap",
        ),
        ("{score: {a: 1}, bands: {x.y: {below: 1}}}", "7:30: x.y: 'x.y' does not have the form "),
        (
            "{nearest: {of: log}, at_least: 1}",
            "7:16: name the arm whose answers are counted, as in ",
        ),
        (
            "{nearest: {of: log, by: quick, was: wrong}, at_least: 1}",
            "7:42: turns in the log are not graded; use `was` with of: runs",
        ),
        (
            "{nearest: {of: runs, by: quik}, at_least: 0.5}",
            "7:31: unknown arm 'quik', did you mean 'quick'?",
        ),
        ("{nearest: {of: runs, k: 2}, at_least: 0.5}", "7:30: k: must be at least 5, found 2"),
        ("{nearest: {of: runs}}", "7:16: give a bound, as in {nearest: ..., at_least: 0.5}"),
    ],
)
def test_faults_of_signals(check: Check, signal: str, fault: str) -> None:
    checked = check(HEAD + f"signals:\n  s: {signal}\n  a: {{keywords: [b]}}\n" + REST)
    assert checked.policy is None
    assert any(str(problem).startswith(f"p.yaml:{fault}") for problem in checked.errors), (
        checked.errors
    )


BANDS = (
    "signals:\n  a: {keywords: [add]}\n  b: {keywords: [prove]}\n"
    "  hard: {score: {a: 0.3, b: 0.5}, bands: {no: {below: 0.3}, some: {at_least: 0.3, below: 0.6},"
    " very: {at_least: 0.6}}}\n"
)


def test_bands_partition_a_score(make: Callable[[str], Policy], check: Check) -> None:
    rules = "rules:\n  - {name: a, when: hard.very, use: large}\n  - {name: b, use: quick}\n"
    policy = make(HEAD + BANDS + rules)
    for text, band in (("x", "no"), ("add", "some"), ("prove", "some"), ("add, prove", "very")):
        seen = see_signals(Query(text), policy)
        assert [name for name in ("no", "some", "very") if seen[f"hard.{name}"].holds] == [band]
    whole = check(HEAD + BANDS + rules.replace("hard.very", "hard"))
    assert [problem.message for problem in whole.errors] == [
        "signal 'hard' has bands; name one: hard.no, hard.some, hard.very"
    ]
    wrong = check(HEAD + BANDS + rules.replace("hard.very", "hard.vry"))
    assert "did you mean 'hard.very'?" in wrong.errors[0].message
    assert check(HEAD + BANDS + rules).warnings == ()


def test_a_score_of_bands_adds_up_what_lies_behind(check: Check) -> None:
    text = HEAD + BANDS + "  top: {score: {hard.very: 1}, at_least: 1}\n" + REST
    assert check(text).errors == ()
    cycle = text.replace("b: {keywords: [prove]}", "b: {score: {top: 1}, at_least: 1}")
    assert [problem.line for problem in check(cycle).errors] == [8, 9, 10]


def test_an_objective_without_otherwise_lets_others_be_reached(check: Check) -> None:
    text = (
        HEAD + "rules:\n  - name: best\n    objective: {minimize: joules}\n    arms: [quick]\n"
        "{otherwise}  - {name: rest, use: quick}\n"
    )
    assert check(text.replace("{otherwise}", "")).errors == ()
    taken = check(text.replace("{otherwise}", "    otherwise: quick\n"))
    assert "'best' (line 7) takes every question" in taken.errors[0].message


def test_objectives_without_fit_or_prior_are_worth_a_look() -> None:
    text = rule(
        "objective: {minimize: joules, accuracy: {at_least: 0.6}}\n    arms: [quick, large]"
    )

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
    text = rule("cascade: {arms: [{agree: [quick, poll], accept: 0.7}, large], accept_at: 0.75}")
    text = text.replace("arms:\n", "arms:\n  poll: {model: tiny, reasoning: cot}\n", 1)

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

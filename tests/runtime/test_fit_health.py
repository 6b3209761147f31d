"""A fit against the labels since then: set aside where it is worse than its rate."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import numpy as np
import pytest

from etui.arm import Arm
from etui.chat import Query
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import AgreementHead, FittedModel, Provenance, Share
from etui.learning.graded import ArmFacts, Graded
from etui.learning.labels import LabelledQuestion, LogLabels, label_grade
from etui.learning.predictor import AccuracyPredictor, judge_arm
from etui.models.spec import ModelSpec
from etui.routing.library import compile_text
from etui.routing.policy import Policy
from etui.routing.text_measures import split_question
from etui.runtime.fit_health import (
    ChangedArm,
    FitHealth,
    build_fit_document,
    build_notice,
    format_fit,
    list_models_now,
    measure_health,
)

POLICY = """
version: 1
models: {small: [tiny, old-tiny], big: [large]}
arms:
  quick: {model: small}
  large: {model: big}
rules:
  - {name: all, cascade: {arms: [quick, large], accept_at: 0.7}}
"""
NOW = datetime(2026, 7, 11, tzinfo=UTC)


def make_fit() -> FittedModel:
    """A fit of an arm that is right about stones and wrong about rivers."""
    kinds = np.arange(300) % 2
    texts = [split_question(f"What {('stone', 'river')[k]} is {n}?") for n, k in enumerate(kinds)]
    right = (kinds == 0) ^ (np.random.default_rng(0).random(300) < 0.1)
    table = Graded(
        ("quick", "old"), ("",) * 300, tuple(range(300)), tuple(texts),
        np.c_[right, right], facts={"quick": ArmFacts("tiny")},
    )  # fmt: skip
    origin = Provenance(
        fitted_at="2026-07-01T00:00:00Z", source=("run",), data_sha256="", n=300, excluded=0,
        etui="0",
    )  # fmt: skip
    return fit_accuracy(table, origin)


def make_policy(text: str = POLICY) -> Policy:
    return compile_text(text, "mine", ["tiny", "old-tiny", "large"])


def measure(model: FittedModel, labels: LogLabels | None, *newest: str) -> FitHealth:
    return measure_health(model, make_policy(), labels, newest, now=NOW)


def make_labels(count: int, *, swapped: bool, day: int = 5, model: str = "tiny") -> LogLabels:
    kinds = [n % 2 for n in range(count)]
    return LogLabels(
        questions=tuple(
            LabelledQuestion(
                split_question(f"What {('stone', 'river')[k]} is {n}?"),
                label_grade("quick", (k == 0) != swapped),
            )
            for n, k in enumerate(kinds)
        ),
        created_at=(f"2026-07-{day:02}T00:00:00.000Z",) * count,
        facts={"quick": ArmFacts(model)}, pairs=(), grades=count, audits=0, left_out=0, sha256="",
    )  # fmt: skip


def test_a_fit_that_still_holds_is_kept() -> None:
    found = measure(make_fit(), make_labels(80, swapped=False))
    (quick,) = found.arms
    assert (quick.labels, quick.set_aside) == (80, False)
    assert quick.excess is not None
    assert quick.excess < 0
    assert found.days == 10
    assert found.gone == ("old",)
    assert found.models == {"quick": "tiny"}
    assert (found.missing, found.changed, found.graded) == (("large",), (), 80)


def test_a_fit_that_is_worse_than_its_rate_is_set_aside_until_it_is_fitted_again() -> None:
    model = make_fit()
    found = measure(model, make_labels(80, swapped=True))
    assert found.set_aside == {"quick"}
    heads = AccuracyPredictor(model)
    guarded, arm = heads.set_aside(found.set_aside, ""), Arm("quick", "tiny")
    stone, river = (Query(f"What {word} is 7?") for word in ("stone", "river"))
    plain = heads.accuracy(arm, stone, 0.9)
    assert plain is not None
    one, other = guarded.accuracy(arm, stone, 0.9), guarded.accuracy(arm, river, 0.9)
    assert one is not None
    assert one == other
    assert one.p == model.arms["quick"].rate != plain.p
    assert heads.set_aside(frozenset(), "").accuracy(arm, stone, 0.9) == plain


def test_labels_before_the_fit_and_few_labels_decide_nothing() -> None:
    model = make_fit()
    before = LogLabels(**{
        **{name: getattr(make_labels(80, swapped=True), name) for name in LogLabels.__slots__},
        "created_at": ("2026-06-01T00:00:00.000Z",) * 80,
    })  # fmt: skip
    (quick,) = measure(model, before).arms
    assert (quick.labels, quick.set_aside, quick.predicted) == (0, False, None)
    assert not measure(model, make_labels(6, swapped=True)).set_aside


def test_an_arm_that_is_right_less_often_than_predicted_has_drifted() -> None:
    draw = random.Random(1)
    pairs = [(0.9, float(draw.random() < 0.5)) for _ in range(200)]
    assert judge_arm("quick", 0.9, pairs).drifted
    even = [(0.5, float(draw.random() < 0.5)) for _ in range(200)]
    assert not judge_arm("quick", 0.5, even).drifted


def test_questions_unlike_the_fitted_ones_are_told() -> None:
    model, none = make_fit(), make_labels(0, swapped=False)
    assert measure(model, none, *["What stone is 7?"] * 3).alike == 1
    strange = ["Schreibe ein langes Gedicht über Bäume"]
    assert measure(model, none, *strange).alike == 0
    assert measure(model, none).alike is None


def test_labels_of_another_model_do_not_judge_the_fit() -> None:
    model = make_fit()
    found = measure(model, make_labels(80, swapped=True, model="old-tiny"))
    (quick,) = found.arms
    assert (quick.labels, found.set_aside, found.graded) == (0, frozenset(), 80)


@pytest.mark.parametrize(
    ("here", "changed"),
    [
        (None, ()),
        ({"tiny", "large"}, ()),
        ({"large"}, ()),  # none is here: any of them may come
        ({"old-tiny"}, (ChangedArm("quick", "tiny", ("old-tiny",), is_predicted=False),)),
    ],
)
def test_an_arm_with_another_model_is_not_covered(
    here: set[str] | None, changed: tuple[ChangedArm, ...]
) -> None:
    policy = make_policy()
    models = list_models_now(policy, None if here is None else here.__contains__)
    found = measure_health(make_fit(), policy, None, models=models)
    assert found.changed == changed


def test_an_arm_at_another_place_of_its_weights_is_covered() -> None:
    known = {
        "tiny": ModelSpec("tiny", "", (), backend="desk", same_as="old-tiny"),
        "old-tiny": ModelSpec("old-tiny", "", ()),
        "large": ModelSpec("large", "", ()),
    }
    policy = compile_text(POLICY.replace("[tiny, old-tiny]", "[old-tiny]"), "mine", known)
    models = list_models_now(policy, {"old-tiny"}.__contains__)
    labels = make_labels(80, swapped=True, model="old-tiny")
    found = measure_health(make_fit(), policy, labels, models=models, now=NOW)
    assert (found.changed, found.set_aside) == ((), {"quick"})


def test_another_reasoning_method_is_told_and_still_predicted() -> None:
    policy = make_policy(POLICY.replace("{model: small}", "{model: small, reasoning: cot}"))
    heads = make_fit()
    quick = heads.arms["quick"].model_copy(update={"reasoning": "direct"})
    model = heads.model_copy(update={"arms": heads.arms | {"quick": quick}})
    found = measure_health(model, policy, None)
    assert found.changed == (ChangedArm("quick", "direct", ("cot",), is_predicted=True),)
    lines = list(format_fit(build_fit_document(found)))
    assert (
        "quick was fitted with direct and is cot now: what is predicted is of the other method"
        in lines
    )


def test_a_step_has_the_odds_of_the_fit_unless_an_arm_changed() -> None:
    text = POLICY.replace(
        "arms: [quick, large]", "arms: [{agree: [quick, poll], accept: 0.6}, large]"
    )
    text = text.replace("arms:\n", "arms:\n  poll: {model: small, reasoning: cot}\n", 1)
    share = Share(p=0.5, low=0.4, high=0.55, n=90)
    head = AgreementHead(
        arms=("quick", "poll"), models=("tiny", "tiny"), n=99, known=True, agreed=share,
        apart=(share, share),
    )  # fmt: skip
    model = make_fit().model_copy(update={"agreements": (head,)})
    (step,) = measure_health(model, make_policy(text), None).steps
    assert step.odds is not None
    assert (step.odds.at_most, step.is_out_of_reach, step.is_in_vain) == (0.5, True, True)
    document = build_fit_document(measure_health(model, make_policy(text), None))
    assert document["steps"][0]["never_accepted"]
    assert list(format_fit(document))[-1] == (
        "quick and poll agree: right 50.0 % of the time; 60 % required, so never accepted"
    )
    arms = (Arm("quick", "tiny"), Arm("poll", "tiny"))
    for aside, at_most in (((), 0.5), (("large",), 0.5), (("poll",), 1.0)):
        guarded = AccuracyPredictor(model).set_aside(frozenset(aside), "")
        found = guarded.agreement(arms)  # a fit that is set aside does not forbid to ask
        assert found is not None
        assert (found.agreed, found.at_most) == (0.5, at_most)
    models = {"quick": ("old-tiny",), "poll": ("tiny",), "large": ("large",)}
    (step,) = measure_health(model, make_policy(text), None, models=models).steps
    assert step.odds is None


def test_age_scope_and_state_are_lines_and_a_document() -> None:
    model = make_fit()
    document = build_fit_document(measure(model, make_labels(80, swapped=True), "What stone?"))
    assert json.loads(json.dumps(document)) == document
    assert list(format_fit(document)) == [
        "fit of 2026-07-01, 10 days ago: 300 questions of run",
        "fitted: quick (tiny)",
        "not fitted: large",
        "fitted arms that the policy no longer has, ignored: old",
        "100 % of the newest questions are like those fitted",
        "80 graded or audited turns since",
        "quick: set aside: worse than its rate; 50 % right, 50 % predicted, 80 labels since",
    ]
    origin = model.provenance.model_copy(update={"suites": ("mmlu val",), "fitted_at": "?"})
    unread = measure(model.model_copy(update={"provenance": origin}), None)
    assert next(format_fit(build_fit_document(unread))) == (
        "fit of ?: 300 questions of mmlu val (run)"
    )
    assert "the log cannot be read, so what came since is unknown" in format_fit(
        build_fit_document(unread)
    )
    assert build_notice(unread, "mine") == ""


def test_a_fit_without_an_arm_of_the_policy_says_so() -> None:
    policy = make_policy(POLICY.replace("quick", "swift"))
    found = measure_health(make_fit(), policy, make_labels(9, swapped=False), now=NOW)
    assert (found.arms, found.gone, found.missing) == ((), ("quick", "old"), ("swift", "large"))
    assert (
        "no arm of the policy is in this fit, so nothing is predicted; run `etui policy fit` again"
        in format_fit(build_fit_document(found))
    )

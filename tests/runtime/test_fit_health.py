"""A fit against the labels since then: set aside where it is worse than its rate."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import numpy as np

from etui.arm import Arm
from etui.chat import Query
from etui.log.label_table import LogLabels
from etui.routing.accuracy.drift import judge_arm
from etui.routing.accuracy.fit import fit_heads
from etui.routing.accuracy.fitted_file import FittedModel, Provenance
from etui.routing.accuracy.labels import LabelledQuestion, label_grade
from etui.routing.accuracy.predictor import AccuracyPredictor
from etui.routing.accuracy.table import ArmFacts, Graded
from etui.routing.signals.question_words import split_question
from etui.runtime.fit_health import GuardedHeads, measure_health

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
    return fit_heads(table, origin)


def make_labels(count: int, *, swapped: bool, day: int = 5) -> LogLabels:
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
        facts={}, pairs=(), grades=count, audits=0, left_out=0, sha256="",
    )  # fmt: skip


def test_a_fit_that_still_holds_is_kept() -> None:
    found = measure_health(make_fit(), make_labels(80, swapped=False), ["quick"], now=NOW)
    (quick,) = found.arms
    assert (quick.labels, quick.set_aside) == (80, False)
    assert quick.excess is not None
    assert quick.excess < 0
    assert found.days == 10
    assert found.gone == ("old",)
    assert found.models == {"quick": "tiny", "old": None}


def test_a_fit_that_is_worse_than_its_rate_is_set_aside_until_it_is_fitted_again() -> None:
    model = make_fit()
    found = measure_health(model, make_labels(80, swapped=True), ["quick"], now=NOW)
    assert found.set_aside == {"quick"}
    heads = AccuracyPredictor(model)
    guarded, arm = GuardedHeads(heads, found.set_aside), Arm("quick", "tiny")
    stone, river = (Query(f"What {word} is 7?") for word in ("stone", "river"))
    plain = heads.accuracy(arm, stone, 0.9)
    assert plain is not None
    one, other = guarded.accuracy(arm, stone, 0.9), guarded.accuracy(arm, river, 0.9)
    assert one is not None
    assert one == other
    assert one.p == model.arms["quick"].rate != plain.p
    assert GuardedHeads(heads, frozenset()).accuracy(arm, stone, 0.9) == plain


def test_labels_before_the_fit_and_few_labels_decide_nothing() -> None:
    model = make_fit()
    before = LogLabels(**{
        **{name: getattr(make_labels(80, swapped=True), name) for name in LogLabels.__slots__},
        "created_at": ("2026-06-01T00:00:00.000Z",) * 80,
    })  # fmt: skip
    (quick,) = measure_health(model, before, ["quick"]).arms
    assert (quick.labels, quick.set_aside, quick.predicted) == (0, False, None)
    assert not measure_health(model, make_labels(6, swapped=True), ["quick"]).set_aside


def test_an_arm_that_is_right_less_often_than_predicted_has_drifted() -> None:
    draw = random.Random(1)
    pairs = [(0.9, float(draw.random() < 0.5)) for _ in range(200)]
    assert judge_arm("quick", 0.9, pairs).drifted
    even = [(0.5, float(draw.random() < 0.5)) for _ in range(200)]
    assert not judge_arm("quick", 0.5, even).drifted


def test_questions_unlike_the_fitted_ones_are_told() -> None:
    model, none = make_fit(), make_labels(0, swapped=False)
    assert measure_health(model, none, ["quick"], ["What stone is 7?"] * 3).alike == 1
    strange = ["Schreibe ein langes Gedicht über Bäume"]
    assert measure_health(model, none, ["quick"], strange).alike == 0
    assert measure_health(model, none, ["quick"]).alike is None

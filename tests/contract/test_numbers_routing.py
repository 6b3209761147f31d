"""Decisions of policies, predictions, fits and replays of answers, with a fixed machine."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etui.arm import Arm, VoteStop
from etui.chat import Message, Query
from etui.config.config import Config
from etui.curves.operating_curve import Conditions, OperatingCurve, PhaseCurve, Speed
from etui.energy.keep_warm import (
    Measured,
    choose_keep_warm,
    compute_break_even,
    compute_gap_joules,
    find_cheapest_time,
)
from etui.learning.features import compute_features, predict_fields
from etui.learning.fit import (
    calibration_error,
    compute_auc,
    compute_quality,
    find_agreed,
    fit_accuracy,
)
from etui.learning.fitted_file import FittedModel, Provenance, format_fitted, parse_fitted
from etui.learning.graded import assign_folds
from etui.learning.judge import ReplayTable, judge
from etui.learning.labels import build_scale, compute_bias, estimate_agreement
from etui.learning.policy_replay import cross_fit, replay_policy
from etui.learning.predictor import AccuracyPredictor, judge_arm
from etui.models.catalogue import load_catalogue
from etui.multiple_choice import parse_options
from etui.routing.decide import decide, decide_arm
from etui.routing.decision import Decision, PredictedAccuracy, PredictedAgreement, PredictedJoules
from etui.routing.joules import (
    ArmKey,
    LoggedModelFacts,
    MeasuredAudit,
    PastOutput,
    average_audits,
    fit_line,
    predict_by_audits,
    predict_joules,
    predict_seconds,
    predict_tokens,
)
from etui.routing.library import check_text, load_policy
from etui.routing.policy import Policy
from etui.routing.probes import run_probes
from etui.routing.signals import HostState
from etui.routing.similarity import NeighbourTally, SimilarityIndex, smoothed_share
from etui.routing.text_measures import MEASURES, QuestionText, TextFacts, format_question
from etui.runtime.auditor import is_drawn
from etui.runtime.keep_warm import IdleCost, choose_times, find_best_fixed, replay_gaps
from etui.stats.tests import wilson_low
from etui.yaml.named_files import NamedFile
from tests.contract.numbers import check_numbers
from tests.learning import made
from tests.support.idle_days import DAYS, draw_gaps, flatten

QUERIES = (
    "Hello!",
    "Danke schön, bis morgen",
    "What is the capital of France?",
    "What is 17*23?",
    "How many seconds are in 3.5 hours?",
    "Solve x^2 - 5x + 6 = 0 and prove that there are no other roots.",
    "Write a Python function that merges two sorted lists.\n```\ndef merge(a, b): pass\n```",
    "Why does this fail?\nTraceback (most recent call last):\n  File 'a.py', line 1\nKeyError: x",
    "Which?\nA) x\nB) y\nC) z\nD) w",
    "Which planet is red?\nA) Venus\nB) Mars\nC) The Sun\nD) A comet",
    "word " * 900,
    "Übersetze das ins Deutsche, bitte: the cat sat on the mat.",
    "Traduis en anglais : le chat dort.",
    "計算してください: 12 と 30 の和は？",
    "Summarise the following text in two sentences. " + "The war began in spring. " * 60,
    "Why is the sky blue?",
    "Explain step by step how a transformer attends to earlier tokens.",
    "Is 1009 a prime number? Think carefully.",
    "true or false: water boils at 90 degrees on every mountain",
    "List five rivers of Asia",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel?",
    "Prove that the square root of 2 is irrational.",
    "fix: SELECT * FROM t WHERE a = 1 ORDER",
    "Who wrote The Old Man and the Sea?",
    "compare Rust and Go for a network server, and give reasons",
    "tell me a joke",
    "What would you do if you were me???",
    "Return JSON with the keys a and b.",
    "Calculate the derivative of sin(x) * e^x",
    "ok",
)
HOSTS = {
    "unknown": HostState(),
    "mains": HostState(100.0, False, 14.5, 48.0, 22.0, 51.0, 38.0, "qwen3-4b"),
    "battery": HostState(18.0, True, 23.25, 5.5, None, None, 9.0, "qwen3-0.6b"),
    "hot": HostState(None, None, 3.0, 3.0, 1.0, 88.0, 310.0, None),
}
ORIGIN = Provenance(fitted_at="2026", source=("made",), data_sha256="", n=1, excluded=0, etui="0")
CURVE = OperatingCurve(
    "c1", "2026-11-24", "m", "ab", Conditions("here", "build", 2), "counter", "calibration",
    prefill=PhaseCurve(1.0, 0.02, 1e-6, band=0.1), decode=PhaseCurve(2.0, 0.5, 1e-4, band=0.1),
    meter_share=0.03, speed=Speed(1000.0, 50.0, 30.0, 40.0),
)  # fmt: skip


def draw(*words: str) -> float:
    """A number in [0, 1) that always belongs to these words."""
    return int(hashlib.sha256(" ".join(words).encode()).hexdigest()[:12], 16) / 16**12


@dataclass(frozen=True)
class Known:
    """A predictor whose joules come from a curve of each model, and whose accuracies are given."""

    resident: str | None

    def facts(self, arm: Arm) -> LoggedModelFacts:
        size = 0.5 + 6 * draw(arm.model)
        scaled = replace(
            CURVE,
            prefill=replace(CURVE.prefill, slope=0.02 * size),
            decode=replace(CURVE.decode, slope=0.5 * size),
        )
        return LoggedModelFacts(
            curve=scaled, load_joules=40 * size, load_seconds=2 * size, prompt_overhead=12.0
        )

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        resident = arm.model == self.resident
        return predict_joules(arm, TextFacts(query), self.facts(arm), resident=resident)

    def duration(self, arm: Arm, query: Query) -> float | None:
        resident = arm.model == self.resident
        return predict_seconds(arm, TextFacts(query), self.facts(arm), resident=resident)

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        p = 0.35 + 0.6 * draw(arm.name, query.text[:40])
        return PredictedAccuracy(p, wilson_low(p, 120, confidence), confidence, 120, "fitted")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        return None

    def agreement(self, arms: Sequence[Arm], raw: Sequence[Any] = ()) -> PredictedAgreement | None:
        return None


def shorten(decision: Decision) -> dict[str, Any]:
    """A decision without its signals and rules, which the same question has on every machine."""
    trace = decision.trace()
    left_out = ("signals", "rules", "fallbacks", "budget", "shadow")
    return {key: value for key, value in trace.items() if key not in left_out and value}


@pytest.mark.parametrize("name", ["frugal", "balanced", "best"])
def test_decisions_of_the_shipped_policies(name: str, config: Config) -> None:
    models = load_catalogue(config).models
    policy = load_policy(name, config, models)
    found: dict[str, Any] = {}
    for at, text in enumerate(QUERIES):
        for host, state in HOSTS.items():
            if host not in ("unknown", "mains") and at % 3:
                continue
            decision = decide(
                Query(text), policy, available=models, host=state, predictor=Known(state.resident)
            )
            if host == "unknown":
                found[text[:24]] = decision.trace() if at % 5 else decision
            else:
                found[f"{text[:24]} ({host})"] = shorten(decision)
    few = {"smollm2-135m", "qwen3-0.6b"}
    for text in QUERIES[::3]:
        decision = decide(Query(text), policy, available=few, every_signal=True)
        found[f"{text[:24]} (few models)"] = shorten(decision)
        found[f"{text[:24]} (signals)"] = [(s.name, s.holds, s.value) for s in decision.signals]
    query = Query(
        "And twice that?",
        history=(Message("user", "What is 3+4?"), Message("assistant", "7")),
    )
    found["second turn"] = decide(query, policy, available=models).trace()
    for arm in policy.arms:
        asked = decide_arm(policy, arm, available=models, query=query, predictor=Known(None))
        found[f"arm {arm}"] = [asked.arm, shorten(asked)]
    found["probes"] = [(o.probe.id, o.failures) for o in run_probes(policy)]
    check_numbers(f"routing-{name}", found)


HEAD = """
version: 1
description: d
models: {small: [small], large: [large]}
arms:
  weak: {model: small}
  strong: {model: large}
"""
POLICIES = {
    "rules": """
signals: {symbolic: {regex: '='}}
rules:
  - {name: symbols, priority: 9, when: symbolic, use: strong}
  - {name: rest, use: weak}
""",
    "objective": """
rules:
  - name: all
    objective: {minimize: joules, accuracy: {at_least: 0.6, confidence: 0.8}}
    arms: [weak, strong]
    otherwise: strong
""",
    "cascade": """
rules:
  - {name: up, cascade: {arms: [weak, strong], accept_at: 0.75}}
""",
}


def build_policy(name: str) -> Policy:
    place = NamedFile(name, Path(f"{name}.yaml"), "file")
    found = check_text(HEAD + POLICIES[name], place, ("small", "large"))
    assert found.policy is not None, found.errors
    return found.policy


@pytest.mark.parametrize("name", POLICIES)
def test_decisions_and_replays_of_every_kind_of_rule(name: str) -> None:
    policy, models = build_policy(name), ("small", "large")
    table = made.graded(200)
    assert table.joules is not None
    heads = AccuracyPredictor(fit_accuracy(made.graded(300, seed=5), ORIGIN))
    decisions = [
        decide(Query(text), policy, available=models, predictor=Known("small"))
        for text in QUERIES[::2]
    ]
    routed = replay_policy(policy, table, table.joules, label="J", heads=heads)
    judged = judge(ReplayTable(table, table.joules, "J", ("counter",)), {}, [routed])
    found = {
        "decisions": decisions,
        "chosen": routed.chosen,
        "cost": routed.cost,
        "rules": routed.rules,
        "judged": judged,
    }
    check_numbers(f"routing-rules-{name}", found, relative=1e-9)


def test_predicted_joules() -> None:
    arms = (
        Arm("quick", "m", max_tokens=100),
        Arm("think", "m", "cot", think_tokens=200, max_tokens=100),
        Arm("vote", "m", "vote", think_tokens=50, max_tokens=50, votes=6, stop=VoteStop("all")),
        Arm("lead", "m", "vote", think_tokens=50, max_tokens=50, votes=6, stop=VoteStop("lead")),
        Arm("choose", "m", readout="choices"),
    )
    audits = [MeasuredAudit(16.0 + at, 1.6, 1.6 + at / 10, 40.0 + 9 * at) for at in range(9)]
    with_curve = LoggedModelFacts(curve=CURVE, load_joules=30.0, load_seconds=2.0)
    facts = {
        "curve": with_curve,
        "past": replace(with_curve, past={ArmKey.of(arms[1]): PastOutput(12, 140.0)}),
        "speed": LoggedModelFacts(speed=Speed(400.0, 38.0, 50.0, 45.0), load_joules=30.0),
        "audits": LoggedModelFacts(
            audits={"quick": average_audits(audits)}, load_joules=30.0, load_seconds=3.0
        ),
        "nothing": LoggedModelFacts(),
    }
    found: dict[str, Any] = {}
    for label, known in facts.items():
        for arm in arms:
            for text in (QUERIES[2], QUERIES[9], QUERIES[14]):
                measures = TextFacts(Query(text))
                for resident in (True, False):
                    found[f"{label} {arm.name} {text[:12]} {resident}"] = [
                        predict_joules(arm, measures, known, resident=resident),
                        predict_seconds(arm, measures, known, resident=resident),
                    ]
                found[f"{label} {arm.name} {text[:12]}"] = predict_tokens(arm, measures, known, 8)
    found["lines"] = [
        fit_line([(float(at), 3 + 0.2 * at + at % 3) for at in range(count)])
        for count in (4, 6, 20)
    ]
    found["by audits"] = predict_by_audits(average_audits(audits), 77.0)
    check_numbers("routing-joules", found)


def test_measures_of_texts() -> None:
    found: dict[str, Any] = {}
    for text in QUERIES:
        facts = TextFacts(Query(text))
        found[text[:24]] = {
            "measures": {name: facts.measure(name) for name in MEASURES},
            "tokens": facts.chat_tokens,
            "options": parse_options(text),
            "features": compute_features(QuestionText(text, ())),
        }
    index = SimilarityIndex([text[:300] for text in QUERIES])
    found["nearest"] = [index.nearest(text[:60], 5) for text in QUERIES]
    found["shares"] = [
        smoothed_share(NeighbourTally(hits, n, base=0.3, size=40))
        for hits, n in ((0, 0), (2, 5), (9, 9))
    ]
    check_numbers("routing-texts", found)


def test_a_fit_and_its_predictions() -> None:
    table = made.graded(400)
    fitted = fit_accuracy(table, ORIGIN)
    heads = AccuracyPredictor(parse_fitted(format_fitted(fitted), "f"))
    arms = (Arm("weak", "small"), Arm("strong", "large"))
    later = made.graded(40, seed=9)
    found: dict[str, Any] = {"folds": assign_folds(table)}
    found["fitted"] = summarise_fit(fitted)
    for question in later.questions:
        query = Query(format_question(question))
        found[query.text[:60]] = {
            "accuracies": [
                heads.accuracy(arm, query, level) for arm in arms for level in (0.5, 0.9)
            ],
            "needs": heads.needs(query),
        }
    found["calibrated"] = [
        heads.calibrated(arm, confidence, margin)
        for arm in arms
        for confidence, margin in ((None, 0.1), (None, 0.9), (0.9, None), (0.4, 0.2), (None, None))
    ]
    found["agreement"] = heads.agreement(arms)
    check_numbers("learning-fit", found, relative=1e-9)


def summarise_fit(fitted: FittedModel) -> dict[str, Any]:
    """The figures of a fitted file that are not its packed weights."""
    document = fitted.model_dump(mode="json")
    return {
        "heads": {
            name: {key: head[key] for key in ("n", "rate", "quality", "curves") if key in head}
            for name, head in document["arms"].items()
        },
        "needs": [
            {key: value for key, value in need.items() if not isinstance(value, dict | list)}
            for need in document["needs"]
        ],
    }


def test_routers_are_cross_fitted_and_judged() -> None:
    table = made.graded(150, seed=2)
    assert table.joules is not None
    routers = cross_fit(table)
    judged = judge(ReplayTable(table, table.joules, "J", ("counter",)), routers)
    found = {
        "p": {name: p[:40] for name, p in routers.items()},
        "judged": judged,
        "errors": [calibration_error(p[:, 0], table.correct[:, 0]) for p in routers.values()],
        "auc": [compute_auc(p[:, 1], table.correct[:, 1]) for p in routers.values()],
        "quality": [compute_quality(p[:, 1], table.correct[:, 1]) for p in routers.values()],
    }
    check_numbers("learning-routers", found, relative=1e-9)


def test_agreement_and_audits() -> None:
    models = [
        estimate_agreement(agreed, compared, audit)
        for agreed, compared, audit in ((0, 0, 0.7), (8, 20, 0.8), (19, 20, 0.6), (300, 400, 0.9))
    ]
    rng = random.Random(1)
    pairs = [(p, float(rng.random() < p - 0.2)) for p in (rng.random() for _ in range(300))]
    found: dict[str, Any] = {
        "models": models,
        "properties": [
            (one.agreement, one.bias, one.arm_right(True), one.arm_right(False),
             one.audit_right(True), one.audit_right(False), one.audit_right(False, False))
            for one in models
        ],
        "scale": build_scale(models[1]),
        "bias": [compute_bias(0.1, 0.2), compute_bias(0.3, 0.05)],
        "health": [judge_arm("a", 0.5, pairs[:count]) for count in (0, 3, 40, 300)],
        "drawn": [is_drawn(f"turn{at}", 0.25) for at in range(60)],
        "agreed": find_agreed(made.graded(60), made.ARMS),
    }  # fmt: skip
    check_numbers("learning-agreement", found, relative=1e-9)


def test_fields_of_questions() -> None:
    questions = [QuestionText(text[:200], ()) for text in QUERIES]
    check_numbers("learning-fields", predict_fields(questions), relative=1e-6)


def test_how_long_a_model_stays_in_memory() -> None:
    load, watts = Measured(1500.0, 60.0), Measured(35.0, 1.0)
    cost = IdleCost(load, watts, Measured(10.0, 0.5))
    found: dict[str, Any] = {"even": compute_break_even(load, watts)}
    for kind, day in DAYS.items():
        gaps = flatten(draw_gaps(day, 3, 2))
        found[kind] = {
            "replay": replay_gaps(gaps, cost, choose_times(gaps, cost)),
            "times": choose_times(gaps[:60], cost),
            "best": find_best_fixed(gaps, 1500.0, 35.0),
            "cheapest": find_cheapest_time(gaps, 1500.0, 35.0),
            "chosen": [choose_keep_warm(gaps[:count], load, watts) for count in (0, 3, 40)],
        }
    found["gap"] = [compute_gap_joules(gap, 60.0, 1500.0, 35.0) for gap in (0.0, 59.0, 60.0, 900.0)]
    check_numbers("idle-times", found)


def test_random_numbers_are_those_of_today() -> None:
    """The other tests rest on these generators."""
    found = [random.Random(1).random(), float(np.random.default_rng(1).random())]
    check_numbers("generators", found)

"""How long a decision takes, and how long a policy takes to load.

Run ``python -m benchmarks.routing [--json]``. Nothing is loaded into llama.cpp; the questions are
made up here, from a greeting to a text of 2,000 words.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import yaml

from benchmarks.figures import Figure, median_of, ratio_of, timed_in_turn
from benchmarks.log import made_turn
from etui.arm import Arm
from etui.chat import Query
from etui.config.config import load_config
from etui.curves.operating_curve import Conditions, OperatingCurve, PhaseCurve, Speed
from etui.learning.features import FEATURE_NAMES
from etui.learning.fitted_file import (
    ArmHead,
    Bands,
    FittedModel,
    Provenance,
    Quality,
    Rate,
    Sparse,
)
from etui.learning.predictor import AccuracyPredictor
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.routing.decide import decide
from etui.routing.decision import (
    PredictedAccuracy,
    PredictedAgreement,
    PredictedJoules,
    RawConfidence,
)
from etui.routing.joules import ArmKey, LoggedModelFacts, PastOutput, predict_joules
from etui.routing.library import load_policy
from etui.routing.policy import Policy
from etui.routing.signals import HostState
from etui.routing.text_measures import BUCKETS, TextFacts
from etui.runtime.caches import LogCache
from etui.runtime.log_predictor import NeighbourMemory, read_neighbours

QUESTIONS = (
    "Hello!",
    "What is the capital of France?",
    "Solve x^2 - 5x + 6 = 0 and explain each step.",
    "Write a Python function that reverses a list.\n```\ndef f(x):\n    pass\n```",
    "Which organ makes insulin?\nA) liver\nB) pancreas\nC) spleen\nD) kidney\nAnswer:",
    "A train leaves at 9:40 and drives 120 km at 80 km/h. When does it arrive, and why?",
)
LONG = "The quick brown fox jumps over the lazy dog. " * 222


ARMS = ("quick", "think", "large", "large-think")
OBJECTIVE = (
    "version: 1\narms:\n"
    + "".join(f"  {name}: {{model: smollm2-135m}}\n" for name in ARMS)
    + "rules:\n  - name: rest\n"
    "    objective: {minimize: joules, accuracy: {at_least: 0.1}}\n"
    f"    arms: [{', '.join(ARMS)}]\n    otherwise: quick\n"
)


NEAREST = """version: 1
arms: {quick: {model: smollm2-135m}, large: {model: smollm2-135m, max_tokens: 99}}
signals: {like_large: {nearest: {of: log, by: large, k: 50}, at_least: 0.5}}
rules:
  - {name: like-large, when: like_large, use: large}
  - {name: rest, use: quick}
"""
LOGGED = 2000
"""Questions that a `nearest` signal searches at most."""


def drawn_question(draw: random.Random, words: int = 12) -> str:
    """A question of drawn words, frequent ones more often than rare ones, as in a language."""
    return " ".join(f"word{int(draw.paretovariate(0.7)) % 5000}" for _ in range(words)) + "?"


@contextmanager
def nearest_decisions(models: Collection[str]) -> Iterator[tuple[Callable[[], None], ...]]:
    """Decide by a `nearest` signal over the 2,000 newest turns of a log.

    Yields:
        A function that saves one more turn, and one that reads the earlier questions and decides.
    """
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nearest.yaml"
        path.write_text(NEAREST)
        config = replace(load_config(), home=Path(folder))
        policy = load_policy(str(path), config, models)
        kept, memory = LogCache(config), NeighbourMemory()
        with TurnWriter(config) as writer:

            def save() -> None:
                turn = made_turn(next(count), draw, words)
                arm = draw.choice(("quick", "large"))
                writer.save_turn(replace(turn, query=drawn_question(draw), arm=arm))
                writer.flush()

            def decide_one() -> None:
                neighbours = read_neighbours(policy, config, kept, memory)
                query = Query(drawn_question(draw))
                decide(query, policy, available={"smollm2-135m"}, neighbours=neighbours)

            count, words = iter(range(10**8)), [f"word{number}" for number in range(500)]
            for _ in range(LOGGED):
                save()
            yield save, decide_one


def after_each(save: Callable[[], None], work: Callable[[], None], repeats: int) -> list[float]:
    """Durations of single calls in milliseconds, each after one more turn was saved."""
    durations = []
    for _ in range(repeats):
        save()
        durations += milliseconds(work, 1)
    return durations


def fitted_model(arms: Iterable[str]) -> FittedModel:
    """A fit of the size that 57 subjects and a few thousand answers give; its numbers are drawn."""
    draw = random.Random(0)

    def sparse(count: int) -> Sparse:
        at = tuple(sorted(draw.sample(range(BUCKETS), count)))
        return Sparse(at=at, value=tuple(draw.uniform(-0.3, 0.3) for _ in at))

    def head() -> ArmHead:
        return ArmHead(
            model=None,
            reasoning=None,
            n=3000,
            rate=0.6,
            rates={f"band-{n}": Rate(p=0.6, n=50) for n in range(57)},
            quality=Quality(brier=0.2, brier_rate=0.24, ece=0.02, auc=0.7),
        )

    return FittedModel(
        version=1,
        features=FEATURE_NAMES,
        idf=tuple(draw.uniform(1, 8) for _ in range(BUCKETS)),
        bands=Bands(centroids={f"band-{n}": sparse(300) for n in range(57)}, sharpness=10.0),
        arms={arm: head() for arm in arms},
        provenance=Provenance(
            fitted_at="2026",
            source=("drawn",),
            data_sha256="0",
            n=3000,
            excluded=0,
            etui="benchmark",
        ),
    )


def large_policy(rules: int) -> str:
    """A policy of so many rules, each with a signal of its own."""
    kinds = (
        "{{keywords: [alpha{n}, beta{n}, gamma delta {n}]}}",
        "{{regex: 'word{n}\\s+\\d+', at_least: 2}}",
        "{{tokens: {{at_least: {n}000}}}}",
        "{{options: {{at_least: 1{n}}}}}",
    )
    lines = ["version: 1", "models: {small: [smollm2-135m]}", "arms:", "  quick: {model: small}"]
    lines.append("signals:")
    lines += [f"  s{n}: " + kinds[n % len(kinds)].format(n=n) for n in range(1, rules)]
    lines.append("rules:")
    for n in range(1, rules):
        other = n % (rules - 1) + 1
        lines += [
            f"  - name: rule-{n}",
            f"    priority: {1000 - n}",
            f"    when: {{all: [s{n}, {{not: s{other}}}]}}",
            "    use: quick",
        ]
    return "\n".join([*lines, "  - {name: rest, use: quick}"]) + "\n"


def milliseconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Durations of single calls, in milliseconds."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        work()
        durations.append((time.perf_counter_ns() - start) / 1e6)
    return durations


def summary(durations: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    return {
        "median_ms": round(statistics.median(durations), 4),
        "p99_ms": round(statistics.quantiles(durations, n=100)[98], 4),
        "n": len(durations),
    }


class Stated:
    """A predictor with made-up joules, and accuracies from fitted heads or made up.

    Heads keep what they saw of the last question, so each question is asked about afresh.
    """

    def __init__(self, heads: AccuracyPredictor | None = None) -> None:
        self._heads = heads
        self._count = 0

    def joules(self, arm: Arm, query: Query) -> PredictedJoules:
        return PredictedJoules(0.0, 2.0, float(len(arm.name)), source="made up")

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        if self._heads is None:
            return PredictedAccuracy(0.7, 0.65, confidence, 100, "made up")
        self._count += 1
        again = replace(query, text=f"{query.text} {self._count // len(ARMS)}")
        return self._heads.accuracy(arm, again, confidence)

    def duration(self, arm: Arm, query: Query) -> float | None:
        return None

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        return None

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        return confidence


def decisions(
    policy: Policy,
    questions: tuple[str, ...],
    repeats: int,
    predictor: Stated | None = None,
    *,
    every_signal: bool = False,
) -> dict[str, float]:
    """Decisions over the questions in turn."""
    host = HostState(hour=12.0, free_memory_gb=8.0)
    durations = []
    for question in questions:
        query = Query(question)
        durations += milliseconds(
            lambda q=query: decide(
                q,
                policy,
                available={"smollm2-135m"},
                host=host,
                predictor=predictor,
                every_signal=every_signal,
            ),
            repeats,
        )
    return summary(durations)


THINK = Arm("think", "smollm2-135m", "cot", think_tokens=200, max_tokens=100)


def forecaster() -> Callable[[], object]:
    """One forecast of an arm's joules, by a curve and past answers."""
    curve = OperatingCurve(
        "c1", "2026-11-24", THINK.model, "ab", Conditions("here", "build", 2), "counter",
        "calibration", prefill=PhaseCurve(1.0, 0.02, band=0.1),
        decode=PhaseCurve(2.0, 0.5, 1e-4, band=0.1), speed=Speed(1000.0, 50.0, 30.0, 40.0),
    )  # fmt: skip
    past = {ArmKey.of(THINK): PastOutput(45, 60.0)}
    facts = LoggedModelFacts(curve=curve, past=past, load_joules=30.0, load_seconds=2.0)
    text = TextFacts(Query("x" * 400))
    return lambda: predict_joules(THINK, text, facts, resident=False)


def predictor(heads: AccuracyPredictor) -> Callable[[], object]:
    """The accuracies of two arms on one question, in every call another one."""
    queries = cycle([Query(f"{QUESTIONS[at % len(QUESTIONS)]} {at}") for at in range(60)])
    arms = [Arm(name, "smollm2-135m") for name in ARMS[:2]]

    def predict() -> object:
        query = next(queries)
        return [heads.accuracy(arm, query, 0.9) for arm in arms]

    return predict


def quick() -> Iterator[Figure]:
    """Decisions, loads and predictions, each against the plain thing that it extends."""
    config = load_config()
    models = load_catalogue(config).models
    host = HostState(hour=12.0, free_memory_gb=8.0)
    queries = [Query(question) for question in QUESTIONS]

    def deciding(
        policy: Policy, asked: list[Query], predictor: Stated | None = None
    ) -> Callable[[], object]:
        return lambda: [
            decide(query, policy, available={"smollm2-135m"}, host=host, predictor=predictor)
            for query in asked
        ]

    frugal, balanced = (load_policy(name, config, models) for name in ("frugal", "balanced"))
    plain = deciding(frugal, queries)
    pairs = timed_in_turn(deciding(balanced, queries), plain, 20, repeats=(10, 10))
    yield ratio_of("decide, balanced : frugal", pairs)
    milliseconds = [1e3 * own / len(queries) for own, _ in pairs]
    yield median_of("decide, balanced", milliseconds, "ms", "absolute")
    long = deciding(balanced, [Query(LONG)] * len(queries))
    pairs = timed_in_turn(long, deciding(balanced, queries), 10, repeats=(2, 10))
    yield ratio_of("decide, 2,000 words : short questions", pairs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.yaml"
        path.write_text(large_policy(200))
        text = path.read_text()
        pairs = timed_in_turn(
            lambda: load_policy(str(path), config, models), lambda: yaml.safe_load(text), 5
        )
        yield ratio_of("load 200 rules : PyYAML's safe_load of the file", pairs)
        large = load_policy(str(path), config, models)
        path.write_text(OBJECTIVE)
        weighing = load_policy(str(path), config, models)
    pairs = timed_in_turn(deciding(large, queries), plain, 10, repeats=(2, 10))
    yield ratio_of("decide, 200 rules : frugal", pairs)
    heads = AccuracyPredictor(fitted_model(weighing.arms))
    fitted, stated = (deciding(weighing, queries, one) for one in (Stated(heads), Stated()))
    pairs = timed_in_turn(fitted, stated, 20, repeats=(4, 10))
    yield ratio_of("decide by an objective, fitted heads : stated accuracies", pairs)
    pairs = timed_in_turn(forecaster(), plain, 20, repeats=(100, 5))
    yield ratio_of(
        "forecast of one arm's joules : a decision",
        [(one, decided / len(queries)) for one, decided in pairs],
    )
    microseconds = [1e6 * one for one, _ in pairs]
    yield median_of("forecast of one arm's joules", microseconds, "us", "absolute")
    pairs = timed_in_turn(predictor(heads), plain, 20, repeats=(30, 5))
    yield ratio_of(
        "accuracies of two arms by fitted heads : a decision",
        [(one, decided / len(queries)) for one, decided in pairs],
    )
    microseconds = [1e6 * one for one, _ in pairs]
    yield median_of("accuracies of two arms by fitted heads", microseconds, "us", "absolute")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument(
        "--audits", type=Path, help="simulate audits on this table of outcomes of two arms"
    )
    parser.add_argument("--data", type=Path, help="folder of MMLU's files, for --audits")
    parser.add_argument("--share", type=float, default=0.05, help="share that is audited")
    parser.add_argument("--seeds", type=int, default=5, help="number of simulations")
    parser.add_argument(
        "--ladder",
        metavar="A,B",
        help="with --audits: two simulated arms of these accuracies in place of the table's",
    )
    options = parser.parse_args()
    if options.audits is not None:
        from benchmarks.audits import format_simulation, simulate_file

        simulated = simulate_file(
            options.audits, options.data, options.share, options.seeds, options.ladder
        )
        if options.json:
            print(json.dumps(simulated, indent=2))
        else:
            print("\n".join(format_simulation(simulated)))
        return
    config = load_config()
    models = load_catalogue(config).models
    report: dict[str, dict[str, float]] = {}
    for name in ("frugal", "balanced", "best"):
        policy = load_policy(name, config, models)
        report[f"decide {name}"] = decisions(policy, QUESTIONS, options.repeats)
        report[f"decide {name}, 2,000 words"] = decisions(policy, (LONG,), options.repeats // 5)
        loads = milliseconds(lambda n=name: load_policy(n, config, models), 20)
        report[f"load {name}"] = summary(loads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.yaml"
        path.write_text(large_policy(200))
        first = milliseconds(lambda: load_policy(str(path), config, models), 1)[0]
        loads = milliseconds(lambda: load_policy(str(path), config, models), 20)
        report["load 200 rules"] = {**summary(loads), "first_ms": round(first, 2)}
        large = load_policy(str(path), config, models)
        report["decide 200 rules"] = decisions(large, QUESTIONS, options.repeats // 5)
        report["decide 200 rules, every signal"] = decisions(
            large, QUESTIONS, options.repeats // 5, every_signal=True
        )
        path.write_text(OBJECTIVE)
        weighing = load_policy(str(path), config, models)
        report["decide by an objective, stated"] = decisions(
            weighing, QUESTIONS, options.repeats, Stated()
        )
        heads = AccuracyPredictor(fitted_model(weighing.arms))
        report["decide by an objective, fitted heads"] = decisions(
            weighing, QUESTIONS, options.repeats // 5, Stated(heads)
        )
        predictions = milliseconds(predictor(heads), options.repeats)
        report["accuracies of two arms, one question"] = summary(predictions)
    with nearest_decisions(models) as (save, decide_one):
        first = milliseconds(decide_one, 1)[0]
        again = milliseconds(decide_one, options.repeats // 5)
        report["decide by nearest of 2,000"] = {**summary(again), "first_ms": round(first, 2)}
        durations = after_each(save, decide_one, options.repeats // 5)
        report["decide by nearest of 2,000, a turn later"] = summary(durations)
    report["forecast of one arm's joules"] = summary(milliseconds(forecaster(), options.repeats))
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{'':40}{'median':>12}{'p99':>12}{'n':>8}")
    for what, row in report.items():
        print(f"{what:40}{row['median_ms']:>9.3f} ms{row['p99_ms']:>9.3f} ms{row['n']:>8}")


if __name__ == "__main__":
    main()

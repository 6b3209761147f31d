"""What a run comes to: the document of ``summary.json``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from etui.bench.accuracy import CHANCE, LOW_MASS, accuracy_of, constant_letter
from etui.bench.analysis.oracle import oracle
from etui.bench.joules import cost_of
from etui.bench.run_config import RunConfig, parse_run_config
from etui.bench.sample import Sample
from etui.stats.frontier import hull

SUMMARY_VERSION = 1

_SAME = ("run_id", "started_at", "suite", "split", "data_sha256", "format", "format_version")
"""Taken over from the configuration as they are."""

_MANY = 0.05
"""A share of lost answers or shortened prompts from which on a warning is due."""


def summarise(
    samples: Sequence[Sample],
    config: Mapping[str, Any],
    labels: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, Any]:
    """The summary of a run; the order of the samples has no part in it.

    Args:
        samples: Every answer of the run so far; none is allowed.
        config: The document of ``config.json``.
        labels: Labels of MMLU-Redux; used for MMLU's test questions only.

    Returns:
        Plain JSON values. ``arms`` holds one block a contender, in the order of the configuration,
        those without an answer left out.
    """
    run = parse_run_config(config)
    if run.suite != "mmlu" or run.split != "test":
        labels = None
    grouped = contenders(samples, run)
    arms = {name: _arm(inside, run, labels) for name, inside in grouped.items()}
    points = {
        name: (arm["energy"]["per_question"]["value"], arm["accuracy"]["micro"]["value"])
        for name, arm in arms.items()
        if arm["energy"] is not None
    }
    best = oracle(grouped)
    letter = constant_letter(samples) if samples else None
    return {
        "summary_version": SUMMARY_VERSION,
        **{name: config[name] for name in _SAME},
        "shots": run.shots,
        "seed": run.seed,
        "policy": run.policy.name if run.policy else None,
        "routed": run.routed,
        "questions": run.questions,
        "complete": bool(arms)
        and len(arms) == len(run.contenders)
        and all(arm["accuracy"]["questions"] == run.questions for arm in arms.values()),
        "chance": CHANCE,
        "constant_letter": letter and asdict(letter),
        "arms": arms,
        "hull": hull(points) if len(points) == len(arms) else [],
        "oracle": best and asdict(best),
        "warnings": _warnings(arms, run),
    }


def contenders(samples: Iterable[Sample], run: RunConfig) -> dict[str, list[Sample]]:
    """Contender -> its samples sorted by question; contenders in the order of the configuration."""
    found: dict[str, list[Sample]] = {name: [] for name in run.contenders}
    for sample in samples:
        found.setdefault(run.contender(sample.arm), []).append(sample)
    return {
        name: sorted(inside, key=lambda sample: (sample.subject, sample.row))
        for name, inside in found.items()
        if inside
    }


def _arm(
    samples: Sequence[Sample], run: RunConfig, labels: Mapping[str, Mapping[int, str]] | None
) -> dict[str, Any]:
    accuracy = accuracy_of(samples, run.seed, labels)
    cost = cost_of(samples, run.seed)
    seconds = math.fsum(sample.seconds for sample in samples)
    names = ("prompt", "cached", "computed", "thinking", "output")
    tokens: dict[str, float] = {
        name: sum(getattr(sample.tokens, name) for sample in samples) for name in names
    }
    tokens["prefix"] = math.fsum(sample.prefix_tokens for sample in samples)
    routes = Counter(sample.arm for sample in samples) if run.routed else {}
    rules = Counter(sample.rule for sample in samples if sample.rule is not None)
    return {
        "accuracy": asdict(accuracy),
        "energy": cost and asdict(cost),
        "tokens": tokens,
        "seconds": seconds,
        "questions_per_second": len(samples) / seconds if seconds > 0 else None,
        "fewer_shots": sum(sample.shots < run.shots for sample in samples),
        "routes": dict(sorted(routes.items())),
        "rules": dict(sorted(rules.items())),
    }


def _warnings(arms: Mapping[str, Mapping[str, Any]], run: RunConfig) -> list[str]:
    found = []
    for name, arm in arms.items():
        accuracy, energy = arm["accuracy"], arm["energy"]
        count = accuracy["questions"]
        if count < run.questions:
            found.append(f"{name}: {count:,} of {run.questions:,} questions are answered")
        mass = accuracy["letter_mass"]
        if (
            mass
            and run.format.startswith("letters")
            and (mass["mean"] < LOW_MASS or mass["share_below_half"] > 0.25)
        ):
            found.append(
                f"{name}: the four letters hold {mass['mean']:.2f} of the probability on average, "
                f"and less than half on {mass['share_below_half']:.0%} of the questions: the model "
                "would rather write something else, and its choice of a letter means less"
            )
        for outcome, text in _LOST.items():
            lost = accuracy["outcomes"][outcome]
            if lost > _MANY * count:
                found.append(f"{name}: {lost:,} of {count:,} questions {text}")
        if arm["fewer_shots"] > _MANY * count:
            found.append(
                f"{name}: {arm['fewer_shots']:,} of {count:,} prompts have fewer worked examples "
                f"than {run.shots}, for the context is full"
            )
        if energy is not None and energy["questions"] < count:
            found.append(f"{name}: the energy of {count - energy['questions']:,} is unmeasured")
    return found


_LOST = {
    "no_answer": "ended without a letter; they count as not right",
    "truncated": "were cut off before a letter; they count as not right",
    "error": "failed; they count as not right",
}

"""Forecast joules of answers against measured ones, on a day of real answers.

    python -m benchmarks.forecasts MODEL [--answers 40] [--seed 0] [--home DIR] [--json]

Asks questions of a varied day (facts, arithmetic, lists, code, explanations, long texts) by fresh
``etui ask`` processes in an empty home; then calibrates, and asks as many others. Each forecast is
the one that the answer's own trace holds: made before it, from what the log knew then. Lengths of
answers differ by a hundred times here, so a forecast is mostly a range; ``holds`` is the share of
ranges that contain the measured joules, and ``factor`` the median of the larger over the smaller
of the forecast's middle and the measured joules. ``curve`` is the same factor for the calibrated
curve at the answer's actual tokens. Run it on a machine at rest; 80 answers of a 0.5B model on two
cores take nine minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from etui.config.config import load_config
from etui.curves.operating_curve import OperatingCurve
from etui.errors import ExitCode
from etui.log.curve_lookup import select_comparable_turns
from etui.log.filters import TurnFilter
from etui.log.prediction_quality import (
    PredictionOutcome,
    compute_accuracy,
    read_outcomes,
)
from etui.log.queries import LogReader
from etui.stats.tests import wilson
from etui.text import format_table

FIRST = 5
"""Answers after which a forecast is expected to be usable."""

POLICY = """\
version: 1
models: {only: [%s]}
arms: {quick: {model: only, reasoning: direct, max_tokens: 256}}
rules: [{name: all, use: quick}]
"""

_SUBJECTS = (
    "recursion", "photosynthesis", "a mutex", "inflation", "a hash table", "tides", "DNS", "yeast",
)  # fmt: skip
_PLACES = ("Norway", "Kenya", "Chile", "Nepal", "Portugal", "Ghana", "Cuba", "Japan", "Peru")
_TASKS = (
    "reverses a list", "computes the median", "counts words in a file", "parses a date",
    "merges two sorted lists", "checks for a palindrome", "flattens a nested list",
)  # fmt: skip
_LISTS = (
    "four sorting algorithms", "the planets of the solar system", "five European rivers",
    "three uses of vinegar", "ten HTTP status codes", "the months with 31 days",
)  # fmt: skip
_WORDS = ("meter", "reads", "every", "second", "joins", "phases", "answer", "joules", "channel")


@dataclass(frozen=True, slots=True)
class Part:
    """Forecasts of a part of the day; the numbers are None without answers."""

    name: str
    answers: int
    ranges: int
    holds: tuple[float, float, float] | None
    """Share of the ranges that contain the measured joules, and its interval at 95 %."""
    factor: float | None


def draw_questions(count: int, rng: random.Random) -> list[str]:
    """Draw questions of eight kinds, whose answers take from one to 256 tokens."""
    kinds = (
        lambda: f"What is the capital of {rng.choice(_PLACES)}?",
        lambda: f"What is {rng.randrange(3, 40)} times {rng.randrange(3, 40)}?",
        lambda: f"Is {rng.randrange(3, 200)} a prime number? Answer yes or no.",
        lambda: f"List {rng.choice(_LISTS)}.",
        lambda: f"Write a Python function that {rng.choice(_TASKS)}.",
        lambda: f"Explain {rng.choice(_SUBJECTS)} in two sentences.",
        lambda: f"Write a short paragraph about {rng.choice(_SUBJECTS)}.",
        lambda: (
            f"Here is a text: {' '.join(rng.choices(_WORDS, k=rng.randrange(60, 600)))}. "
            "Summarise it in one sentence."
        ),
    )
    return [rng.choice(kinds)() for _ in range(count)]


def run_etui(home: Path, *words: str) -> None:
    """Run ``etui`` in a home; raises ``CalledProcessError`` unless it is done or was cut off."""
    ended = subprocess.run(
        [sys.executable, "-m", "etui", *words],
        env={**os.environ, "ETUI_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if ended.returncode not in (ExitCode.DONE, ExitCode.GATE):
        ended.check_returncode()


def ask_all(home: Path, policy: Path, questions: Sequence[str]) -> None:
    """Ask questions one after another, each by a process of its own."""
    for number, question in enumerate(questions, 1):
        print(f"\r{number} of {len(questions)} ", end="", file=sys.stderr, flush=True)
        run_etui(home, "ask", "--policy", str(policy), "--quiet", question)
    print(file=sys.stderr)


def judge(name: str, outcomes: Sequence[PredictionOutcome]) -> Part:
    """Compare the forecasts of some answers with their measured joules."""
    known = [one for one in outcomes if one.predicted_joules and one.measured_joules]
    found = compute_accuracy(name, known)
    ranges = sum(one.predicted_range is not None for one in known)
    holds = None
    if ranges:
        share = wilson(round((found.inside or 0.0) * ranges), ranges)
        holds = (share.value, share.low or 0.0, share.high or 0.0)
    return Part(name, len(known), ranges, holds, found.factor)


def judge_curve(log: LogReader, curve: OperatingCurve) -> list[float]:
    """Compute by which factor the curve is off for each answer after it, at its actual tokens."""
    factors = []
    for turn in select_comparable_turns(log, curve.model, curve.model_sha256, curve.conditions):
        point = turn.point
        measured = point.prefill_joules + point.decode_joules
        predicted = curve.joules(point.computed_tokens, point.cached_tokens, point.output_tokens)
        if turn.created_at > curve.created_at and measured > 0 < predicted.total:
            factors.append(max(measured / predicted.total, predicted.total / measured))
    return factors


def measure(model: str, answers: int, seed: int, home: Path) -> tuple[list[Part], list[float]]:
    """Ask, calibrate and ask again; return both halves' forecasts and the curve's factors."""
    home.mkdir(parents=True, exist_ok=True)
    policy = home / "one-arm.yaml"
    policy.write_text(POLICY % model, encoding="utf-8")
    questions = draw_questions(2 * answers, random.Random(seed))
    ask_all(home, policy, questions[:answers])
    run_etui(home, "calibrate", model, "--force")
    ask_all(home, policy, questions[answers:])
    os.environ["ETUI_HOME"] = str(home)
    with LogReader(load_config()) as log:
        outcomes = read_outcomes(log, TurnFilter())
        factors = [factor for curve in log.curves(model)[:1] for factor in judge_curve(log, curve)]
    parts = [
        judge(f"after {FIRST} answers", outcomes[FIRST:answers]),
        judge("after calibration", outcomes[answers:]),
    ]
    return parts, factors


def main() -> None:
    """Print the table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--answers", type=int, default=40, help="before and after calibration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="keep the log in this folder")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with ExitStack() as stack:
        home = args.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        parts, factors = measure(args.model, args.answers, args.seed, home)
    if args.json:
        print(json.dumps({"parts": [asdict(part) for part in parts], "curve_factors": factors}))
        return
    rows = [
        (
            part.name,
            str(part.answers),
            str(part.ranges),
            "unknown" if part.holds is None else "{:.0%} [{:.0%}, {:.0%}]".format(*part.holds),
            "unknown" if part.factor is None else f"{part.factor:.2f}",
        )
        for part in parts
    ]
    if factors:
        rows.append(("curve", str(len(factors)), "", "", f"{median(factors):.2f}"))
    print("\n".join(format_table(rows, header=("", "ANSWERS", "RANGES", "HOLDS", "FACTOR"))))


if __name__ == "__main__":
    main()

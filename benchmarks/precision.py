"""Does `--precision` keep its promise: coverage and questions, over a table of graded answers.

Run ``python benchmarks/precision.py --outcomes FILE.csv [--precision 3] [--draws 400] [--json]``
(or ``python -m benchmarks.precision``). The table has the columns ``subject,row,MODEL,MODEL,...``
with 1 or 0 for each model. Every draw orders its questions by another seed, as a run does,
and each model is asked in that order until its accuracy is known to so many points. The truth is
the model's accuracy over all rows of the table. Looks, estimates and stops are those of `etui
bench`.

- ``coverage``: share of the draws whose interval at the stop holds the truth; ``every look`` those
  in which the intervals of all looks do.
- ``questions``: mean number of questions at the stop; ``ratio``: over the fixed sample, the
  smallest proportional stratified sample whose 1.96-sigma half width, with the same finite
  population correction and the variance within the subjects of the whole table, is at most the
  precision.
- ``covariate``: the same with the difficulty of each question as the covariate, made from the
  *other* models of the table.
- pairs: the same for the difference of two models on the same questions.

Without ``--outcomes``, a table of nine made-up models and 14,042 questions is used.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.figures import Figure
from etui.bench.difficulty import average_outcomes
from etui.bench.schedule import choose_first_check, choose_next_check
from etui.datasets.questions import order_balanced
from etui.errors import EtuiError, ExitCode
from etui.learning import outcomes
from etui.stats.confidence_sequence import (
    build_covariates,
    compute_interval,
    estimate_prefix_mean,
    fixed_sample,
    questions_needed,
    within_variance,
)
from etui.stats.tests import wilson

MMLU_SIZES = (
    100, 135, 152, 100, 265, 144, 100, 100, 100, 173, 102, 100, 235, 114, 145, 378, 126, 100,
    310, 203, 100, 165, 198, 193, 390, 270, 238, 151, 545, 216, 204, 237, 223, 131, 121, 108,
    163, 112, 103, 234, 100, 783, 346, 895, 306, 311, 324, 282, 1534, 272, 612, 110, 245, 201,
    100, 166, 171,
)  # fmt: skip
"""Number of questions of each subject of MMLU's test split."""

MADE_ACCURACIES = (0.335, 0.42, 0.5, 0.55, 0.62, 0.68, 0.74, 0.81, 0.867)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of graded answers.

    Attributes:
        models: Names of the models.
        sizes: Subject -> its number of questions.
        strata: Number of the subject of each question, shape (questions,).
        starts: Subject -> index of its first question.
        correct: Shape (questions, models), 0 or 1.
    """

    models: tuple[str, ...]
    sizes: Mapping[str, int]
    strata: Any
    starts: Mapping[str, int]
    correct: Any

    def order(self, seed: int) -> Any:
        """Return the indices of all questions in the order of a run with this seed."""
        balanced = order_balanced(self.sizes, seed)
        return np.array([self.starts[subject] + index for subject, index in balanced])


@dataclass(slots=True)
class Tally:
    """Outcomes of the draws of one system.

    Attributes:
        truth: The true mean.
        fixed: Size of the fixed sample.
        covered, all_covered: Draws in which the interval at the stop, or those of all looks, hold
            the truth.
        questions, looks: Of each draw, at the stop.
    """

    truth: float
    fixed: int
    covered: int = 0
    all_covered: int = 0
    questions: list[int] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        """Summarise the draws; shares and counts."""
        draws = len(self.questions)
        coverage = wilson(self.covered, draws)
        mean = sum(self.questions) / draws
        return {
            "truth": self.truth,
            "coverage": coverage.value,
            "coverage_low": coverage.low or 0.0,
            "coverage_high": coverage.high or 1.0,
            "coverage_of_all_looks": self.all_covered / draws,
            "questions": mean,
            "questions_least": min(self.questions),
            "questions_most": max(self.questions),
            "fixed": self.fixed,
            "ratio": mean / self.fixed,
            "looks": sum(self.looks) / draws,
        }


def make_table(models: Sequence[str], keys: Sequence[tuple[str, int]], correct: Any) -> Table:
    """Sort a table by subject."""
    by_subject: dict[str, list[int]] = {}
    for at, (subject, _) in enumerate(keys):
        by_subject.setdefault(subject, []).append(at)
    order = [at for subject in sorted(by_subject) for at in by_subject[subject]]
    sizes = {subject: len(by_subject[subject]) for subject in sorted(by_subject)}
    ends = np.cumsum([0, *sizes.values()])
    return Table(
        tuple(models),
        sizes,
        np.repeat(np.arange(len(sizes)), list(sizes.values())),
        {subject: int(start) for subject, start in zip(sizes, ends, strict=False)},
        np.asarray(correct, dtype=np.float64)[order],
    )


def made_table(
    accuracies: Sequence[float] = MADE_ACCURACIES,
    sizes: Sequence[int] = MMLU_SIZES,
    seed: int = 0,
) -> Table:
    """Make up a table: three-parameter logistic answers with a difficulty that models share."""
    random = np.random.default_rng(seed)
    strata = np.repeat(np.arange(len(sizes)), sizes)
    hard = random.normal(0, 1.3, len(strata)) + random.normal(0, 0.7, len(sizes))[strata]
    slope = random.uniform(1.0, 2.6, len(strata))
    columns = []
    for accuracy in accuracies:
        talent = random.normal(0, 0.3, len(sizes))[strata]
        low, high = -12.0, 12.0
        for _ in range(60):
            skill = (low + high) / 2
            p = 0.25 + 0.75 / (1 + np.exp(-slope * (skill + talent - hard)))
            low, high = (skill, high) if p.mean() < accuracy else (low, skill)
        columns.append(random.random(len(strata)) < (p if accuracy > 0.26 else accuracy))
    keys = [(f"subject_{at:02}", row) for row, at in enumerate(strata)]
    return make_table(
        [f"made_{accuracy:g}" for accuracy in accuracies], keys, np.column_stack(columns)
    )


def walk(
    values: Any, strata: Any, table: Table, half_width: float, tally: Tally, *,
    bounds: tuple[float, float] = (0.0, 1.0), covariates: Any = None, step: int | None = None,
) -> None:  # fmt: skip
    """Ask one system in one order until the mean is known to ``half_width``.

    Args:
        values: Value of each question in the order asked, shape (questions,).
        strata: Stratum of each.
        table: The table.
        half_width: A share.
        tally: Receives the outcome.
        bounds: Bounds of the values.
        covariates: Covariates in the order asked, shape (questions, k); their means over the
            population are 0.
        step: Questions between two looks; None for those of a run with worked examples.
    """
    total = len(values)
    asked = choose_first_check(table.sizes, half_width)
    look, held = 0, True
    while True:
        look += 1
        estimate = estimate_prefix_mean(
            values[:asked],
            strata[:asked],
            total,
            bounds=bounds,
            covariates=None if covariates is None else covariates[:asked],
        )
        interval = compute_interval(estimate, half_width)
        inside = interval.low - 1e-12 <= tally.truth <= interval.high + 1e-12
        held = held and inside
        if interval.reached:
            break
        needed = questions_needed(estimate, half_width)
        asked = choose_next_check(asked, needed, estimate.variance_error, total, step)
    tally.covered += inside
    tally.all_covered += held
    tally.questions.append(asked)
    tally.looks.append(look)


def simulate(
    table: Table, points: float, draws: int, seed: int, step: int | None
) -> dict[str, Any]:
    """Simulate runs of every model and every pair; returns the report."""
    half_width, total = points / 100, len(table.strata)
    several = len(table.models) > 1

    def open_tally(values: Any) -> Tally:
        variance = within_variance(values, table.strata)
        return Tally(float(values.mean()), fixed_sample(variance, total, half_width))

    plain = {name: open_tally(table.correct[:, at]) for at, name in enumerate(table.models)}
    helped = {name: open_tally(table.correct[:, at]) for at, name in enumerate(table.models)}
    pairs = {
        (one, two): open_tally(table.correct[:, two] - table.correct[:, one])
        for one, two in combinations(range(len(table.models)), 2)
    }
    covariates = (
        [
            build_covariates(average_outcomes(np.delete(table.correct, at, axis=1), table.strata))
            for at in range(len(table.models))
        ]
        if several
        else []
    )
    for draw in range(draws):
        order = table.order(seed + draw)
        strata, correct = table.strata[order], np.asfortranarray(table.correct[order])
        for at, name in enumerate(table.models):
            values = correct[:, at]
            walk(values, strata, table, half_width, plain[name], step=step)
            if several:
                walk(values, strata, table, half_width, helped[name],
                     covariates=covariates[at][order], step=step)  # fmt: skip
        for (one, two), tally in pairs.items():
            difference = correct[:, two] - correct[:, one]
            walk(difference, strata, table, half_width, tally, bounds=(-1.0, 1.0), step=step)
    return {
        "precision": points,
        "draws": draws,
        "questions": total,
        "subjects": len(table.sizes),
        "models": {name: tally.report() for name, tally in plain.items()},
        "all": pool(list(plain.values())),
        "covariate": {name: t.report() for name, t in helped.items()} if several else {},
        "covariate_all": pool(list(helped.values())) if several else None,
        "pairs": [
            {"first": table.models[one], "second": table.models[two], **tally.report()}
            for (one, two), tally in pairs.items()
        ],
        "pairs_all": pool(list(pairs.values())) if several else None,
    }


def pool(tallies: Sequence[Tally]) -> dict[str, float]:
    """Pool the draws of several systems.

    ``ratio`` is the mean number of questions over the mean fixed sample, ``mean_ratio`` the mean
    of the ratios.
    """
    reports = [tally.report() for tally in tallies]
    draws = sum(len(tally.questions) for tally in tallies)
    questions = sum(one["questions"] for one in reports) / len(reports)
    fixed = sum(one["fixed"] for one in reports) / len(reports)
    return {
        "coverage": sum(tally.covered for tally in tallies) / draws,
        "coverage_least": min(one["coverage"] for one in reports),
        "coverage_of_all_looks": sum(tally.all_covered for tally in tallies) / draws,
        "questions": questions,
        "fixed": fixed,
        "ratio": questions / fixed,
        "mean_ratio": sum(one["ratio"] for one in reports) / len(reports),
        "ratio_most": max(one["ratio"] for one in reports),
        "looks": sum(one["looks"] for one in reports) / len(reports),
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Lay out the report as text."""
    lines = [
        f"precision {report['precision']:g} points, {report['questions']:,} questions of "
        f"{report['subjects']} subjects, {report['draws']:,} draws"
    ]
    blocks = [("accuracy", report["models"], report["all"])]
    if report["covariate"]:
        blocks.append(("with difficulty", report["covariate"], report["covariate_all"]))
    if report["pairs"]:
        pairs = {f"{one['second']} - {one['first']}": one for one in report["pairs"]}
        blocks.append(("difference", pairs, report["pairs_all"]))
    width = max(len(name) for _, rows, _ in blocks for name in [*rows, "with difficulty"]) + 2
    for title, rows, pooled in blocks:
        lines.append("")
        lines.append(
            f"{title:{width}}{'truth':>8}{'coverage':>10}{'every look':>12}{'questions':>11}"
            f"{'fixed':>8}{'ratio':>7}{'looks':>7}"
        )
        for name, row in [*rows.items(), ("all", {"truth": math.nan, **pooled})]:
            truth = "" if math.isnan(row["truth"]) else f"{100 * row['truth']:.1f} %"
            lines.append(
                f"{name:{width}}{truth:>8}{100 * row['coverage']:>8.1f} %"
                f"{100 * row['coverage_of_all_looks']:>10.1f} %{row['questions']:>11,.0f}"
                f"{row['fixed']:>8,.0f}{row['ratio']:>7.3f}{row['looks']:>7.1f}"
            )
    return "\n".join(lines)


def read_table(path: Path) -> Table:
    """Read a table of outcomes.

    Raises:
        InvalidFile: It is not one.
    """
    graded = outcomes.read_table(path, complete=True).graded
    keys = list(zip(graded.subjects, graded.rows, strict=True))
    return make_table(graded.arms, keys, graded.correct)


def quick() -> Iterator[Figure]:
    """Wrong intervals of 40 draws x 9 made-up models at 3 points, and questions : fixed sample."""
    report = simulate(made_table(), 3.0, 40, 0, None)
    for name, pooled in (("", report["all"]), (" with difficulty", report["covariate_all"])):
        runs = 40 * len(report["models"])
        wrong = wilson(round((1 - pooled["coverage"]) * runs), runs)
        yield Figure(f"intervals that miss{name}", 100 * wrong.value, "%", "ratio", runs)
        yield Figure(f"questions{name} : fixed sample", pooled["ratio"], "x", "ratio", runs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outcomes", type=Path, metavar="FILE.csv", help="table of 0 and 1")
    parser.add_argument("--precision", type=_parse_points, default=3.0, metavar="POINTS")
    parser.add_argument("--draws", type=_parse_count, default=400, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first draw")
    parser.add_argument(
        "--every", type=_parse_count, metavar="N", help="look every N questions, not as a run does"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        table = made_table() if options.outcomes is None else read_table(options.outcomes)
    except EtuiError as error:
        print(f"precision: {error.what.splitlines()[0]}", file=sys.stderr)
        return ExitCode.USAGE
    report = simulate(table, options.precision, options.draws, options.seed, options.every)
    print(json.dumps(report, indent=2) if options.json else format_report(report))
    return ExitCode.DONE


def _parse_points(text: str) -> float:
    points = float(text)
    if not 0 < points < 50:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below 50 points")
    return points


def _parse_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return count


if __name__ == "__main__":
    sys.exit(main())

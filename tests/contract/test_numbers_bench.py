"""Statistics, summaries, comparisons and stopping of benchmark runs, on recorded samples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etui.bench.accuracy import oracle
from etui.bench.compare import (
    System,
    compare,
    compare_with_mixtures,
    comparison_lines,
    mixture_line,
    subject_lines,
    verdict,
)
from etui.bench.config import BenchPart, RunConfig, list_part
from etui.bench.cost import (
    compute_percentiles,
    count_gaps,
    judge_steadiness,
    list_early_answers,
    pool_gaps,
)
from etui.bench.difficulty import average_outcomes, build_difficulty, collect_models
from etui.bench.folder import Recorded, read_run
from etui.bench.lm_eval import lm_eval_document
from etui.bench.merge import merge_runs
from etui.bench.precision import build_population, check_interim, predict_questions
from etui.bench.results import build_energy_record
from etui.bench.sample import Sample
from etui.bench.schedule import choose_first_check, choose_next_check
from etui.bench.summary import group_by_system, summarise
from etui.bench.summary_text import build_cost_over_time_rows, headline, markdown, per_subject_csv
from etui.datasets.questions import draw, order_balanced
from etui.stats.bootstrap import compute_interval, resample_means, resample_sums
from etui.stats.confidence_sequence import boundary_height, crossing_probability, fixed_sample
from etui.stats.distributions import fit_non_negative, t_p_value, t_quantile
from etui.stats.frontier import hull
from etui.stats.small_samples import estimate_means
from etui.stats.tests import count_questions_needed, estimate_paired_mean, holm, mcnemar, wilson
from etui.turn.record import Tokens
from tests.bench import synthetic
from tests.contract.numbers import check_numbers
from tests.support.mixture import mixture_accuracy

OLD_RUN = Path(__file__).parent / "old_run"
FEW = dict.fromkeys(
    ("abstract_algebra", "anatomy", "astronomy", "formal_logic", "marketing", "virology"), 9
)


def build_run(kind: str | None = "counter", seed: int = 0) -> tuple[RunConfig, list[Sample]]:
    """A run with every figure of a sample set, a few of them missing."""
    run = synthetic.config(drawn=FEW)
    rng = random.Random(seed)
    rows = [
        replace(
            row,
            decode_seconds=rng.uniform(0.4, 2.0),
            ttft_seconds=rng.uniform(0.05, 0.4),
            inter_token_bins=count_gaps([rng.lognormvariate(-4, 0.4) for _ in range(12)]),
            coverage=rng.uniform(0.93, 1.0),
            shared=rng.random() < 0.05,
        )
        for row in synthetic.samples(run, seed, kind)
    ]
    return run, rows


def list_systems(run: RunConfig, rows: Sequence[Sample]) -> dict[str, System]:
    return {
        name: System(name, name, run, inside) for name, inside in group_by_system(rows, run).items()
    }


@pytest.mark.parametrize("kind", ["counter", "estimate", None])
def test_the_summary_of_a_run(kind: str | None) -> None:
    run, rows = build_run(kind)
    summary = summarise(rows, run)
    check_numbers(f"bench-summary-{kind}", summary)
    texts = {
        "headline": headline(summary).splitlines(),
        "markdown": markdown(summary, run).splitlines(),
        "subjects": per_subject_csv(summary).splitlines(),
        "course": build_cost_over_time_rows(summary),
    }
    check_numbers(f"bench-texts-{kind}", texts)


def test_the_summary_of_a_run_of_an_earlier_version() -> None:
    recorded = read_run(OLD_RUN)
    summary = summarise(recorded.samples, recorded.config)
    systems = list_systems(recorded.config, recorded.samples)
    names = list(systems)
    found = {
        "samples": recorded.samples,
        "summary": summary,
        "oracle": oracle(group_by_system(recorded.samples, recorded.config)),
        "pairs": [
            compare(systems[one], systems[other])
            for at, one in enumerate(names)
            for other in names[at + 1 :]
        ],
        "mixtures": compare_with_mixtures(list(systems.values())),
        "record": build_energy_record(recorded.config, recorded.samples, summary),
    }
    check_numbers("bench-old-run", found)


def test_comparisons_of_systems() -> None:
    run, rows = build_run()
    holes = [replace(row, joules=None, kind=None) if row.row == 3 else row for row in rows]
    found: dict[str, Any] = {}
    for label, inside in (("whole", rows), ("holes", holes)):
        systems = list_systems(run, inside)
        names = list(systems)
        found[label] = [
            compare(systems[one], systems[other])
            for at, one in enumerate(names)
            for other in names[at + 1 :]
        ]
    systems = list_systems(run, rows)
    mixtures = compare_with_mixtures(list(systems.values()))
    found["mixtures"] = mixtures
    found["oracle"] = oracle(group_by_system(rows, run))
    found["lines"] = [
        [*comparison_lines(one, several=True), *subject_lines(one)[:4], verdict(one)]
        for one in (*found["whole"], *found["holes"])
    ]
    found["mixture lines"] = [mixture_line(one) for one in mixtures]
    found["lm-eval"] = lm_eval_document(systems["direct"])
    check_numbers("bench-compare", found)


def test_the_energy_record_of_a_run() -> None:
    run, rows = build_run()
    run = replace(run, idle={"which": "cold", "watts": 8.0})
    check_numbers("bench-energy-record", build_energy_record(run, rows, summarise(rows, run)))


def test_runs_that_are_joined() -> None:
    plan = synthetic.config(("direct", "think"), drawn=FEW)
    answers = synthetic.samples(plan)
    found = {}
    for label, machines in (("one machine", (0, 0, 0)), ("two machines", (0, 1, 0))):
        runs = []
        for index in range(3):
            part = BenchPart(index, 3)
            asked = list_part(plan.drawn, plan.order, plan.block, plan.seed, part)
            inside = [s for s in answers if s.row in asked.get(s.subject, ())]
            machine = {"name": f"CPU {machines[index]}", "memory_bytes": 64 << 30}
            config = replace(plan, run_id=f"part-{index}", part=part, machine=machine)
            runs.append(Recorded(config, tuple(inside), {}, folder=Path(f"p{index}")))
        merged = merge_runs(runs, "whole")
        found[label] = [
            [(row.key, row.machine) for row in merged.samples],
            summarise(merged.samples, merged.config),
        ]
    check_numbers("bench-merged", found)


def test_whether_a_machine_worked_evenly() -> None:
    run = synthetic.config(arms=("think",), per_subject=1)
    any_sample = synthetic.samples(run)[0]
    found = []
    for noise, drift in ((0.02, 0.0), (0.05, 0.3), (0.01, 0.03)):
        rng, rows = random.Random(4), []
        for at in range(80):
            computed, output = rng.randrange(80, 300), rng.randrange(20, 400)
            joules = (2 + 0.01 * computed + 0.1 * output) * (1 + drift * at / 79)
            joules *= rng.lognormvariate(0, noise)
            tokens = Tokens(computed, 0, computed, 0, output)
            rows.append(
                replace(any_sample, row=at, tokens=tokens, joules=joules, seconds=joules / 30)
            )
        found.append((judge_steadiness(rows), list_early_answers(rows), compute_percentiles(rows)))
    check_numbers("bench-steadiness", found)


def test_a_run_that_stops_at_a_precision() -> None:
    sizes = {"algebra": 500, "history": 300, "law": 700, "tiny": 3}
    rng = random.Random(3)
    level = {(subject, row): rng.random() for subject, size in sizes.items() for row in range(size)}
    right = {key: float(0.7 * ease + 0.3 * rng.random() < 0.6) for key, ease in level.items()}
    other = {key: float(0.7 * ease + 0.3 * rng.random() < 0.55) for key, ease in level.items()}
    order = order_balanced(sizes, 5)
    difficulty = {key: round(1 - ease, 4) for key, ease in level.items() if key[1] % 10}
    rows = {subject: range(size) for subject, size in sizes.items()}
    found: dict[str, object] = {"order": order[:200]}
    for half in (0.08, 0.03):
        for label, known in (("plain", None), ("covariate", difficulty)):
            population = build_population(rows, known)
            asked, looks = choose_first_check(sizes, half), []
            while True:
                keys = order[:asked]
                look = check_interim(population, keys, [right[key] for key in keys], half)
                gains = [right[key] - other[key] for key in keys]
                looks.append(
                    (asked, look, check_interim(population, keys, gains, half, "difference"))
                )
                if look.interval.reached or asked == len(order):
                    break
                asked = choose_next_check(asked, look.needed, 0.1, len(order), None)
            found[f"{label} {half}"] = looks
    found["predicted"] = [predict_questions(14042, half) for half in (0.01, 0.03, 0.1)]
    check_numbers("bench-precision", found)


def test_difficulties_of_questions() -> None:
    run, rows = build_run()
    generator = np.random.default_rng(2)
    outcomes = (generator.random((90, 4)) < generator.random(4)).astype(float)
    outcomes[generator.random((90, 4)) < 0.2] = np.nan
    table = build_difficulty(collect_models(run, rows, "a run"))
    found = {
        "average": average_outcomes(outcomes, np.arange(90) % 5),
        "table": [line for line in table.splitlines() if not line.startswith("#")],
    }
    check_numbers("bench-difficulty", found)


def test_questions_are_drawn_and_divided() -> None:
    found = {
        "drawn": draw({"a": 40, "b": 7, "c": 90}, 3, 25),
        "balanced": order_balanced({"a": 12, "b": 3, "c": 20}, 1),
        "parts": [list_part(FEW, "balanced", 8, 2, BenchPart(at, 4)) for at in range(4)],
    }
    check_numbers("bench-drawn", found)


def test_the_statistics() -> None:
    generator = np.random.default_rng(0)
    columns = generator.lognormal(0, 1, (60, 2))
    means = resample_means(columns, 3, 400)
    small = [generator.normal(0.1, 1, size) for size in (2, 3, 5, 8, 8, 12)]
    differences = generator.choice([-1.0, 0.0, 1.0], 90, p=[0.2, 0.5, 0.3])
    points = {f"arm {at}": (float(x), float(y)) for at, (x, y) in enumerate(columns[:12])}
    found = {
        "sums": resample_sums(columns, ["a", "b", "c"] * 20, 5, 40),
        "interval": compute_interval(columns, means, lambda m: m[:, 0] / m[:, 1]),
        "means": means[:20],
        "small": estimate_means(small, 1),
        "paired": estimate_paired_mean(differences),
        "paired small": estimate_paired_mean(differences[:6]),
        "needed": [count_questions_needed(0.7, gap, 3) for gap in (0.01, 0.05, 0.2)],
        "wilson": [wilson(at, 20) for at in (0, 1, 7, 20)],
        "mcnemar": [mcnemar(*pair) for pair in ((0, 0), (3, 9), (0, 12), (40, 61), (400, 300))],
        "holm": holm([0.04, 0.001, 0.03, 0.9, 0.012]),
        "t": [(t_quantile(0.025, nu), t_p_value(2.1, nu)) for nu in (1, 2.5, 7, 40)],
        "sequence": [
            (boundary_height(slope), crossing_probability(2.4, slope)) for slope in (0.1, 0.5, 2)
        ],
        "fixed": [fixed_sample(0.24, 14042, half) for half in (0.01, 0.05)],
        "hull": hull(points),
        "mixture": [mixture_accuracy(points, cost) for cost in (0.2, 0.7, 1.5, 4.0)],
        "non negative": fit_non_negative(
            [[1.0, x, x * x] for x in range(8)], [3 + 0.5 * x - 0.01 * x * x for x in range(8)]
        ),
        "gaps": pool_gaps([count_gaps(np.abs(small[-1]).tolist()), count_gaps([0.01, 0.02])]),
    }
    check_numbers("statistics", found)

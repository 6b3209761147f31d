"""Paired questions, and multiples, on runs of which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from etui.design._arms import (
    compare_readouts,
    compute_arm_figures,
    compute_mean_interval,
    compute_multiples,
    find_multiple,
    resample,
)
from etui.design._paired import build_layout, pair_samples
from tests.design import synthetic
from tests.design.synthetic import Truth

FOUR = {
    "small-direct": Truth(0.4, 10.0, 4),
    "small-cot-64": Truth(0.5, 60.0, 60),
    "large-direct": Truth(0.6, 30.0, 4),
    "large-vote-3": Truth(0.7, 300.0, 150),
}


def build(truths=FOUR, per_subject=2, seed=0, kind="counter", **changes):
    run = synthetic.config(truths, per_subject, **changes)
    layout = build_layout(run, synthetic.ROLES)
    return run, layout, synthetic.samples(run, truths, seed, kind)


def test_strategies_have_roles_ways_and_a_reference() -> None:
    _, layout, _ = build(synthetic.seed_truths())
    labels = [one.label for one in layout.strategies]
    assert labels[:5] == ["small direct", "small CoT 64", "small CoT 128", "small CoT 256",
                          "small vote 1"]  # fmt: skip
    assert layout.reference.label == "large direct"
    assert len(set(labels)) == 16


def test_without_a_design_models_are_ordered_by_size_and_name_the_roles() -> None:
    run, _, _ = build()
    layout = build_layout(run)
    assert list(layout.roles) == list(synthetic.ROLES.values())


def test_the_unfinished_block_is_left_out_and_counted() -> None:
    _, layout, rows = build()
    paired = pair_samples(layout, rows[:-3])
    assert len(paired) == 113
    assert paired.questions_dropped == 1
    assert paired.answers_dropped == 1
    assert all(len(inside) == 113 for inside in paired.samples)


def test_an_arm_that_has_not_begun_leaves_no_paired_question() -> None:
    run, layout, rows = build(per_subject=1)
    paired = pair_samples(layout, [row for row in rows if row.arm != "large-vote-3"])
    assert len(paired) == 0
    assert compute_arm_figures(paired, run.seed) == ()


def test_a_failed_answer_counts_as_not_right_and_not_as_missing() -> None:
    run, layout, rows = build(per_subject=1)
    rows[0] = replace(rows[0], status="error", correct=False, choice=None, error="no memory")
    paired = pair_samples(layout, rows)
    figures = compute_arm_figures(paired, run.seed)
    assert len(paired) == 57
    assert figures[0].lost == 1


def test_an_equal_arm_has_a_multiple_of_one_without_width() -> None:
    run, layout, rows = build()
    twins = [replace(row, arm="small-cot-64") for row in rows if row.arm == "small-direct"] + [
        row for row in rows if row.arm != "small-cot-64"
    ]
    twins = [replace(row, uncertainty=0.0) for row in twins]
    paired = pair_samples(layout, twins)
    found = find_multiple(
        compute_multiples(resample(paired, run.seed)), layout.strategies[1], "direct"
    )
    assert (found.joules.low, found.joules.high) == pytest.approx((1.0, 1.0))
    assert found.difference.value == 0
    assert found.difference.low < 0  # equal answers to 114 questions do not prove equality
    assert found.p_holm == 1.0


def test_intervals_of_multiples_cover_the_truth() -> None:
    truths = {"small-direct": Truth(0.4, 10.0, 4), "small-cot-64": Truth(0.5, 60.0, 60)}
    roles = {"small": "qwen2.5-coder-0.5b"}
    run = synthetic.config(truths, 2, roles)
    layout = build_layout(run, roles)
    covered = [0, 0]
    for seed in range(60):
        rows = synthetic.samples(run, truths, seed, "estimate")
        (one,) = compute_multiples(resample(pair_samples(layout, rows), seed))
        for at, (figure, truth) in enumerate([(one.joules, 6.0), (one.difference, 0.1)]):
            covered[at] += figure.low <= truth <= figure.high
    assert min(covered) >= 52


def test_the_error_of_a_counter_widens_a_multiple_and_that_of_an_estimate_cancels() -> None:
    widths = {}
    for kind, width in (("counter", 0.0), ("counter", 0.6), ("estimate", 0.4)):
        run, layout, rows = build(kind=kind)
        rows = [replace(row, uncertainty=width * (row.joules or 0)) for row in rows]
        found = compute_multiples(resample(pair_samples(layout, rows), run.seed))[1].joules
        widths[kind, width] = found.high - found.low
    assert widths["counter", 0.6] > 1.1 * widths["counter", 0.0]
    assert widths["estimate", 0.4] == pytest.approx(widths["counter", 0.0])


def test_a_base_that_is_never_right_has_no_multiple_per_right_answer() -> None:
    truths = {**FOUR, "small-direct": Truth(0.0, 10.0, 4)}
    run, layout, rows = build(truths)
    found = find_multiple(
        compute_multiples(resample(pair_samples(layout, rows), run.seed)),
        layout.strategies[1],
        "direct",
    )
    assert found.per_correct is None


def test_a_ratio_of_few_questions_is_wider_than_its_resamples() -> None:
    from etui.design._arms import compute_ratio_interval

    drawn = np.linspace(0.9, 1.1, 4001)
    few, many = (compute_ratio_interval(1.0, 1.0, drawn, np.ones(4001), n) for n in (4, 4000))
    assert many.low == pytest.approx(0.905, abs=0.001)
    assert few.low == pytest.approx(0.905**1.6237, abs=0.001)


def test_questions_without_joules_of_every_arm_are_left_out_of_joules_alone() -> None:
    run, layout, rows = build()
    rows[5] = replace(rows[5], joules=None, uncertainty=None, kind=None)
    paired = pair_samples(layout, rows)
    figures = compute_arm_figures(paired, run.seed)
    assert len(paired) == 114
    assert all(one.energy is not None and one.energy.questions == 113 for one in figures)
    assert all(one.questions == 114 for one in figures)


def test_an_unmetered_arm_takes_no_joules_from_the_others() -> None:
    run, layout, rows = build()
    rows = [
        replace(row, joules=None, uncertainty=None, kind=None) if row.arm == "large-vote-3" else row
        for row in rows
    ]
    paired = pair_samples(layout, rows)
    figures = compute_arm_figures(paired, run.seed)
    assert [one.energy is None for one in figures] == [False, False, False, True]
    found = find_multiple(
        compute_multiples(resample(paired, run.seed)), layout.strategies[3], "direct"
    )
    assert found.joules is None


def test_without_a_direct_answer_there_are_no_multiples() -> None:
    truths = {"small-cot-64": FOUR["small-cot-64"]}
    roles = {"small": "qwen2.5-coder-0.5b"}
    run = synthetic.config(truths, 1, roles)
    paired = pair_samples(build_layout(run, roles), synthetic.samples(run, truths))
    assert compute_multiples(resample(paired, 0)) == ()


def test_a_mean_is_known_less_well_with_fewer_questions() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 3.0, 5.0]
    found = compute_mean_interval(values, ["a"] * 6, 0)
    error = float(np.std(values, ddof=1)) / 6**0.5
    # Student's quantile for 5 degrees of freedom is 2.57, not 1.96
    assert (found.high - found.low) / 2 == pytest.approx(2.57 * error, rel=0.12)
    one = compute_mean_interval([3.0], ["a"], 0)
    assert (one.value, one.low, one.high) == (3.0, None, None)
    assert compute_mean_interval([], [], 0) is None


def test_the_interval_of_a_mean_holds_for_sixteen_questions() -> None:
    draw = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        found = compute_mean_interval(draw.normal(10, 3, 16).tolist(), ["a"] * 16, 0)
        held += found.low <= 10 <= found.high
    assert held / 200 >= 0.92


def test_the_worth_of_the_readout_is_that_of_the_same_answers() -> None:
    run = synthetic.config(FOUR, 4)
    layout = build_layout(run, synthetic.ROLES)
    rows = synthetic.samples(run, FOUR, stated=0.7)
    paired = pair_samples(layout, rows)
    for one, figures in zip(
        compare_readouts(paired, 0), compute_arm_figures(paired, 0), strict=True
    ):
        assert one.read.value == pytest.approx(figures.accuracy.value)
        assert 0.2 < one.silent < 0.4
        assert one.difference.value == pytest.approx(one.read.value - one.stated.value)
        assert one.difference.low > 0
        assert one.p_holm < 0.001
    assert compare_readouts(pair_samples(layout, synthetic.samples(run, FOUR)), 0) == ()
    assert compare_readouts(pair_samples(layout, []), 0) == ()

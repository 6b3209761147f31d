"""Subjects and groups: noise is not listed, a true difference is found."""

from __future__ import annotations

import pytest

from etui.design.analysis.band_verdict import judge_bands
from etui.design.analysis.bands import compute_groups, compute_subjects
from etui.design.analysis.paired import pair_samples
from etui.design.analysis.strategies import build_layout
from tests.design import synthetic
from tests.design.synthetic import Truth

TRUTHS = {
    "small-direct": Truth(0.35, 10.0, 4),
    "small-cot-64": Truth(0.35, 60.0, 60),
    "small-vote-3": Truth(0.35, 120.0, 160),
}
ROLES = {"small": "qwen2.5-coder-0.5b"}


def pair(per_subject: int, gains=None, seed: int = 0, drawn=None):
    run = synthetic.config(TRUTHS, per_subject, ROLES)
    if drawn is not None:
        run = synthetic.config(TRUTHS, per_subject, ROLES, drawn=drawn)
    rows = synthetic.samples(run, TRUTHS, seed, "counter", gains)
    return pair_samples(build_layout(run, ROLES), rows)


def test_subjects_of_two_questions_are_named_as_too_few() -> None:
    found = compute_subjects(pair(2), 0)
    assert {row.effect for row in found.rows} == {"too few questions"}
    assert found.looks == {"small": 0}
    (text,) = [one.text for one in judge_bands(found, None)]
    assert text == (
        "No subject can be judged for small: a subject has at most 2 questions, and even unanimous "
        "answers to fewer than 13 would show nothing after 114 looks."
    )


def test_a_true_gain_in_one_group_is_found_there_and_nowhere_else() -> None:
    found = compute_groups(pair(20, {"stem": 0.3}), 0)
    effects = {(row.band, row.strategy.way): row.effect for row in found.rows}
    assert {effects["stem", way] for way in ("CoT 64", "vote 3")} == {"helps"}
    assert {effect for (band, _), effect in effects.items() if band != "stem"} == {"undecided"}
    assert all(p < 0.01 for p in found.equal_p.values())
    statements = judge_bands(found, "counter")
    assert [one.outcome for one in statements] == ["helps", "helps"]
    assert "In STEM, small CoT 64 gets more right than small direct" in statements[0].text
    assert "for each additional right answer" in statements[0].text


def test_a_true_loss_is_named_as_one() -> None:
    found = compute_groups(pair(20, {"humanities": -0.3}), 0)
    effects = {row.effect for row in found.rows if row.band == "humanities"}
    assert effects == {"hurts"}


def test_equal_arms_are_rarely_told_apart_in_any_of_many_looks() -> None:
    claims = 0
    for seed in range(40):
        rows = compute_groups(pair(4, seed=seed), seed).rows
        claims += any(row.effect in ("helps", "hurts") for row in rows)
    assert claims <= 5


def test_every_row_has_its_counts_and_the_pooled_picture_its_interval() -> None:
    paired = pair(3)
    found = compute_subjects(paired, 0)
    assert len(found.rows) == 2 * 57
    for row in found.rows:
        assert row.thinking - row.direct == pytest.approx(
            (row.only_thinking - row.only_direct) / row.questions
        )
    assert len(found.pooled) == 57
    for one in found.pooled:
        assert one.difference.low is not None
        assert one.difference.low <= one.difference.value


def test_subjects_of_another_suite_have_no_groups() -> None:
    paired = pair(1, drawn={"algebra": 30, "words": 30})
    groups, subjects = compute_groups(paired, 0), compute_subjects(paired, 0)
    assert groups.rows == ()
    assert judge_bands(groups, None) == []
    assert {row.band for row in subjects.rows} == {"algebra", "words"}
    assert {row.group for row in subjects.rows} == {None}

"""The calibration of the joint model: what is shared by the arms, and what differs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from etui.learning._joint import Calibration, fit_calibration, fit_mix
from etui.learning.features import MIXED_SPREAD

ARMS = 6


def answers(count: int, trust: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Predictions and answers, with a part of the predicted differences between arms that holds."""
    draw = np.random.default_rng(seed)
    ability = np.linspace(-0.8, 0.8, ARMS)
    ease = draw.normal(0, 1, (count, 1))
    differences = draw.normal(0, 0.8, (count, ARMS))
    differences -= differences.mean(axis=1, keepdims=True)
    p = expit(ease + ability + differences)
    y = draw.random(p.shape) < expit(ease + ability + trust * differences)
    rates = np.repeat(expit(ability)[None, :], count, axis=0)
    return p, rates, y.astype(float), np.ones(p.shape)


def test_differences_that_do_not_hold_are_shrunk_and_the_arms_keep_their_accuracies():
    p, rates, y, heavy = answers(3000, 0.0)
    found = fit_calibration(p, rates, y, heavy)
    assert found.spread < 0.15
    np.testing.assert_allclose(found.apply(p, rates).mean(axis=0), y.mean(axis=0), atol=0.015)
    best = found.apply(p, rates).argmax(axis=1)
    assert (best == ARMS - 1).mean() > 0.8


def test_differences_that_hold_stay():
    p, rates, y, heavy = answers(3000, 1.0)
    found = fit_calibration(p, rates, y, heavy)
    assert 0.9 < found.spread < 1.1
    np.testing.assert_allclose(found.slope, 1.0, atol=0.15)


def test_rates_of_bands_add_what_the_trees_missed():
    p, rates, y, heavy = answers(3000, 0.0)
    draw = np.random.default_rng(5)
    own = draw.normal(0, 0.7, p.shape)
    own -= own.mean(axis=1, keepdims=True)
    rates = expit(logit(rates) + own)
    y = (draw.random(p.shape) < expit(logit(y.mean(axis=0)) + own)).astype(float)
    assert fit_calibration(p, rates, y, heavy).band_spread > 0.7


def test_few_answers_leave_the_prior():
    p, rates, y, heavy = answers(12, 1.0)
    found = fit_calibration(p, rates, y, 0.01 * heavy)
    assert abs(found.spread - 0.5) < 0.05
    assert np.abs(found.slope - 1).max() < 0.05


def test_one_arm_has_no_differences():
    p, rates, y, heavy = (each[:, :1] for each in answers(500, 1.0))
    found = fit_calibration(p, rates, y, heavy)
    assert np.isfinite(found.apply(p, rates)).all()


def test_an_arm_that_is_always_right_stays_finite():
    p, rates, y, heavy = answers(400, 1.0)
    y[:, 0], p[:, 0], rates[:, 0] = 1.0, 1.0, 1.0
    found = fit_calibration(p, rates, y, heavy).apply(p, rates)
    assert np.isfinite(found).all()
    assert found[:, 0].mean() > 0.97


def test_the_parts_are_added_in_logits():
    one = Calibration(np.array([1.0, 2.0]), 0.5, 0.25, 0.1, np.array([0.3, -0.3]))
    p, rates = np.array([[0.6, 0.8]]), np.array([[0.5, 0.7]])
    z, band = logit(p), logit(rates)
    expected = one.slope * z.mean() + 0.5 * (z - z.mean()) + one.offset
    expected = expected + 0.25 * band.mean() + 0.1 * (band - band.mean())
    np.testing.assert_allclose(one.apply(p, rates), expit(expected))


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 60))
def test_regressions_change_the_differences_of_a_question_and_nothing_else(seed, arms, count):
    draw = np.random.default_rng(seed)
    p, own = draw.uniform(0.05, 0.95, (2, count, arms))
    mix = fit_mix(p, own, 600)
    found, before = logit(mix.apply(p, own)), logit(p)
    np.testing.assert_allclose(found.mean(axis=1), before.mean(axis=1))
    gap, was, others = (each - each[:, :1] for each in (found, before, logit(own)))
    np.testing.assert_allclose(gap.mean(axis=0), was.mean(axis=0), atol=1e-9)
    expected = (1 - mix.share) * was + mix.share * MIXED_SPREAD * others
    np.testing.assert_allclose(gap - gap.mean(axis=0), expected - expected.mean(axis=0), atol=1e-9)


def test_the_share_of_the_regressions_falls_with_the_questions():
    p = np.full((4, 2), 0.5)
    shares = [fit_mix(p, p, count).share for count in (1, 600, 1500, 2999)]
    assert shares == sorted(shares, reverse=True)
    np.testing.assert_allclose(shares[1:3], [0.56, 0.35])
    assert 0 < shares[3] < 0.001
    assert fit_mix(p, p, 3000) is None


def test_one_arm_is_predicted_by_the_joint_model_alone():
    assert fit_mix(np.full((4, 1), 0.5), np.full((4, 1), 0.9), 600) is None

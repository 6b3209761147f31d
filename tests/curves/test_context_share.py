"""The nonlinear part of a curve: found where it is, not claimed where it is not."""

from __future__ import annotations

import random

import pytest

from etui.curves.fit import PhasePoint, estimate_context_term
from etui.curves.operating_curve import looked_back

CONTEXTS = (1024, 4096)


def make_points(bend: float, seed: int = 0, spread: float = 0.02, repeats: int = 3):
    draw = random.Random(seed)
    return [
        PhasePoint(
            start,
            steps,
            (0.4 + 0.4 * steps + bend * looked_back(start, steps)) * draw.gauss(1, spread),
        )
        for start in (32, 128, 512)
        for steps in (8, 32, 128)
        for _ in range(repeats)
    ]


def test_exact_points_give_the_exact_share() -> None:
    term = estimate_context_term(make_points(1e-4, spread=0.0), "decode", CONTEXTS)
    assert term is not None
    assert term.joules == pytest.approx(1e-4, rel=1e-6)
    for share in term.shares:
        extra = 1e-4 * share.context
        assert share.value == pytest.approx(extra / (0.4 + extra), rel=1e-6)
        assert not share.measured
    assert term.p < 1e-6


def test_a_prompt_shares_its_joules_between_tokens_and_pairs_of_tokens() -> None:
    points = [
        PhasePoint(0, n, 1.0 + 0.05 * n + 2e-5 * looked_back(0, n)) for n in (32, 128, 512, 1024)
    ] * 2
    term = estimate_context_term(points, "prefill", (512,))
    assert term is not None
    (share,) = term.shares
    extra = 2e-5 * 512**2 / 2
    assert share.value == pytest.approx(extra / (1.0 + 0.05 * 512 + extra), rel=1e-6)
    assert share.measured


@pytest.mark.parametrize("bend", [0.0, 5e-5])
def test_the_interval_holds_the_truth_and_the_test_its_level(bend: float) -> None:
    truth = bend * 4096 / (0.4 + bend * 4096)
    terms = [
        estimate_context_term(make_points(bend, seed), "decode", CONTEXTS) for seed in range(200)
    ]
    covered = sum(t.shares[1].low <= truth <= t.shares[1].high for t in terms if t) / len(terms)
    claimed = sum(t.p < 0.05 for t in terms if t) / len(terms)
    assert covered >= 0.9
    assert claimed <= 0.1 if bend == 0 else claimed >= 0.9


def test_a_constant_factor_of_the_meter_cancels_in_the_share() -> None:
    points = make_points(1e-4, seed=3)
    scaled = [PhasePoint(p.start, p.tokens, 1.4 * p.joules) for p in points]
    one, other = (estimate_context_term(p, "decode", CONTEXTS) for p in (points, scaled))
    assert one is not None
    assert other is not None
    assert other.shares[1].value == pytest.approx(one.shares[1].value)
    assert other.p == pytest.approx(one.p)


def test_noise_leaves_a_share_between_nothing_and_all() -> None:
    draw = random.Random(5)
    points = [
        PhasePoint(start, steps, draw.uniform(0.1, 9.0))
        for start in (16, 64, 128)
        for steps in (3, 15)
        for _ in range(2)
    ]
    for phase in ("prefill", "decode"):
        term = estimate_context_term(points, phase, CONTEXTS)
        assert term is not None
        for share in term.shares:
            assert 0 <= share.low <= share.value <= share.high <= 1
            assert share.low == 0


def test_lengths_that_do_not_separate_the_terms_give_no_term() -> None:
    assert estimate_context_term(make_points(1e-4)[:5], "decode", CONTEXTS) is None
    same = [PhasePoint(128, 32, 13.0 + at) for at in range(9)]
    assert estimate_context_term(same, "decode", CONTEXTS) is None

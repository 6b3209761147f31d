"""Operating curves: what the fit finds again, what it refuses, what it never does."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.curves.fit import (
    LEAST_POINTS,
    PhasePoint,
    TooFewPoints,
    TurnPoint,
    estimate_context_term,
    fit_phase,
    fit_turns,
    meter_share,
)
from etui.curves.operating_curve import Conditions, OperatingCurve, PhaseCurve, looked_back, mape

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


HERE = Conditions("a machine", "a build", 2)
GRID = list(itertools.product((32, 128, 512, 1024), (16, 64, 192)))


def curve(prefill, decode, **changes):
    facts = {"kind": "counter", "source": "calibration", **changes}
    return OperatingCurve(
        "c1", "2026-11-24", "m", "ab", HERE, prefill=prefill, decode=decode, **facts
    )


def turns(prefill, decode, noise=0.0, seed=0, uncertainty=None):
    rng = random.Random(seed)
    made = []
    for computed, output in GRID:
        p = prefill.joules(0, computed) * (1 + rng.gauss(0, noise))
        d = decode.joules(computed, output - 1) * (1 + rng.gauss(0, noise))
        blurs = (None, None) if uncertainty is None else (uncertainty * p, uncertainty * d)
        made.append(TurnPoint(computed, 0, output, p, d, *blurs))
    return made


coefficient = st.floats(1e-3, 5.0)
small = st.floats(1e-6, 1e-3)


@given(coefficient, coefficient, small, coefficient, coefficient, small)
def test_noiseless_turns_give_their_coefficients_back(e0, a, a2, e1, b, c):
    prefill, decode = fit_turns(turns(PhaseCurve(e0, a, a2), PhaseCurve(e1, b, c)))
    assert (prefill.e0, prefill.slope) == pytest.approx((e0, a), rel=1e-4, abs=1e-6)
    assert prefill.bend == pytest.approx(a2, rel=1e-4, abs=1e-9)
    assert (decode.e0, decode.slope) == pytest.approx((e1, b), rel=1e-4, abs=1e-6)
    assert decode.bend == pytest.approx(c, rel=1e-4, abs=1e-9)
    assert prefill.r2 == pytest.approx(1.0)
    assert decode.r2 == pytest.approx(1.0)
    assert decode.n == len(GRID)


@given(
    st.lists(
        st.tuples(st.integers(0, 4000), st.integers(1, 2000), st.floats(0, 1e4), st.floats(0, 100)),
        min_size=LEAST_POINTS,
        max_size=30,
    ).filter(lambda points: len({tokens for _, tokens, _, _ in points}) > 1),
    st.sampled_from(["always", "if earned"]),
)
def test_no_coefficient_and_no_prediction_is_negative(points, bend):
    fitted = fit_phase([PhasePoint(*point) for point in points], "decode", bend=bend)
    assert min(fitted.e0, fitted.slope, fitted.bend, fitted.band) >= 0
    for start, tokens, _, _ in points:
        joules = fitted.joules(start, tokens)
        assert joules >= 0
        assert fitted.half_width(joules) >= 0


def test_joules_that_no_meter_resolves_have_no_relative_error():
    assert mape([1.0, 1.0, 12.0], [5e-324, 5e-309, 10.0]) == pytest.approx(0.2)
    assert mape([1.0], [0.0]) is None


def test_a_context_term_that_prefill_does_not_need_is_left_out():
    prefill, _ = fit_turns(turns(PhaseCurve(1.0, 0.02), PhaseCurve(1.0, 0.3, 1e-4), 0.03, seed=3))
    assert prefill.bend == 0.0
    assert prefill.slope == pytest.approx(0.02, rel=0.1)


def test_a_sharp_point_counts_more_than_a_blurred_one():
    true = PhaseCurve(1.0, 0.5)
    points = [PhasePoint(0, n, true.joules(0, n), 0.02 * n) for n in (10, 20, 40, 80, 160, 320)]
    wrong = PhasePoint(0, 320, 3 * true.joules(0, 320), 1e4)
    fitted = fit_phase([*points, wrong], "decode")
    assert fitted.joules(0, 200) == pytest.approx(true.joules(0, 200), rel=0.01)


@pytest.mark.parametrize("noise", [0.02, 0.08])
def test_the_band_holds_turns_it_has_not_seen(noise):
    prefill, decode = PhaseCurve(2.0, 0.02, 1e-6), PhaseCurve(1.0, 0.4, 1e-4)
    inside = judged = 0
    for seed in range(20):
        fitted = curve(*fit_turns(turns(prefill, decode, noise, seed, uncertainty=0.01)))
        for turn in turns(prefill, decode, noise, seed + 1000):
            said = fitted.joules(turn.computed_tokens, 0, turn.output_tokens)
            judged += 1
            inside += abs(said.total - turn.prefill_joules - turn.decode_joules) <= said.scatter
    assert 0.9 <= inside / judged <= 1.0


def test_too_few_points_are_refused_by_their_number():
    few = turns(PhaseCurve(1, 1), PhaseCurve(1, 1))[: LEAST_POINTS - 1]
    with pytest.raises(TooFewPoints, match="5 points of the prefill, but 6 are needed") as refused:
        fit_turns(few)
    assert (refused.value.points, refused.value.needed) == (5, LEAST_POINTS)
    with pytest.raises(TooFewPoints, match="the same length"):
        fit_phase([PhasePoint(0, 8, 1.0)] * 9, "decode")


def test_points_that_were_not_measured_are_no_points():
    points = [PhasePoint(0, n, float("nan")) for n in range(1, 20)]
    with pytest.raises(TooFewPoints, match="found 0 points"):
        fit_phase(points, "decode")


def test_a_turn_of_one_token_has_no_decode():
    made = curve(PhaseCurve(1.0, 0.1), PhaseCurve(5.0, 1.0))
    assert made.joules(10, 0, 1).decode == 0.0
    assert made.joules(10, 0, 0).decode == 0.0
    assert made.joules(10, 0, 2).decode == 6.0
    assert made.joules(0, 10, 0).total == 0.0


@given(st.integers(0, 3000), st.integers(1, 2000), st.integers(1, 2000))
def test_tokens_looked_back_on_add_up(start, first, second):
    whole = looked_back(start, first + second)
    assert whole == pytest.approx(looked_back(start, first) + looked_back(start + first, second))


def test_what_the_meter_leaves_open_stays_whatever_the_residuals():
    points = turns(PhaseCurve(1.0, 0.1), PhaseCurve(1.0, 0.5), uncertainty=0.4)
    assert meter_share(points) == pytest.approx(0.4)
    assert meter_share(turns(PhaseCurve(1, 1), PhaseCurve(1, 1))) == 0.0
    exact = curve(*fit_turns(points), meter_share=meter_share(points))
    said = exact.joules(128, 0, 64)
    assert said.scatter == pytest.approx(0.0, abs=1e-6)
    assert said.uncertainty == pytest.approx(0.4 * said.total)


def test_the_curve_is_a_price_of_decoding():
    made = curve(PhaseCurve(1.0, 0.1), PhaseCurve(5.0, 0.5, 1e-3))
    price = made.to_decode_price()
    assert price.source == "operating curve"
    assert price.joules_per_prompt_token == 0.1
    more = made.joules(100, 0, 31).decode - made.joules(100, 0, 11).decode
    assert price.decode_joules(110, 20) == pytest.approx(more)


def test_relative_errors():
    assert mape([11, 90], [10, 100]) == pytest.approx(0.1)
    assert mape([1], [0]) is None
    assert mape([], []) is None

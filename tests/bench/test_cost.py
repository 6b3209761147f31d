"""Whether a machine worked evenly, judged from the costs of its answers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.cost import (
    LEAST_ANSWERS,
    LIMIT_PERCENT,
    compute_distribution,
    compute_drift,
    count_gaps,
    judge_steadiness,
    list_early_answers,
    pool_gaps,
)
from etui.bench.sample import Sample
from etui.turn.record import Tokens
from tests.bench import synthetic

GAPS = st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=60)


def test_without_values_there_is_none() -> None:
    assert compute_distribution([]) is None
    assert pool_gaps([]) is None
    assert pool_gaps([(), ((3, 0),)]) is None


@given(st.lists(GAPS, min_size=1, max_size=5))
def test_pooled_percentiles_are_those_of_all_gaps(parts) -> None:
    found = pool_gaps(count_gaps(part) for part in parts)
    whole = [gap for part in parts for gap in part]
    assert found.count == len(whole)
    for value, percent in ((found.p50, 50), (found.p90, 90), (found.p95, 95)):
        exact = np.percentile(whole, percent, method="inverted_cdf")
        assert value == pytest.approx(exact, rel=0.0221)
    assert found.mean == pytest.approx(math.fsum(whole) / len(whole), rel=0.0221)


def test_two_tokens_at_the_same_time_divide_by_nothing() -> None:
    found = pool_gaps([count_gaps([0.0, 0.0])])
    assert 0 < found.p50 < 2e-9


ANY = synthetic.samples(synthetic.config(arms=("think",), per_subject=1))[0]


def answers(count: int, noise: float, drift: float = 0.0, seed: int = 0, **changes) -> list[Sample]:
    """Answers that cost 2 J, 10 mJ a computed and 0.1 J an output token, times drift and noise."""
    draw = random.Random(seed)
    found = []
    for at in range(count):
        computed, output = draw.randrange(80, 300), draw.randrange(20, 400)
        cost = 2 + 0.01 * computed + 0.1 * output
        cost *= (1 + drift * at / max(1, count - 1)) * draw.lognormvariate(0, noise)
        found.append(
            replace(
                ANY,
                row=at,
                tokens=Tokens(computed, 0, computed, 0, output),
                prefix_tokens=0.0,
                joules=cost,
                seconds=cost / 30,
                **changes,
            )
        )
    return found


def test_longer_answers_at_the_end_are_no_drift() -> None:
    rows = sorted(answers(90, 0.02), key=lambda row: row.tokens.output)
    found = judge_steadiness(rows)
    assert found.is_steady is not False
    assert abs(found.joules.percent) < LIMIT_PERCENT


def test_few_answers_cannot_tell() -> None:
    found = judge_steadiness(answers(LEAST_ANSWERS - 1, 0.01))
    assert (found.is_steady, found.joules, found.seconds) == (None, None, None)
    assert found.why == "11 answers, but the test needs 12"
    noisy = judge_steadiness(answers(LEAST_ANSWERS, 0.4, seed=3))
    assert noisy.is_steady is None
    assert "vary too much" in noisy.why
    assert judge_steadiness([]).is_steady is None


def test_equal_answers_are_steady_without_noise() -> None:
    rows = [replace(row, joules=5.0, seconds=0.2, tokens=ANY.tokens) for row in answers(30, 0.0)]
    found = judge_steadiness(rows)
    assert found.is_steady is True
    assert found.joules.percent == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "noise"), [(12, 0.2), (30, 0.05), (100, 0.2)])
def test_an_even_machine_is_blamed_in_at_most_one_of_twenty_runs(count: int, noise: float) -> None:
    runs = 200
    verdicts = [
        judge_steadiness(answers(count, noise, seed=seed)).is_steady for seed in range(runs)
    ]
    assert verdicts.count(False) / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5


def test_a_clear_drift_is_never_called_steady() -> None:
    verdicts = [judge_steadiness(answers(30, 0.2, 0.3, seed)).is_steady for seed in range(200)]
    assert True not in verdicts


@given(
    st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(0, 0.5), st.integers(LEAST_ANSWERS, 60)
)
def test_the_unit_does_not_matter(seed: int, factor: float, drift: float, count: int) -> None:
    rows = answers(count, 0.1, drift, seed)
    scaled = [replace(row, joules=row.joules * factor) for row in rows]
    one, other = compute_drift(rows, "joules"), compute_drift(scaled, "joules")
    assert other.percent == pytest.approx(one.percent, rel=1e-6, abs=1e-6)
    assert one.low_percent <= one.percent <= one.high_percent
    assert 0 <= one.p <= 1


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(0, 1e4)),
            st.floats(0, 1e3),
            st.integers(0, 500),
            st.integers(0, 500),
        ),
        max_size=40,
    )
)
def test_anything_is_judged(parts) -> None:
    rows = [
        replace(
            ANY,
            row=at,
            joules=joules,
            seconds=seconds,
            tokens=Tokens(computed, 0, computed, 0, output),
            prefix_tokens=0.0,
        )
        for at, (joules, seconds, computed, output) in enumerate(parts)
    ]
    found = judge_steadiness(rows)
    assert found.why
    early = list_early_answers(rows)
    assert [one.number for one in early] == [n for n in (1, 2, 10) if n <= len(rows)]
    for one in early:
        assert one.joules_per_output_token is None or one.output_tokens > 0

"""Percentiles over answers, and over the gaps between all tokens."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.cost import (
    compute_distribution,
    compute_percentiles,
    count_gaps,
    pool_gaps,
)
from tests.bench import synthetic

GAPS = st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=60)


def test_without_values_there_is_none() -> None:
    assert compute_distribution([]) is None
    assert pool_gaps([]) is None
    assert pool_gaps([(), ((3, 0),)]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentiles_are_ordered_and_inside(values) -> None:
    found = compute_distribution(values)
    assert found is not None
    assert found.count == len(values)
    ends = (min(values), found.p50, found.p90, found.p95, max(values))
    assert all(one <= other * (1 + 1e-12) for one, other in pairwise(ends))


@given(st.lists(GAPS, min_size=1, max_size=5))
def test_pooled_percentiles_are_those_of_all_gaps(parts) -> None:
    found = pool_gaps(count_gaps(part) for part in parts)
    whole = [gap for part in parts for gap in part]
    assert found is not None
    assert found.count == len(whole)
    for value, percent in ((found.p50, 50), (found.p90, 90), (found.p95, 95)):
        exact = np.percentile(whole, percent, method="inverted_cdf")
        assert value == pytest.approx(exact, rel=0.0221)
    assert found.mean == pytest.approx(math.fsum(whole) / len(whole), rel=0.0221)


def test_pooling_is_not_a_mean_of_medians() -> None:
    fast, slow = count_gaps([0.01] * 90), count_gaps([0.1] * 10)
    found = pool_gaps([fast, slow])
    assert found is not None
    assert found.p50 == pytest.approx(0.01, rel=0.03)
    assert found.p95 == pytest.approx(0.1, rel=0.03)


def test_two_tokens_at_the_same_time_divide_by_nothing() -> None:
    found = pool_gaps([count_gaps([0.0, 0.0])])
    assert found is not None
    assert 0 < found.p50 < 2e-9


def test_a_system_without_output_has_no_percentiles_of_tokens() -> None:
    run = synthetic.config(arms=("direct", "think"), per_subject=1)
    rows = synthetic.samples(run)
    direct = compute_percentiles([row for row in rows if row.arm == "direct"])
    assert direct.joules_per_question is not None
    assert (direct.joules_per_output_token, direct.inter_token_seconds) == (None, None)
    think = [row for row in rows if row.arm == "think"]
    found = compute_percentiles(think).joules_per_output_token
    assert found is not None
    assert found.p50 == pytest.approx(np.median([row.joules / row.tokens.output for row in think]))
    unmeasured = compute_percentiles(synthetic.samples(run, kind=None))
    assert unmeasured.joules_per_question is None

"""Who pays for what: arithmetic over measured intervals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.scoring import Shared, split_charges
from etui.energy.types import Energy, Kind

S = 1_000_000_000


def energy(joules, uncertainty=1.0, kind=Kind.COUNTER, seconds=2):
    known = joules is not None
    return Energy(
        0, seconds * S, joules, uncertainty if known else None, kind if known else None, 1.0
    )


@given(st.floats(0, 1e6), st.lists(st.integers(1, 900), min_size=1, max_size=9))
def test_the_parts_of_a_group_sum_to_it(joules, tokens):
    parts = split_charges(energy(joules), tokens, None, None)
    assert math.fsum(part.joules for part in parts) == pytest.approx(joules)
    assert math.fsum(part.seconds for part in parts) == pytest.approx(2)
    assert math.fsum(part.uncertainty for part in parts) == pytest.approx(1.0)
    assert all(part.prefix_tokens == 0 for part in parts)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9))
def test_a_subjects_charges_sum_to_what_it_took_with_its_examples(sizes):
    shared = Shared(0, 3 * S, 500, sum(sizes))
    found = [
        part
        for size in sizes
        for part in split_charges(energy(10.0), [7] * size, shared, energy(30.0, 2.0, seconds=3))
    ]
    assert math.fsum(part.joules for part in found) == pytest.approx(30 + 10 * len(sizes))
    assert math.fsum(part.prefix_tokens for part in found) == pytest.approx(500)
    assert math.fsum(part.seconds for part in found) == pytest.approx(3 + 2 * len(sizes))
    assert math.fsum(part.uncertainty for part in found) == pytest.approx(2 + len(sizes))


def test_the_longer_question_pays_more():
    short, long = split_charges(energy(12.0), [100, 300], None, None)
    assert (short.joules, long.joules) == (3.0, 9.0)


@pytest.mark.parametrize(("group", "shared"), [(None, 5.0), (5.0, None), (None, None)])
def test_a_sum_that_lacks_a_part_is_unmeasured(group, shared):
    (part,) = split_charges(energy(group), [10], Shared(0, S, 5, 1), energy(shared))
    assert (part.joules, part.uncertainty, part.kind) == (None, None, None)
    assert part.seconds > 0


def test_the_weaker_kind_is_told():
    (part,) = split_charges(energy(1.0), [10], Shared(0, S, 5, 1), energy(1.0, kind=Kind.ESTIMATE))
    assert part.kind == "estimate"

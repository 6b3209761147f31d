"""Wasted joules: measured ones are summed, unknown ones stay unknown, estimates say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cluster.messages import Wasted
from etui.cluster.tally import Losses

FEW = st.integers(0, 5)
JOULES = st.floats(0, 1e6)
LOSSES = st.builds(
    Losses, FEW, FEW, JOULES, JOULES, FEW, FEW, FEW, st.one_of(st.none(), JOULES)
)  # fmt: skip
LATE = Losses.measure(Wasted(2.0, 0.1, "counter"), doubled=1)
EARLY = Losses.measure(Wasted(3.0, 0.5, "counter"), tries=1)
GUESSED = Losses.measure(Wasted(1.0, 0.5, "estimate"), tries=1)
BLIND = Losses.measure(Wasted(None, None), tries=1)


@pytest.mark.parametrize(
    ("losses", "wasted", "text"),
    [
        (Losses(), 0.0, ""),
        (
            LATE + EARLY,
            5.0,
            "wasted: 5.0 ± 0.6 J (counter) (1 answer came late, 1 piece ended early)",
        ),
        (EARLY + GUESSED, 4.0, "wasted: ≈4.0 J (estimate) (2 pieces ended early)"),
        (
            EARLY + Losses.estimate(2, 4.0),
            None,
            "wasted: 3.0 ± 0.5 J (counter) (1 piece ended early); 1 node died or hung while "
            "answering 2 questions: unknown joules, by estimate ≈8.0 J (estimate)",
        ),
        (
            Losses.estimate(0, 4.0),
            None,
            "wasted: 1 node died or hung: unknown joules, without an estimate",
        ),
        (BLIND, None, "wasted: 0 J (1 piece ended early, 1 of them unmeasured)"),
    ],
)
def test_waste_is_measured_estimated_or_unknown(losses, wasted, text):
    assert losses.wasted_joules == wasted
    assert losses.text() == text


@given(st.lists(LOSSES, max_size=5))
def test_sums_keep_what_is_unknown(losses):
    total = sum(losses, Losses())
    assert total.reported_joules == pytest.approx(sum(each.reported_joules for each in losses))
    assert total.lost_tries == sum(each.lost_tries for each in losses)
    if any(each.wasted_joules is None for each in losses):
        assert total.wasted_joules is None
    known = [each.estimated_joules for each in losses if each.estimated_joules is not None]
    assert total.estimated_joules == (pytest.approx(sum(known)) if known else None)

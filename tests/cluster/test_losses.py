"""Wasted joules: measured ones are summed, unknown ones stay unknown, estimates say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cluster.losses import Losses, MeanJoules, losses_text, sum_losses
from tests.cluster.fake_node import make_sample

FEW = st.integers(0, 5)
JOULES = st.floats(0, 1e6)
LOSSES = st.builds(
    Losses, FEW, FEW, JOULES, JOULES, FEW, FEW, FEW, st.one_of(st.none(), JOULES)
)  # fmt: skip


def test_measured_waste_is_summed():
    found = Losses().add_doubled(make_sample("a", "s", 0, 2.0)).add_reported(3.0, 0.5)
    assert found.wasted_joules == 5.0
    assert found.reported_uncertainty == pytest.approx(0.6)
    assert losses_text(found) == (
        "wasted: 5.0 ± 0.6 J (counter) (1 answer came late, 1 piece ended early)"
    )


def test_the_weakest_kind_of_a_sum_is_named():
    found = Losses().add_reported(3.0, 0.5, "counter").add_reported(1.0, 0.5, "estimate")
    assert found.reported_kind == "estimate"
    assert "≈4.0 J (estimate)" in losses_text(found)
    assert sum_losses([found, Losses().add_reported(1.0, 0.1, "counter")]).reported_kind == (
        "estimate"
    )


def test_what_died_is_unknown_and_estimated():
    found = Losses().add_reported(3.0, 0.5).add_lost(2, 4.0)
    assert found.wasted_joules is None
    assert (found.lost_tries, found.lost_questions, found.estimated_joules) == (1, 2, 8.0)
    text = losses_text(found)
    assert "1 node died or hung while answering 2 questions: unknown joules" in text
    assert "≈8.0 J (estimate)" in text


def test_an_unmeasured_loss_is_not_zero():
    found = Losses().add_reported(None, None)
    assert found.wasted_joules is None
    assert "1 of them unmeasured" in losses_text(found)
    assert losses_text(Losses().add_lost(1, None)).endswith("unknown joules, without an estimate")
    assert losses_text(Losses()) == ""


@given(st.lists(LOSSES, max_size=5))
def test_sums_keep_what_is_unknown(losses):
    total = sum_losses(losses)
    assert total.reported_joules == pytest.approx(sum(each.reported_joules for each in losses))
    assert total.lost_tries == sum(each.lost_tries for each in losses)
    if any(each.wasted_joules is None for each in losses):
        assert total.wasted_joules is None
    known = [each.estimated_joules for each in losses if each.estimated_joules is not None]
    assert total.estimated_joules == (pytest.approx(sum(known)) if known else None)


def test_a_mean_is_of_measured_answers_of_a_system():
    mean = MeanJoules.of({"a": [make_sample("a", "s", 0, 2.0), make_sample("a", "s", 1, None)]})
    assert mean.of_system("a") == 2.0
    assert mean.of_system("b") is None
    mean.add("a", make_sample("a", "s", 2, 4.0))
    assert mean.of_system("a") == 3.0

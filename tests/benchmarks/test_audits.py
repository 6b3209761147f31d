"""The share of a gain that simulated audits reach, and how good the labels of an audit day are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.audit_day import Judged, is_right, summarise
from benchmarks.audits import RANDOM, compute_share, draw_agreement, format_simulation, measure_apgr
from benchmarks.audits import summarise as summarise_runs

pytestmark = pytest.mark.slow


def test_a_share_is_the_ratio_of_mean_gains() -> None:
    share = compute_share([0.06, 0.10], [0.1, 0.1])
    assert share.value == pytest.approx(0.8)
    assert share.error == pytest.approx(0.2)
    assert compute_share([0.06], [0.1]).error is None
    assert compute_share([0.05, 0.1], [0.1, 0.2]).error == pytest.approx(0.0), "always a half"


def test_runs_are_summed_up_and_printed() -> None:
    runs = [
        {"audits": 0.08, "truth": 0.12, "all": 0.18},
        {"audits": 0.10, "truth": 0.13, "all": 0.19},
    ]
    found = {"questions": 7026, "share": 0.05, **summarise_runs(runs)}
    assert found["gains"]["audits"]["apgr"] == pytest.approx(0.59)
    assert found["reached"]["of_truth"]["value"] == pytest.approx(0.72)
    lines = list(format_simulation(found))
    assert lines[0] == "7,026 questions, 351 audited, 2 seeds"
    assert "72 %" in lines[-2]
    assert "49 %" in lines[-1]


def test_a_perfect_order_has_the_largest_area_and_agreement_is_drawn() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((400, 2)) < (0.5, 0.8)
    gain = correct[:, 1].astype(float) - correct[:, 0]
    assert measure_apgr(correct, gain) > 0.9 > RANDOM > measure_apgr(correct, -gain)
    agrees = draw_agreement(correct, 0.35, 1)
    right = correct.any(axis=1)
    assert (agrees[right] == correct.all(axis=1)[right]).all()
    assert 0 < agrees[~right].mean() < 1


def test_an_audit_day_compares_labels_with_the_truth() -> None:
    query = "What is 2+2?\nA) 3\nB) 4\nC) 5\nD) 6\nAnswer with the letter only."
    assert is_right(query, "B", "B")
    assert is_right(query, "The answer is B.", "B")
    assert not is_right(query, "A", "B")
    assert not is_right(query, "I do not know", "B")
    judged = [
        Judged(agrees=True, small=True, large=True, small_label=0.9, large_label=0.95),
        Judged(agrees=True, small=False, large=False, small_label=0.7, large_label=0.8),
        Judged(agrees=False, small=False, large=False, small_label=0.2, large_label=0.5),
        Judged(agrees=False, small=False, large=True, small_label=0.2, large_label=0.5),
    ]
    found = summarise(judged, [True, False])
    assert found["labels"] == 4
    assert found["agree"] == 0.5
    assert found["same_mistake"] == 0.5
    assert found["small_right"] == 0.25
    assert found["small_by_labels"] == pytest.approx(0.5)
    assert summarise([], [])["agree"] is None

"""Where a router is compared with the mixture of the hull, and by what."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cli.policy_replay import replay_lines
from etui.learning.graded import Graded
from etui.learning.judge import ReplayTable, judge, list_hull_places

POINT = st.tuples(st.floats(0.01, 1e4), st.floats(0, 1))


def test_corners_and_geometric_middles_of_a_hull_with_an_arm_below_it():
    places = list_hull_places([1.0, 3.0, 8.0, 30.0], [0.5, 0.5, 0.8, 0.9])
    assert [(place.kind, place.arms) for place in places] == [
        ("corner", (0,)),
        ("middle", (0, 2)),
        ("corner", (2,)),
        ("middle", (2, 3)),
        ("corner", (3,)),
    ]
    assert [place.cost for place in places] == pytest.approx([1, sqrt(8), 8, sqrt(240), 30])


@given(st.lists(POINT, min_size=1, max_size=9))
def test_places_ascend_and_alternate(points):
    costs, accuracies = zip(*points, strict=True)
    places = list_hull_places(costs, accuracies)
    assert len(places) % 2 == 1
    assert [place.kind for place in places[::2]] == ["corner"] * (len(places) // 2 + 1)
    assert all(a.cost <= b.cost * (1 + 1e-12) for a, b in pairwise(places))
    for left, middle, right in zip(places[::2], places[1::2], places[2::2], strict=False):
        assert middle.arms == left.arms + right.arms


def table(accuracies: tuple[float, ...], count: int = 400) -> Graded:
    """Nested answers: what an arm knows, the better ones know too, but for a few."""
    draw = np.random.default_rng(4)
    hard = draw.random(count)
    correct = np.column_stack([hard + draw.normal(0, 0.1, count) < a for a in accuracies])
    names = tuple(f"arm{at}" for at in range(len(accuracies)))
    return Graded(names, ("s",) * count, tuple(range(count)), (), correct)


def test_the_document_has_a_row_for_each_place_with_its_gain():
    graded = table((0.5, 0.45, 0.8, 0.9))
    cost = np.tile([1.0, 3.0, 8.0, 30.0], (len(graded), 1))
    guess = np.random.default_rng(5).random((len(graded), 1))
    knowing = 0.8 * graded.correct + 0.5 * guess
    document = judge(ReplayTable(graded, cost), {"knowing": knowing})
    rows = document["energy"]["at_hull"]
    assert [row["arms"] for row in rows] == [
        ["arm0"], ["arm0", "arm2"], ["arm2"], ["arm2", "arm3"], ["arm3"],
    ]  # fmt: skip
    for row in rows:
        assert row["cost"] <= row["budget"] * (1 + 1e-6)
        assert row["difference"]["value"] == pytest.approx(
            row["accuracy"] - row["mixture_accuracy"]
        )
    assert rows[0]["difference"]["value"] == pytest.approx(0)
    assert rows[2]["difference"]["low"] > 0
    assert rows[1]["saved"]["value"] > 0.1
    # The arm below the hull is not compared with, but a router may use it.
    assert sum(row["shares"]["arm1"] for row in rows) > 0
    text = "\n".join(replay_lines(document))
    assert "arm0..arm2" in text
    assert "50% of the way" in text


def test_one_corner_when_the_cheapest_arm_is_the_best():
    graded = table((0.9, 0.5))
    cost = np.tile([1.0, 3.0], (len(graded), 1))
    document = judge(ReplayTable(graded, cost), {"knowing": graded.correct.astype(float)})
    assert document["apgr"] is None
    assert document["energy"] is None
    assert [c["arm"] for c in document["hull"]] == ["arm0"]

"""Places of the labels of a chart."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from etui.plots.figure import Box, Label, find_distance, place_labels

FRAME = Box(0, 0, 900, 600)
POINTS = st.lists(
    st.tuples(st.integers(20, 880), st.integers(20, 580)), min_size=1, max_size=9, unique=True
)


@given(POINTS)
def test_nine_labels_stay_inside_and_apart(points):
    labels = [Label(x, y, 90, 12) for x, y in points]
    dots = [Box(x, y, x, y).grow(4) for x, y in points]
    boxes = place_labels(labels, dots, FRAME)
    assert len(boxes) == len(labels)
    assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))
    assert all(one.overlap(dot) == 0 for one in boxes for dot in dots)
    for box, label in zip(boxes, labels, strict=True):
        assert box.overlap(FRAME) > 0.99 * label.width * label.height


def test_a_free_label_goes_where_it_prefers():
    right, above = (
        place_labels([Label(100, 100, 50, 10, angle)], [], FRAME)[0] for angle in (0, 90)
    )
    assert right.left > 100
    assert (right.bottom + right.top) / 2 == 100
    assert above.bottom > 100
    assert find_distance(above, 100, 100) < 10


def test_a_label_moves_away_from_what_is_there():
    there = Box(105, 80, 170, 120)
    (box,) = place_labels([Label(100, 100, 50, 10, 0)], [there], FRAME)
    assert box.overlap(there) == 0


def test_without_a_free_place_the_least_is_covered():
    (box,) = place_labels([Label(50, 50, 90, 90)], [Box(0, 0, 100, 60)], Box(0, 0, 100, 100))
    assert box.bottom >= 0
    assert box.top <= 100

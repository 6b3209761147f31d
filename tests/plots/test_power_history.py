"""The history of power: buckets that keep the joules, gaps that stay gaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.plots.power_history import TOTAL, ZOOM_SECONDS, PowerHistory

SECOND = 1_000_000_000
QUARTER = SECOND // 4
WATTS = st.floats(0.0, 2000.0)


def filled(watts: list[float | None], start_ns: int = 0) -> PowerHistory:
    history = PowerHistory()
    for number, value in enumerate(watts):
        history.add(start_ns + number * QUARTER, {TOTAL: value})
    return history


@given(st.lists(WATTS, min_size=4, max_size=200), st.integers(0, 10**8))
def test_no_watt_is_lost_or_invented(watts: list[float], start_s: int) -> None:
    start_ns = start_s * SECOND
    history = filled(list(watts), start_ns)
    end_ns = start_ns + (len(watts) - 1) * QUARTER
    count = -(-len(watts) // 4)
    buckets = history.buckets(TOTAL, end_ns, 1.0, count)
    sums = 0.0
    for number, mean in enumerate(buckets.means):
        in_bucket = watts[4 * number : 4 * number + 4]
        if in_bucket:
            assert mean is not None
            assert mean == pytest.approx(sum(in_bucket) / len(in_bucket))
            assert buckets.peaks[number] == pytest.approx(max(in_bucket))
            sums += mean * len(in_bucket)
    assert sums == pytest.approx(sum(watts))


@given(st.lists(st.none() | WATTS, min_size=1, max_size=300), st.sampled_from([0.1, 0.375, 1, 9]))
def test_a_peak_is_never_below_its_mean(watts: list[float | None], seconds: float) -> None:
    buckets = filled(watts).buckets(TOTAL, len(watts) * QUARTER, seconds, 80)
    assert len(buckets.means) == len(buckets.peaks) == len(buckets.phases) == 80
    for mean, peak in zip(buckets.means, buckets.peaks, strict=True):
        assert (mean is None) == (peak is None)
        if mean is not None and peak is not None:
            assert 0 <= mean <= peak <= 2000.0


@given(st.lists(WATTS, min_size=40, max_size=80), st.integers(1, 30))
def test_a_bucket_keeps_its_value_while_it_moves(watts: list[float], later: int) -> None:
    whole = filled(list(watts))
    now = (len(watts) - 1) * QUARTER
    before = filled(list(watts[: -min(later, 30)]))
    then = (len(watts) - 1 - min(later, 30)) * QUARTER
    moved = now // SECOND - then // SECOND
    old = before.buckets(TOTAL, then, 1.0, 20).means[:-1]  # the newest is not complete
    new = whole.buckets(TOTAL, now, 1.0, 20 + moved).means[:19]
    for left, right in zip(old, new, strict=True):
        assert left == (None if right is None else pytest.approx(right))


def test_watts_that_are_not_known_stay_a_gap() -> None:
    buckets = filled([10.0] * 8 + [None] * 8 + [20.0] * 8).buckets(TOTAL, 23 * QUARTER, 1.0, 6)
    assert buckets.means == (10.0, 10.0, None, None, 20.0, 20.0)


def test_a_bucket_with_one_known_watt_shows_it() -> None:
    assert filled([None, None, 7.0, None]).buckets(TOTAL, SECOND - 1, 1.0, 1).means == (7.0,)


def test_a_long_silence_is_a_gap_and_a_short_one_is_not() -> None:
    history = PowerHistory()
    for second in (0, 1, 2, 6, 7):
        history.add(second * SECOND, {TOTAL: 5.0})
    means = history.buckets(TOTAL, 7 * SECOND, 0.5, 15).means
    assert means[:5] == (5.0,) * 5
    assert means[6:12] == (None,) * 6
    assert means[12:] == (5.0,) * 3


def test_the_newest_bucket_ends_with_the_silence() -> None:
    history = filled([5.0])
    assert history.buckets(TOTAL, 2 * SECOND, 1.0, 3).means == (5.0, 5.0, 5.0)
    assert history.buckets(TOTAL, 9 * SECOND, 1.0, 3).means == (None, None, None)


def test_a_channel_that_appears_late_has_a_gap_before() -> None:
    history = PowerHistory()
    history.add(0, {"gpu": 1.0})
    history.add(SECOND, {"gpu": 1.0, "cpu": 2.0})
    history.add(2 * SECOND, {"cpu": 2.0})
    assert history.channels == ("gpu", "cpu")
    assert history.buckets("cpu", 2 * SECOND, 1.0, 3).means == (None, 2.0, 2.0)
    assert history.buckets("gpu", 2 * SECOND, 1.0, 3).means == (1.0, 1.0, None)
    assert history.buckets("fan", 2 * SECOND, 1.0, 3).means == (None, None, None)


def test_the_last_phase_of_a_bucket_is_shown_and_a_short_one_too() -> None:
    history = PowerHistory()
    for number, phase in enumerate("  LLPPAA    "):
        history.add(number * QUARTER, {TOTAL: 1.0}, phase)
    assert history.buckets(TOTAL, 11 * QUARTER, 1.0, 3).phases == "LA "
    history.note("P")
    history.note(" ")
    history.add(12 * QUARTER, {TOTAL: 1.0})
    history.add(13 * QUARTER, {TOTAL: 1.0})
    assert history.buckets(TOTAL, 13 * QUARTER, 1.0, 1).phases == "P"


def test_an_hour_is_kept_and_no_more() -> None:
    history = PowerHistory(keep_seconds=10.0)
    for number in range(400):
        history.add(number * QUARTER, {TOTAL: float(number)})
    means = history.buckets(TOTAL, 399 * QUARTER, 1.0, 100).means
    assert means[-1] == pytest.approx(397.5)
    assert all(mean is not None for mean in means[-10:])
    assert means[0] is None


def test_a_reading_of_the_past_is_ignored() -> None:
    history = filled([1.0, 2.0])
    history.add(0, {TOTAL: 99.0})
    assert history.newest_ns == QUARTER
    assert history.buckets(TOTAL, QUARTER, 1.0, 1).peaks == (2.0,)


@pytest.mark.parametrize("zoom", ZOOM_SECONDS)
def test_every_zoom_is_full_at_every_width(zoom: float) -> None:
    history = filled([50.0] * int(4 * zoom))
    newest = history.newest_ns or 0
    for count in (2, 61, 400):
        means = history.buckets(TOTAL, newest, zoom / count, count).means
        assert all(mean == 50.0 for mean in means[1 + count // 61 :])
        seconds = history.buckets(TOTAL, newest, zoom / count, count).seconds
        assert seconds == pytest.approx(zoom / count, abs=1e-9)

"""The offset of another clock: however unequal the ways, the truth is within the stated error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.energy.remote.clock import (
    DRIFT,
    ClockReading,
    Probe,
    choose_reading,
    find_offset,
)

ways = st.tuples(st.integers(0, 50_000_000), st.integers(0, 50_000_000))
offsets = st.integers(-(10**15), 10**15)
drifts = st.floats(-DRIFT, DRIFT)


def probe(t_ns: int, there: int, back: int, offset: int, drift: float = 0.0) -> Probe:
    """A probe sent at a time of this machine, to a clock with this offset and drift."""
    read_ns = t_ns + there
    return Probe(t_ns, read_ns + back, read_ns + offset + int(drift * read_ns))


def test_the_shortest_round_trip_counts_and_half_of_it_is_the_error() -> None:
    probes = [probe(0, 900, 100, 5_000), probe(2_000, 30, 10, 5_000), probe(3_000, 400, 400, 5_000)]
    reading = choose_reading(probes, "boot")
    assert reading.t_ns == 2_020
    assert reading.boot_id == "boot"
    assert reading.error_ns == 21  # half of 40 ns, and what the clocks may drift meanwhile
    assert abs(reading.offset_ns - 5_000) <= 10  # off by half of the difference of the ways


@given(st.lists(ways, min_size=1, max_size=8), offsets)
def test_the_true_offset_is_within_the_error_of_a_reading(
    delays: list[tuple[int, int]], offset: int
) -> None:
    probes = [probe(i * 10**9, there, back, offset) for i, (there, back) in enumerate(delays)]
    reading = choose_reading(probes)
    assert abs(reading.offset_ns - offset) <= reading.error_ns
    shortest = min(there + back for there, back in delays)
    assert reading.error_ns <= shortest // 2 + 1 + shortest * DRIFT + 1


@given(
    st.lists(st.tuples(st.integers(0, 10**12), ways), min_size=1, max_size=6),
    offsets,
    drifts,
    st.integers(0, 10**12),
)
def test_the_true_offset_is_within_the_error_at_any_time_while_the_clocks_drift(
    probes: list[tuple[int, tuple[int, int]]], offset: int, drift: float, t_ns: int
) -> None:
    readings = [choose_reading([probe(at, *way, offset, drift)]) for at, way in probes]
    found = find_offset(readings, t_ns)
    assert found is not None
    true = offset + int(drift * t_ns)
    assert abs(found.offset_ns - true) <= found.error_ns + 2  # two roundings of the simulation


@given(ways, offsets, drifts)
def test_a_probe_before_and_one_after_leave_their_own_error_at_the_edges(
    way: tuple[int, int], offset: int, drift: float
) -> None:
    before = choose_reading([probe(0, *way, offset, drift)])
    after = choose_reading([probe(60 * 10**9, *way, offset, drift)])
    for reading in (before, after):
        found = find_offset([before, after], reading.t_ns)
        assert found is not None
        assert found.error_ns <= reading.error_ns
    middle = find_offset([before, after], 30 * 10**9)
    assert middle is not None
    assert middle.error_ns <= before.error_ns + after.error_ns + 30 * 10**9 * DRIFT + 2


def test_readings_that_contradict_each_other_give_nothing() -> None:
    before = ClockReading(0, 1_000_000, 50)
    stopped = ClockReading(10**9, 1_000_000 - 30 * 10**6, 50)  # 30 ms lost in a second
    assert find_offset([before, stopped], 0) is None
    assert find_offset([before, stopped], 10**9) is None
    assert find_offset([], 0) is None

"""The offset of another clock: however unequal the ways, the truth is within the stated error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.energy.remote.clock import DRIFT, ClockReading, find_offset, read_probe

ways = st.tuples(st.integers(0, 50_000_000), st.integers(0, 50_000_000))
offsets = st.integers(-(10**15), 10**15)
drifts = st.floats(-DRIFT, DRIFT)


def probe(t_ns: int, there: int, back: int, offset: int, drift: float = 0.0) -> ClockReading:
    """A probe sent at a time of this machine, to a clock with this offset and drift."""
    read_ns = t_ns + there
    return read_probe(t_ns, read_ns + back, read_ns + offset + int(drift * read_ns), "boot")


def test_half_of_the_round_trip_is_the_error():
    reading = probe(2_000, 30, 10, 5_000)
    assert (reading.t_ns, reading.boot_id) == (2_020, "boot")
    assert reading.error_ns == 21  # half of 40 ns, and what the clocks may drift meanwhile
    assert abs(reading.offset_ns - 5_000) <= 10  # off by half of the difference of the ways


@given(ways, offsets)
def test_the_true_offset_is_within_the_error_of_a_reading(way, offset):
    reading = probe(0, *way, offset)
    assert abs(reading.offset_ns - offset) <= reading.error_ns
    assert reading.error_ns <= sum(way) // 2 + 1 + sum(way) * DRIFT + 1


@given(
    st.lists(st.tuples(st.integers(0, 10**12), ways), min_size=1, max_size=6),
    offsets,
    drifts,
    st.integers(0, 10**12),
)
def test_the_true_offset_is_within_the_error_at_any_time_while_the_clocks_drift(
    probes, offset, drift, t_ns
):
    readings = [probe(at, *way, offset, drift) for at, way in probes]
    found = find_offset(readings, t_ns)
    true = offset + int(drift * t_ns)
    assert abs(found.offset_ns - true) <= found.error_ns + 2  # two roundings of the simulation


@given(ways, offsets, drifts)
def test_a_probe_before_and_one_after_leave_their_own_error_at_the_edges(way, offset, drift):
    before = probe(0, *way, offset, drift)
    after = probe(60 * 10**9, *way, offset, drift)
    for reading in (before, after):
        found = find_offset([before, after], reading.t_ns)
        assert found.error_ns <= reading.error_ns
    middle = find_offset([before, after], 30 * 10**9)
    assert middle.error_ns <= before.error_ns + after.error_ns + 30 * 10**9 * DRIFT + 2


def test_readings_that_contradict_each_other_give_nothing():
    before = ClockReading(0, 1_000_000, 50)
    stopped = ClockReading(10**9, 1_000_000 - 30 * 10**6, 50)  # 30 ms lost in a second
    assert find_offset([before, stopped], 0) is None
    assert find_offset([before, stopped], 10**9) is None
    assert find_offset([], 0) is None

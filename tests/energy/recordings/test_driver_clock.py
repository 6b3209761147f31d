"""The errors of a driver's timestamps, learned from the reads around movements."""

from __future__ import annotations

import random

from etui.energy._recordings.edges import DriverClock


def test_a_constant_error_is_learned() -> None:
    """Timestamps 45 ms early date the refreshes as well as right ones."""
    clock = DriverClock()
    rng = random.Random(1)
    spans = []
    for tick in range(60):
        refresh = tick * 100_000_000
        before, now = refresh - rng.randint(0, 50_000_000), refresh + rng.randint(0, 50_000_000)
        stamp = refresh - 45_000_000
        found = clock.moved(before, now, stamp, 1e8)
        clock.still(stamp)
        if found is not None and tick > 20:
            assert abs(found.t_ns - refresh) <= found.half_ns
            spans.append(found.half_ns)
    assert len(spans) > 30
    assert max(spans) <= 5_000_000


def test_the_time_of_the_call_is_not_used() -> None:
    clock = DriverClock()
    for tick in range(20):
        refresh = tick * 100_000_000
        assert clock.moved(refresh - 5_000_000, refresh, refresh, 1e8) is None
        clock.still(refresh + 5_000_000)

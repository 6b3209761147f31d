"""How far a driver's timestamps are from the refreshes of a counter that they date.

A counter was refreshed between the read that last gave the old value and the read that first gave
the new one. So each movement bounds the error of its timestamp, and many movements show whether
the timestamps are late or early by a constant, by a varying time, or date something else.
"""

from __future__ import annotations

from collections import deque

from etui.energy.tracks.counter_edges import Edge

_STEP_NS = 2_000_000
"""A timestamp is trusted to 2 ms at best: clocks drift, and it has coarse steps."""
_EDGES = 64
_FIRST_EDGES = 6
_FIRST_STILL = 3
_USEFUL_SHARE = 0.25
_USEFUL_NS = 5_000_000
"""The beat of a regular counter places its refreshes as well as that."""
_MORE = 1.25
_FORGET = 0.99
"""Reads that are far apart hide how errors vary; what dense ones showed is forgotten slowly."""


class DriverClock:
    """Learns the error of timestamps, and dates with them the movements of a counter.

    Timestamps are not used while fewer than six movements have been seen, nor where they date the
    call, nor where they leave more than 5 ms, or a quarter of the counter's period, either way.
    """

    def __init__(self) -> None:
        self._stamp: int | None = None
        self._least: deque[int] = deque(maxlen=_EDGES)
        self._most: deque[int] = deque(maxlen=_EDGES)
        self._same = 0
        self._changed = 0
        self._varies_ns = 0.0

    def still(self, stamp_ns: int | None) -> None:
        """Note the timestamp of a read that found the counter unchanged."""
        if stamp_ns is None or self._stamp is None:
            return
        if abs(stamp_ns - self._stamp) < _STEP_NS / 2:
            self._same += 1
        else:
            self._changed += 1  # it is the time of the call, not of the refresh

    def moved(
        self, before_ns: int, now_ns: int, stamp_ns: int | None, period_ns: float | None
    ) -> Edge | None:
        """Date the movement of the counter between two reads.

        Args:
            before_ns: Time of the last read with the old value.
            now_ns: Time of the first read with the new value.
            stamp_ns: The driver's timestamp at ``now_ns``; None where it gives none.
            period_ns: Time between two refreshes; None while unknown.

        Returns:
            The time of the movement; None if the timestamp is of no use.
        """
        self._stamp = stamp_ns
        if stamp_ns is None:
            return None
        if period_ns is not None:
            before_ns = max(before_ns, now_ns - int(1.05 * period_ns))
        found = self._date(before_ns, now_ns, stamp_ns, period_ns)
        self._least.append(stamp_ns - now_ns)
        self._most.append(stamp_ns - before_ns)
        return found

    def _date(
        self, before_ns: int, now_ns: int, stamp_ns: int, period_ns: float | None
    ) -> Edge | None:
        if len(self._least) < _FIRST_EDGES or self._same < max(_FIRST_STILL, 8 * self._changed):
            return None
        least, most = max(self._least), min(self._most)
        error_ns = (least + most) // 2
        known_ns = float(_STEP_NS)
        self._varies_ns *= _FORGET
        if least <= most:  # one error explains all; none, if that does
            error_ns = min(max(0, least), most)
            known_ns = max(error_ns - least, most - error_ns, _STEP_NS)
        else:  # it varies, and not every error was seen in full
            varies_ns = _MORE * (least - most) / 2 + _STEP_NS
            self._varies_ns = min(max(self._varies_ns, varies_ns), 4 * _USEFUL_NS)
        half_ns = max(known_ns, self._varies_ns)
        if half_ns > min(_USEFUL_NS, _USEFUL_SHARE * (period_ns or _USEFUL_NS)):
            return None
        at_ns = stamp_ns - error_ns
        low, high = max(before_ns, at_ns - half_ns), min(now_ns, at_ns + half_ns)
        if low > high:
            return None
        at_ns = min(max(at_ns, before_ns), now_ns)
        return Edge(at_ns, int(max(high - at_ns, at_ns - low)))

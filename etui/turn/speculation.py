"""Count the drafted tokens of an answer, and assign joules to verifying and drafting them.

A batch that verifies drafts has r rows: the last token of the answer and the r - 1 drafted ones.
If the model drew a of the drafts too, the batch gives a + 1 tokens. Its joules are split by rows,
which is a convention and not a measurement: 1/r belongs to the token that the model would have
computed anyway, a/r to the accepted drafts, and the rest is waste.

A batch is often shorter than the time between two refreshes of a meter. Consecutive batches are
therefore measured together in windows of up to a tenth of a second, whose joules are split by time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from etui.energy.types import Energy, EnergyOf, sum_known
from etui.events import Verified
from etui.turn.accounting import TimeInterval, energy_over, sum_seconds
from etui.turn.record import SpeculationRecord

WINDOW_NS = 100_000_000
"""Longest window of several batches: counters are refreshed about ten times a second."""


@dataclass(frozen=True, slots=True)
class _Work:
    """The work of one event, clipped so that no time is counted twice."""

    draft: TimeInterval
    verify: TimeInterval
    event: Verified


@dataclass(frozen=True, slots=True)
class _Part:
    """Joules of a part of the work, with their half width; both None if unmeasured."""

    joules: float | None = 0.0
    uncertainty: float | None = 0.0

    def scale(self, share: float) -> _Part:
        """Return a share of it."""
        return _Part(
            None if self.joules is None else self.joules * share,
            None if self.uncertainty is None else self.uncertainty * share,
        )


def account_speculation(
    events: Sequence[Verified], decode: Sequence[TimeInterval], energy_of: EnergyOf
) -> SpeculationRecord | None:
    """Count the drafts of one answer and assign joules to them; None if nothing was drafted.

    The joules are a part of those of the decode phase and never exceed them. Half widths of windows
    are added. They are limited by the half width of the whole decode plus what can have been
    counted for the wrong work in it, see :func:`_find_spread`. The batches may be in any order, and
    are clipped to the outer ends of the decode.
    """
    events = [event for event in events if event.drafted]
    if not events:
        return None
    works = _clip(events, TimeInterval(decode[0].start_ns, decode[-1].end_ns))
    energy = energy_over(decode, energy_of)
    whole = _Part(energy.joules, energy.uncertainty)
    windows = [_measure(window, energy_of) for window in _iter_windows(works)]
    times = _sum_times(works, sum_seconds(decode))
    pairs = [pair for window, parts, _ in windows for pair in zip(window, parts, strict=True)]
    verify = _limit(_sum(part for _, part in pairs), whole, 0.0, times)
    draft = _limit(_sum(part for _, _, part in windows), whole, verify.joules, times.swap())

    def limit_share(shares: Sequence[float], taken: float | None) -> _Part:
        """Return a share of the verification of each batch, limited to what is left of it."""
        parts = (part.scale(share) for (_, part), share in zip(pairs, shares, strict=True))
        return _limit(
            _sum(parts), _Part(verify.joules, verify.scale(max(shares)).uncertainty), taken
        )

    drafts = [work.event for work, _ in pairs]
    accepted = limit_share([each.accepted / each.rows for each in drafts], 0.0)
    rejected = [(each.drafted - each.accepted) / each.rows for each in drafts]
    waste = limit_share(rejected, accepted.joules)
    return SpeculationRecord(
        method="+".join(dict.fromkeys(event.method for event in events)),
        batches=len(works),
        rows=sum(event.rows for event in events),
        drafted=sum(event.drafted for event in events),
        accepted=sum(event.accepted for event in events),
        verify_seconds=times.own_s,
        draft_seconds=times.other_s,
        verify_joules=verify.joules,
        verify_uncertainty=verify.uncertainty,
        draft_joules=draft.joules,
        draft_uncertainty=draft.uncertainty,
        accepted_joules=accepted.joules,
        accepted_uncertainty=accepted.uncertainty,
        waste_joules=waste.joules,
        waste_uncertainty=waste.uncertainty,
    )


def sum_speculation(records: Iterable[SpeculationRecord | None]) -> SpeculationRecord | None:
    """Sum the records of several answers; None if none of them drafted.

    Half widths are added. A sum is None if one of its parts is unmeasured.
    """
    known = [record for record in records if record is not None]
    if len(known) < 2:
        return known[0] if known else None

    names = [f.name for f in fields(SpeculationRecord) if f.name != "method"]
    values = {name: [getattr(record, name) for record in known] for name in names}
    sums: dict[str, Any] = {
        name: sum(each) if isinstance(each[0], int) else sum_known(each)
        for name, each in values.items()
    }
    methods = dict.fromkeys(m for record in known for m in record.method.split("+"))
    return SpeculationRecord(method="+".join(methods), **sums)


def _clip(events: Sequence[Verified], decode: TimeInterval) -> list[_Work]:
    """Clip the batches to the decode, so that none begins before the one before it has ended."""
    works = []
    begin_ns = decode.start_ns
    for event in sorted(events, key=lambda event: event.start_ns):
        draft_ns = _clamp(event.draft_start_ns, begin_ns, decode.end_ns)
        start_ns = _clamp(event.start_ns, draft_ns, decode.end_ns)
        begin_ns = _clamp(event.end_ns, start_ns, decode.end_ns)
        works.append(
            _Work(TimeInterval(draft_ns, start_ns), TimeInterval(start_ns, begin_ns), event)
        )
    return works


def _clamp(t_ns: int, low_ns: int, high_ns: int) -> int:
    return max(low_ns, min(t_ns, high_ns))


def _iter_windows(works: Sequence[_Work]) -> Iterator[list[_Work]]:
    """Yield consecutive batches that end within a window of the first one's start."""
    window: list[_Work] = []
    for work in works:
        if window and work.verify.end_ns > window[0].draft.start_ns + WINDOW_NS:
            yield window
            window = []
        window.append(work)
    if window:
        yield window


def _measure(
    works: Sequence[_Work], energy_of: EnergyOf
) -> tuple[Sequence[_Work], Sequence[_Part], _Part]:
    """Return the batches of a window, the joules of each verification, and those of the drafting.

    They are split by time; a single batch is measured by itself if that is better.
    """
    span = TimeInterval(works[0].draft.start_ns, works[-1].verify.end_ns)
    times = _sum_times(works, span.seconds)
    energy = energy_of(span.start_ns, span.end_ns)
    verify, draft = _split(energy, times), _split(energy, times.swap())
    if len(works) == 1 and times.other_s and verify.uncertainty is not None:
        alone = _read(works[0].verify, energy_of)
        if alone.uncertainty is not None and alone.uncertainty < verify.uncertainty:
            verify, draft = alone, _read(works[0].draft, energy_of)
    shares = [work.verify.seconds / times.own_s if times.own_s else 0.0 for work in works]
    return works, [verify.scale(share) for share in shares], draft


def _read(interval: TimeInterval, energy_of: EnergyOf) -> _Part:
    energy = energy_of(interval.start_ns, interval.end_ns)
    return _Part(energy.joules, energy.uncertainty)


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of a work, of the other work (drafting or verifying), and of everything."""

    own_s: float
    other_s: float
    whole_s: float

    def swap(self) -> _Times:
        """Return the times as seen from the other work."""
        return _Times(self.other_s, self.own_s, self.whole_s)


def _sum_times(works: Sequence[_Work], whole_s: float) -> _Times:
    return _Times(
        math.fsum(work.verify.seconds for work in works),
        math.fsum(work.draft.seconds for work in works),
        whole_s,
    )


def _split(energy: Energy, times: _Times) -> _Part:
    """Return the part of a window's energy for a work, by its share of the time."""
    if not times.own_s:
        return _Part()
    if energy.joules is None:
        return _Part(None, None)
    share = times.own_s / times.whole_s
    part = energy.joules * share
    if energy.uncertainty is None:
        return _Part(part, None)
    return _Part(part, energy.uncertainty * share + _find_spread(part, energy.joules, times))


def _find_spread(part: float, joules: float, times: _Times) -> float:
    """Return how far a part may be from what the work took, because no meter resolves it.

    Verifying and drafting are both limited by the memory of the same device, so the power of one is
    taken to be at least half and at most twice that of the other. The remaining work, mostly
    sampling on the CPU, draws anything from nothing to as much as this one.
    """
    own_s, other_s = times.own_s, times.other_s
    rest_s = max(times.whole_s - own_s - other_s, 0.0)
    low = joules * own_s / (own_s + 2 * other_s + rest_s)
    high = joules * own_s / (own_s + other_s / 2)
    return max(high - part, part - low, 0.0)


def _sum(parts: Iterable[_Part]) -> _Part:
    found = list(parts)
    joules = sum_known([part.joules for part in found])
    if joules is None:
        return _Part(None, None)
    return _Part(joules, sum_known([part.uncertainty for part in found]))


def _limit(part: _Part, whole: _Part, taken: float | None, times: _Times | None = None) -> _Part:
    """Limit a part to what another one has left of the whole, and its half width to the whole's.

    ``times`` are those of the work, if other work may have been counted for it; None for a share.
    """
    if part.joules is None or whole.joules is None or taken is None:
        return _Part(None, None)
    joules = max(0.0, min(part.joules, whole.joules - taken))
    if part.uncertainty is None or whole.uncertainty is None:
        return _Part(joules, part.uncertainty)
    if times is not None and not times.own_s:
        return _Part(joules, part.uncertainty)
    spread = 0.0 if times is None else _find_spread(joules, whole.joules, times)
    return _Part(joules, min(part.uncertainty, whole.uncertainty + spread))

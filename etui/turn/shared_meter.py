"""The meter of one turn that shares batches with others: its part of the machine's energy."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

from etui.arm import TokenCost
from etui.energy.types import ChannelEnergy, Energy
from etui.turn.attribution import BatchCost, compute_shares, find_batch_cost
from etui.turn.batch_ledger import BatchGroup, BatchLedger
from etui.turn.intervals import TimeInterval, sum_energies, sum_of_known
from etui.turn.ports import Meter
from etui.turn.record import Attribution

_UNSETTLED_NS = 3_000_000_000
"""While a turn runs, energies older than this are not computed again for a check of its budget."""

_NEAR_NS = 100_000_000
"""A batch of others this close to a mark means that the machine does not rest there."""

Span = tuple[int, int]
"""Start and end on the monotonic clock, nanoseconds."""


@runtime_checkable
class BulkMeter(Protocol):
    """A meter that computes the joules of many intervals at once."""

    def joules_of(self, spans: Sequence[Span]) -> Sequence[float | None]:
        """Return the joules of each interval; None for one that is unmeasured."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A group of batches and this turn's part in it.

    Attributes:
        group: The batches.
        share: The turn's share of their joules, 0..1.
        by_tokens: Its share by tokens alone.
        requests: Number of requests in each batch; several answers of the turn count as one.
        method: How the share was found: ``exclusive``, ``shapley`` or ``tokens``.
    """

    group: BatchGroup
    share: float
    by_tokens: float
    requests: int
    method: str

    @property
    def span(self) -> Span:
        return self.group.start_ns, self.group.end_ns

    def cut(self, start_ns: int, end_ns: int) -> Span:
        return max(self.group.start_ns, start_ns), min(self.group.end_ns, end_ns)


class SharedMeter:
    """Measures the part of one turn in the energy of a machine that answers several at a time.

    Each batch of the turn counts with the turn's share of it (:mod:`etui.turn.attribution`), the
    part of a batch that is inside an interval with the same share. Time outside its batches costs
    it nothing. So the parts of an interval sum to the interval, and the turns in a batch to the
    batch. Idle power is divided like the joules.

    The half width of an interval is that of the machine's energy in it times the turn's share: the
    parts of one reading err together, and so they are never added in quadrature.

    Args:
        meter: The meter of the machine.
        ledger: The batches of its engine.
        numbers: Returns the numbers of the turn's answers so far.
        weights: Returns the joules per token of a model; None divides its batches by tokens.
    """

    def __init__(
        self,
        meter: Meter,
        ledger: BatchLedger,
        numbers: Callable[[], tuple[int, ...]],
        weights: Callable[[str], TokenCost | None],
    ) -> None:
        self._meter = meter
        self._ledger = ledger
        self._numbers = numbers
        self._weights = weights
        self._cached_for: tuple[int, ...] = ()
        self._pieces: list[_Piece] = []
        self._joules: list[float | None] = []
        self._settled_ns: int | None = None
        self._began_ns: int | None = None

    @property
    def machine(self) -> Meter:
        """The meter of the whole machine, for loads, which belong to no turn."""
        return self._meter

    def mark(self, t_ns: int) -> None:
        """Note that the power steps at a time; the first one is the start of the turn.

        While others are in the batches around it, the power of the machine does not follow this
        turn. And a fitted step would change energies around it by which others have been settled.
        """
        if self._began_ns is None:
            self._began_ns = t_ns
        if not self._ledger.is_shared_at(t_ns, self._numbers(), _NEAR_NS):
            self._meter.mark(t_ns)

    def settle(self, end_ns: int) -> object:
        """Wait until the energy up to ``end_ns`` is final."""
        settled = self._meter.settle(end_ns)
        self._joules, self._settled_ns = [], end_ns
        return settled

    def work_span(self) -> TimeInterval | None:
        """Return the time from the start of the turn's first batch to the end of its last one.

        A batch begins where the one before it ended, which may be a moment before the turn has
        joined. The turn pays its share of the whole batch.
        """
        groups = self._ledger.find(self._numbers())
        return TimeInterval(groups[0].start_ns, groups[-1].end_ns) if groups else None

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the turn's part of the energy of an interval of the monotonic clock.

        Joules are None if one of its batches in the interval is unmeasured or was forgotten: a part
        of its energy would look like all of it. The peak of a part is not known.
        """
        pieces = self._find_pieces()
        low, high = _find_range(pieces, start_ns, end_ns)
        if low == high or self._is_forgotten(start_ns):
            return self._measure_nothing(start_ns, end_ns)
        runs = [
            self._measure_run(pieces, first, last, start_ns, end_ns)
            for first, last in _iter_runs(pieces, low, high)
        ]
        whole = sum_energies(runs)
        if whole.joules is None:
            return replace(whole, start_ns=start_ns, end_ns=end_ns, idle_watts=None)
        seconds = (end_ns - start_ns) / 1e9
        idle = sum_of_known([_idle_joules(run) for run in runs])
        return replace(
            whole,
            start_ns=start_ns,
            end_ns=end_ns,
            idle_watts=None if idle is None else idle / seconds,
            mean_watts=whole.joules / seconds,
        )

    def joules_of(self, spans: Sequence[Span]) -> list[float | None]:
        """Return the turn's joules in each interval; None for one that is unmeasured."""
        pieces = self._find_pieces()
        cuts: list[Span] = []
        counts: list[list[float]] = []
        for start_ns, end_ns in spans:
            low, high = _find_range(pieces, start_ns, end_ns)
            cuts += [piece.cut(start_ns, end_ns) for piece in pieces[low:high]]
            counts.append([piece.share for piece in pieces[low:high]])
        joules = iter(measure_spans(self._meter, cuts))
        found: list[float | None] = []
        for shares in counts:
            parts = [_scale(next(joules), share) for share in shares]
            found.append(sum_of_known(parts) if parts else 0.0)
        return found

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return (middle in ns, mean watts of the turn's part) of equal slices."""
        if end_ns <= start_ns or points < 1:
            return []
        machine = self._meter.power_curve(start_ns, end_ns, points)
        marks = [start_ns + (end_ns - start_ns) * i // points for i in range(points + 1)]
        spans = list(pairwise(marks))
        if len(machine) != len(spans):
            return [(middle, None) for middle, _ in machine]
        return [
            (
                middle,
                None
                if watts is None or joules is None or high == low
                else joules / (high - low) * 1e9,
            )
            for (middle, watts), joules, (low, high) in zip(
                machine, self.joules_of(spans), spans, strict=True
            )
        ]

    def attribution(self) -> Attribution:
        """Return how the turn's joules were separated from those of others."""
        pieces = self._find_pieces()
        if not pieces:
            return Attribution("exclusive")
        methods = {piece.method for piece in pieces}
        method = next(name for name in ("tokens", "shapley", "exclusive") if name in methods)
        batches = sum(piece.group.batches for piece in pieces)
        requests = sum(piece.group.batches * piece.requests for piece in pieces)
        joules = self._measure(pieces)
        began_ns = pieces[0].group.start_ns if self._began_ns is None else self._began_ns
        whole = None if self._is_forgotten(began_ns) else sum_of_known(joules)
        known = [(piece, each) for piece, each in zip(pieces, joules, strict=True) if each]
        share = spread = None
        if whole is not None:
            own = math.fsum(piece.share * (each or 0.0) for piece, each in known)
            share = own / whole if whole else _mean_share(pieces)
            if method != "tokens":
                spread = abs(
                    math.fsum((p.by_tokens - p.share) * (each or 0.0) for p, each in known)
                )
        return Attribution(
            method=method,
            share=1.0 if method == "exclusive" else share,
            batch_joules=whole,
            spread=spread,
            batches=batches,
            mean_requests=requests / batches,
        )

    def _find_pieces(self) -> list[_Piece]:
        """Return the turn's groups of batches with its share in each, oldest first."""
        numbers = self._numbers()
        groups = self._ledger.find(numbers)
        if numbers != self._cached_for:
            self._cached_for, self._pieces, self._joules = numbers, [], []
        kept = self._pieces
        if kept and (not groups or kept[0].group.index != groups[0].index):
            kept, self._joules = [], []  # older ones were forgotten
        # The last group grows while batches of the same kind follow.
        while kept and kept[-1].group is not groups[len(kept) - 1]:
            kept = kept[:-1]
        self._joules = self._joules[: len(kept)]
        own = frozenset(numbers)
        self._pieces = kept + [self._divide(group, own) for group in groups[len(kept) :]]
        return self._pieces

    def _divide(self, group: BatchGroup, own: frozenset[int]) -> _Piece:
        tokens = [share.prompt_tokens + share.decode_tokens for share in group.shares]
        mine = [index for index, share in enumerate(group.shares) if share.number in own]
        requests = len(tokens) - len(mine) + 1
        if len(mine) == len(tokens):
            return _Piece(group, 1.0, 1.0, 1, "exclusive")
        cost = self._ledger.fix_cost(group, self._find_cost)
        shares, by_tokens = compute_shares(tokens, cost), compute_shares(tokens, None)
        return _Piece(
            group,
            math.fsum(shares[index] for index in mine),
            math.fsum(by_tokens[index] for index in mine),
            requests,
            "tokens" if cost is None else "shapley",
        )

    def _find_cost(self, model: str) -> BatchCost | None:
        return find_batch_cost(self._weights(model))

    def _is_forgotten(self, start_ns: int) -> bool:
        """Return whether batches of the turn may be missing in an interval."""
        forgotten_ns = self._ledger.forgotten_ns
        return forgotten_ns is not None and start_ns < forgotten_ns

    def _measure(self, pieces: Sequence[_Piece]) -> list[float | None]:
        """Return the machine's joules in each of the turn's groups, and keep those that are old."""
        known = self._joules[: len(pieces)]
        joules = known + measure_spans(self._meter, [piece.span for piece in pieces[len(known) :]])
        final_ns = max(pieces[-1].group.end_ns - _UNSETTLED_NS, self._settled_ns or 0)
        count = len(known)
        while count < len(pieces) and pieces[count].group.end_ns <= final_ns:
            count += 1
        self._joules = joules[:count]
        return joules

    def _measure_run(
        self, pieces: Sequence[_Piece], first: int, last: int, start_ns: int, end_ns: int
    ) -> Energy:
        """Measure adjacent groups, from ``first`` to before ``last``, inside an interval."""
        low_ns, high_ns = pieces[first].cut(start_ns, end_ns)
        if last - first > 1:
            high_ns = pieces[last - 1].cut(start_ns, end_ns)[1]
        machine = self._meter.energy(low_ns, high_ns)
        if machine.joules is None:
            return machine
        if last - first == 1:
            share = pieces[first].share
            return _take_share(machine, machine.joules * share, share, share)
        cuts = [piece.cut(start_ns, end_ns) for piece in pieces[first:last]]
        joules = self._measure(pieces)[first:last]
        ends = [index for index in {0, len(cuts) - 1} if cuts[index] != pieces[first + index].span]
        for index, each in zip(
            ends, measure_spans(self._meter, [cuts[index] for index in ends]), strict=True
        ):
            joules[index] = each
        whole = sum_of_known(joules)
        if whole is None:
            return replace(machine, joules=None, uncertainty=None, kind=None, channels=())
        parts = [
            _scale(each, p.share) or 0.0 for each, p in zip(joules, pieces[first:], strict=False)
        ]
        own = math.fsum(parts)
        seconds = math.fsum((high - low) / 1e9 for low, high in cuts)
        of_time = math.fsum(
            piece.share * (high - low) / 1e9
            for piece, (low, high) in zip(pieces[first:last], cuts, strict=True)
        )
        mean_share = of_time / seconds if seconds else 0.0
        return _take_share(machine, own, own / whole if whole else mean_share, mean_share)

    def _measure_nothing(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of a time in which the turn has no batch."""
        machine = self._meter.energy(start_ns, end_ns)
        if machine.joules is None or self._is_forgotten(start_ns):
            return replace(
                machine, joules=None, uncertainty=None, kind=None, coverage=0.0, channels=(),
                flags=tuple(dict.fromkeys((*machine.flags, "unmeasured"))), own_joules=None,
            )  # fmt: skip
        return _take_share(replace(machine, flags=()), 0.0, 0.0, 0.0)


def _find_range(pieces: Sequence[_Piece], start_ns: int, end_ns: int) -> tuple[int, int]:
    """Return the indices of the groups that overlap an interval: first, and behind the last."""
    if end_ns <= start_ns:
        return 0, 0
    low = bisect_right(pieces, start_ns, key=lambda piece: piece.group.end_ns)
    high = bisect_left(pieces, end_ns, key=lambda piece: piece.group.start_ns)
    return low, max(low, high)


def _iter_runs(pieces: Sequence[_Piece], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the groups of a range that follow one another without a gap."""
    first = low
    for index in range(low + 1, high):
        if pieces[index].group.start_ns != pieces[index - 1].group.end_ns:
            yield first, index
            first = index
    yield first, high


def measure_spans(meter: Meter, spans: Sequence[Span]) -> list[float | None]:
    """Return the joules of each interval; None for one that is unmeasured."""
    if not spans:
        return []
    if isinstance(meter, BulkMeter):
        return list(meter.joules_of(spans))
    return [meter.energy(low, high).joules if high > low else 0.0 for low, high in spans]


def _scale(joules: float | None, share: float) -> float | None:
    return None if joules is None else joules * share


def _idle_joules(energy: Energy) -> float | None:
    return None if energy.idle_watts is None else energy.idle_watts * energy.seconds


def _mean_share(pieces: Sequence[_Piece]) -> float:
    batches = sum(piece.group.batches for piece in pieces)
    return math.fsum(piece.share * piece.group.batches for piece in pieces) / batches


def _take_share(machine: Energy, joules: float, share: float, of_time: float) -> Energy:
    """Return a turn's part of an energy.

    Args:
        machine: The energy of the machine.
        joules: Joules of the turn.
        share: Their share of those of the machine.
        of_time: Mean share over the time, by which idle power is divided.
    """
    seconds = machine.seconds
    return replace(
        machine,
        joules=joules,
        uncertainty=_scale(machine.uncertainty, share),
        idle_watts=_scale(machine.idle_watts, of_time),
        mean_watts=joules / seconds if seconds else None,
        peak_watts=None,
        channels=tuple(_scale_channel(channel, share) for channel in machine.channels),
        cross_checks=(),
        own_joules=_scale(machine.own_joules, share),
    )


def _scale_channel(channel: ChannelEnergy, share: float) -> ChannelEnergy:
    widths = channel.half_widths
    return replace(
        channel,
        joules=channel.joules * share,
        uncertainty=channel.uncertainty * share,
        mean_watts=channel.mean_watts * share,
        peak_watts=None,
        half_widths=replace(
            widths,
            shared=widths.shared * share,
            own=widths.own * share,
            stated=widths.stated * share,
            unknown=widths.unknown * share,
        ),
    )

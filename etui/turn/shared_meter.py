"""The meter of one turn that shares batches with others: its part of the machine's energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from etui.arm import TokenCost
from etui.energy.types import Energy
from etui.turn.attribution import BatchCost, compute_shares, find_batch_cost
from etui.turn.batch_ledger import BatchGroup, BatchLedger
from etui.turn.batch_parts import (
    BatchPart,
    Span,
    find_range,
    iter_runs,
    mean_share,
    measure_spans,
    scale,
    take_share,
)
from etui.turn.intervals import TimeInterval, sum_energies, sum_of_known
from etui.turn.ports import Meter
from etui.turn.record import Attribution

_UNSETTLED_NS = 3_000_000_000
"""While a turn runs, energies older than this are not computed again for a check of its budget."""

_NEAR_NS = 100_000_000
"""A batch of others this close to a mark means that the machine does not rest there."""


class SharedMeter:
    """Measures the part of one turn in the energy of a machine that answers several at a time.

    Each batch of the turn counts with the turn's share of it (:mod:`etui.turn.attribution`), the
    part of a batch that is inside an interval with the same share. Time outside its batches costs
    it nothing. So the parts of an interval sum to the interval, and the turns in a batch to the
    batch. Idle power is divided like the joules.

    The half width of an interval is that of the machine's energy in it times the turn's share: the
    parts of one reading err together, and so they are never added in quadrature.

    Args:
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
        self._parts: list[BatchPart] = []
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
        parts = self._find_parts()
        low, high = find_range(parts, start_ns, end_ns)
        if low == high or self._is_forgotten(start_ns):
            return self._measure_nothing(start_ns, end_ns)
        runs = [
            self._measure_run(parts, first, last, start_ns, end_ns)
            for first, last in iter_runs(parts, low, high)
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
        parts = self._find_parts()
        cuts: list[Span] = []
        counts: list[list[float]] = []
        for start_ns, end_ns in spans:
            low, high = find_range(parts, start_ns, end_ns)
            cuts += [part.cut(start_ns, end_ns) for part in parts[low:high]]
            counts.append([part.share for part in parts[low:high]])
        joules = iter(measure_spans(self._meter, cuts))
        found: list[float | None] = []
        for shares in counts:
            own = [scale(next(joules), share) for share in shares]
            found.append(sum_of_known(own) if own else 0.0)
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
        parts = self._find_parts()
        if not parts:
            return Attribution("exclusive")
        methods = {part.method for part in parts}
        method = next(name for name in ("tokens", "shapley", "exclusive") if name in methods)
        batches = sum(part.group.batches for part in parts)
        requests = sum(part.group.batches * part.requests for part in parts)
        joules = self._measure(parts)
        began_ns = parts[0].group.start_ns if self._began_ns is None else self._began_ns
        whole = None if self._is_forgotten(began_ns) else sum_of_known(joules)
        known = [(part, each) for part, each in zip(parts, joules, strict=True) if each]
        share = spread = None
        if whole is not None:
            own = math.fsum(part.share * (each or 0.0) for part, each in known)
            share = own / whole if whole else mean_share(parts)
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

    def _find_parts(self) -> list[BatchPart]:
        """Return the turn's groups of batches with its share in each, oldest first."""
        numbers = self._numbers()
        groups = self._ledger.find(numbers)
        if numbers != self._cached_for:
            self._cached_for, self._parts, self._joules = numbers, [], []
        kept = self._parts
        if kept and (not groups or kept[0].group.index != groups[0].index):
            kept, self._joules = [], []  # older ones were forgotten
        # The last group grows while batches of the same kind follow.
        while kept and kept[-1].group is not groups[len(kept) - 1]:
            kept = kept[:-1]
        self._joules = self._joules[: len(kept)]
        own = frozenset(numbers)
        self._parts = kept + [self._divide(group, own) for group in groups[len(kept) :]]
        return self._parts

    def _divide(self, group: BatchGroup, own: frozenset[int]) -> BatchPart:
        tokens = [share.prompt_tokens + share.decode_tokens for share in group.shares]
        mine = [index for index, share in enumerate(group.shares) if share.number in own]
        requests = len(tokens) - len(mine) + 1
        if len(mine) == len(tokens):
            return BatchPart(group, 1.0, 1.0, 1, "exclusive")
        cost = self._ledger.fix_cost(group, self._find_cost)
        shares, by_tokens = compute_shares(tokens, cost), compute_shares(tokens, None)
        return BatchPart(
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

    def _measure(self, parts: Sequence[BatchPart]) -> list[float | None]:
        """Return the machine's joules in each of the turn's groups, and keep those that are old."""
        known = self._joules[: len(parts)]
        joules = known + measure_spans(self._meter, [part.span for part in parts[len(known) :]])
        final_ns = max(parts[-1].group.end_ns - _UNSETTLED_NS, self._settled_ns or 0)
        count = len(known)
        while count < len(parts) and parts[count].group.end_ns <= final_ns:
            count += 1
        self._joules = joules[:count]
        return joules

    def _measure_run(
        self, parts: Sequence[BatchPart], first: int, last: int, start_ns: int, end_ns: int
    ) -> Energy:
        """Measure adjacent groups, from ``first`` to before ``last``, inside an interval."""
        low_ns, high_ns = parts[first].cut(start_ns, end_ns)
        if last - first > 1:
            high_ns = parts[last - 1].cut(start_ns, end_ns)[1]
        machine = self._meter.energy(low_ns, high_ns)
        if machine.joules is None:
            return machine
        if last - first == 1:
            share = parts[first].share
            return take_share(machine, machine.joules * share, share, share)
        cuts = [part.cut(start_ns, end_ns) for part in parts[first:last]]
        joules = self._measure(parts)[first:last]
        ends = [index for index in {0, len(cuts) - 1} if cuts[index] != parts[first + index].span]
        for index, each in zip(
            ends, measure_spans(self._meter, [cuts[index] for index in ends]), strict=True
        ):
            joules[index] = each
        whole = sum_of_known(joules)
        if whole is None:
            return replace(machine, joules=None, uncertainty=None, kind=None, channels=())
        own = math.fsum(
            part.share * (each or 0.0) for part, each in zip(parts[first:last], joules, strict=True)
        )
        seconds = math.fsum((high - low) / 1e9 for low, high in cuts)
        of_time = math.fsum(
            part.share * (high - low) / 1e9
            for part, (low, high) in zip(parts[first:last], cuts, strict=True)
        )
        mean_share = of_time / seconds if seconds else 0.0
        return take_share(machine, own, own / whole if whole else mean_share, mean_share)

    def _measure_nothing(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of a time in which the turn has no batch."""
        machine = self._meter.energy(start_ns, end_ns)
        if machine.joules is None or self._is_forgotten(start_ns):
            return replace(
                machine, joules=None, uncertainty=None, kind=None, coverage=0.0, channels=(),
                flags=tuple(dict.fromkeys((*machine.flags, "unmeasured"))), own_joules=None,
            )  # fmt: skip
        return take_share(replace(machine, flags=()), 0.0, 0.0, 0.0)


def _idle_joules(energy: Energy) -> float | None:
    return None if energy.idle_watts is None else energy.idle_watts * energy.seconds

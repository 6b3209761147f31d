"""The meter of one turn that shares batches with others: its part of the machine's energy."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

from etui.arm import TokenCost
from etui.energy.types import ChannelEnergy, Energy, Phase, sum_known
from etui.events import BatchShare, SharedBatch
from etui.turn.accounting import TimeInterval, split_by_weights, sum_energies
from etui.turn.interfaces import Meter
from etui.turn.record import Attribution

Span = tuple[int, int]
"""Start and end on the monotonic clock, nanoseconds."""


@runtime_checkable
class BulkMeter(Protocol):
    """A meter that computes the joules of many intervals at once."""

    def joules_of(self, spans: Sequence[Span]) -> Sequence[float | None]:
        """Return the joules of each interval; None for one that is unmeasured."""


@dataclass(frozen=True, slots=True)
class BatchPart:
    """A group of batches and one turn's part in it."""

    group: BatchGroup
    share: float  # The turn's share of their joules, 0..1
    by_tokens: float  # Its share by tokens alone
    requests: int  # Number of requests in each batch; several answers of the turn count as one
    method: str  # How the share was found: `exclusive`, `shapley` or `tokens`

    @property
    def span(self) -> Span:
        """Start and end of the group."""
        return self.group.start_ns, self.group.end_ns

    def cut(self, start_ns: int, end_ns: int) -> Span:
        """Return the span inside an interval that overlaps it."""
        return max(self.group.start_ns, start_ns), min(self.group.end_ns, end_ns)


def find_range(parts: Sequence[BatchPart], start_ns: int, end_ns: int) -> tuple[int, int]:
    """Return the indices of the groups that overlap an interval: first, and behind the last."""
    if end_ns <= start_ns:
        return 0, 0
    low = bisect_right(parts, start_ns, key=lambda part: part.group.end_ns)
    high = bisect_left(parts, end_ns, key=lambda part: part.group.start_ns)
    return low, max(low, high)


def iter_runs(parts: Sequence[BatchPart], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the groups of a range that follow one another without a gap."""
    first = low
    for index in range(low + 1, high):
        if parts[index].group.start_ns != parts[index - 1].group.end_ns:
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


def scale(joules: float | None, share: float) -> float | None:
    """Return a share of joules; None if they are unknown."""
    return None if joules is None else joules * share


def mean_share(parts: Sequence[BatchPart]) -> float:
    """Return the mean share of a turn over the batches of some groups."""
    batches = sum(part.group.batches for part in parts)
    return math.fsum(part.share * part.group.batches for part in parts) / batches


def take_share(machine: Energy, joules: float, share: float, of_time: float) -> Energy:
    """Return a turn's part of an energy; its mean share over time divides idle power."""
    seconds = machine.seconds
    return replace(
        machine,
        joules=joules,
        uncertainty=scale(machine.uncertainty, share),
        idle_watts=scale(machine.idle_watts, of_time),
        mean_watts=joules / seconds if seconds else None,
        peak_watts=None,
        channels=tuple(_scale_channel(channel, share) for channel in machine.channels),
        cross_checks=(),
        own_joules=scale(machine.own_joules, share),
        wall=machine.wall
        and replace(
            machine.wall,
            joules=machine.wall.joules * share,
            uncertainty=machine.wall.uncertainty * share,
        ),
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


@dataclass(frozen=True, slots=True)
class BatchCost:
    """The joules of a batch as a function of its tokens: ``fixed + per_token * tokens``."""

    fixed: float  # F, joules of a batch besides those of its tokens
    per_token: float  # M, joules of each token


def find_batch_cost(cost: TokenCost | None) -> BatchCost | None:
    """Return the cost of a batch by the token cost of its model; None without a usable one.

    It is unknown, known from shares of batches alone, not finite, or has no joules of a prompt
    token (0 where none was measured).
    """
    if cost is None or cost.batched:
        return None
    per_token, decoded = cost.joules_per_prompt_token, cost.joules_per_token
    if not (math.isfinite(per_token) and math.isfinite(decoded) and per_token > 0):
        return None
    return BatchCost(max(0.0, decoded - per_token), per_token)


def weigh_requests(tokens: Sequence[int], cost: BatchCost | None) -> list[float]:
    """Return the weights by which requests share the joules of a batch: Shapley values, or tokens.

    The tokens of a request are those of its prompt and the decoded ones in the batch; one without
    any weighs 0. Where none has tokens, all weigh the same.
    """
    count = sum(1 for each in tokens if each > 0)
    if not count:
        return [1.0 for _ in tokens]
    if cost is None:
        return [float(max(each, 0)) for each in tokens]
    fixed = cost.fixed / count
    return [fixed + cost.per_token * each if each > 0 else 0.0 for each in tokens]


def compute_shares(tokens: Sequence[int], cost: BatchCost | None) -> list[float]:
    """Return the share of each request in a batch, 0..1; they sum to 1."""
    return split_by_weights(1.0, weigh_requests(tokens, cost))


KEEP_SECONDS = 3600.0
"""How long batches are kept; the recorder forgets readings after this time, too."""


@dataclass(frozen=True, slots=True)
class BatchGroup:
    """Adjacent batches of one model with the same tokens of the same requests.

    A request has the same share in each of them, so they are measured as one.
    """

    index: int  # Number of the group since the start of the ledger
    model: str
    start_ns: int
    end_ns: int
    shares: tuple[BatchShare, ...]  # The tokens of each request in one of its batches
    batches: int = 1


class BatchLedger:
    """The shared batches of an engine, in order; any thread may use it.

    Batches are added in the order of time and do not overlap; what overlaps the one before is cut
    off, so that no joule is counted twice. They are forgotten ``keep_seconds`` before the newest.
    """

    def __init__(self, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep_ns = int(keep_seconds * 1e9)
        self._lock = threading.Lock()
        self._groups: list[BatchGroup] = []
        self._first = 0
        self._of_number: dict[int, list[int]] = {}
        self._costs: dict[int, BatchCost | None] = {}
        self._forgotten_ns: int | None = None
        self.rested_ns = 0  # Newest mark at which the machine rested after a turn

    def __len__(self) -> int:
        """Return the number of groups that are kept."""
        with self._lock:
            return len(self._groups)

    @property
    def forgotten_ns(self) -> int | None:
        """End of the newest batch that was forgotten; None if none was."""
        with self._lock:
            return self._forgotten_ns

    def add(self, batch: SharedBatch) -> None:
        """Add a batch that has ended; one without requests or without a duration is ignored."""
        shares = tuple(sorted(batch.shares, key=lambda share: share.number))
        with self._lock:
            last = self._groups[-1] if self._groups else None
            before_ns = last.end_ns if last else self._forgotten_ns
            end_ns, start_ns = batch.end_ns, max(batch.start_ns, before_ns or batch.start_ns)
            if not shares or end_ns <= start_ns:
                return
            kind = last and (last.end_ns, last.shares, last.model)
            if last is not None and kind == (start_ns, shares, batch.model):
                self._groups[-1] = replace(last, end_ns=end_ns, batches=last.batches + 1)
                return
            index = self._first + len(self._groups)
            self._groups.append(BatchGroup(index, batch.model, start_ns, end_ns, shares))
            for share in shares:
                self._of_number.setdefault(share.number, []).append(index)
            # Many are forgotten at a time, for that moves all the others.
            if self._groups[0].end_ns < end_ns - self._keep_ns - self._keep_ns // 16:
                self._forget(end_ns - self._keep_ns)

    def find(self, numbers: Iterable[int]) -> list[BatchGroup]:
        """Return the groups in which answers of these numbers take part, oldest first."""
        with self._lock:
            lists = [self._of_number.get(number, []) for number in set(numbers)]
            indices = lists[0] if len(lists) == 1 else sorted(set().union(*lists))
            first = self._first
            return [self._groups[index - first] for index in indices]

    def is_shared_at(self, t_ns: int, own: Container[int], margin_ns: int) -> bool:
        """Return whether a batch close to a time has an answer of others.

        One before the machine rested does not count: the energy up to that mark is final.
        """
        with self._lock:
            low = bisect_left(self._groups, t_ns - margin_ns, key=lambda group: group.end_ns)
            for index in range(low, len(self._groups)):
                group = self._groups[index]
                if group.start_ns > t_ns + margin_ns:
                    break
                if group.end_ns <= min(t_ns, self.rested_ns):
                    continue
                if any(share.number not in own for share in group.shares):
                    return True
        return False

    def fix_cost(
        self, group: BatchGroup, find_cost: Callable[[str], BatchCost | None]
    ) -> BatchCost | None:
        """Return the cost by which a group is divided; the first call decides for all requests.

        A curve may change between the ends of two answers that shared a batch. If each of them
        used the curve of its time, their shares would not sum to 1.
        """
        with self._lock:
            if group.index in self._costs:
                return self._costs[group.index]
        cost = find_cost(group.model)
        with self._lock:
            if group.index < self._first:
                return cost
            return self._costs.setdefault(group.index, cost)

    def forget_before(self, t_ns: int) -> None:
        """Forget the batches that ended by a time: no running turn began before it."""
        with self._lock:
            self._forget(t_ns)

    def _forget(self, t_ns: int) -> None:
        count = bisect_right(self._groups, t_ns, key=lambda group: group.end_ns)
        if not count:
            return
        dropped = self._groups[:count]
        del self._groups[:count]
        self._first += count
        self._forgotten_ns = dropped[-1].end_ns
        for group in dropped:
            self._costs.pop(group.index, None)
        for number in {share.number for group in dropped for share in group.shares}:
            indices = self._of_number[number]
            del indices[: bisect_left(indices, self._first)]
            if not indices:
                del self._of_number[number]


_UNSETTLED_NS = 3_000_000_000
"""While a turn runs, energies older than this are not computed again for a check of its budget."""

_NEAR_NS = 100_000_000
"""A batch of others this close to a mark means that the machine does not rest there."""


class SharedMeter:
    """Measures the part of one turn in the energy of a machine that answers several at a time.

    Each batch of the turn counts with the turn's share of it, the part of a batch that is inside an
    interval with the same share. Time outside its batches costs it nothing. So the parts of an
    interval sum to the interval, and the turns in a batch to the batch. Idle power is divided like
    the joules.

    The half width of an interval is that of the machine's energy in it times the turn's share: the
    parts of one reading err together, and so they are never added in quadrature.

    Args:
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

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the power steps at a time; the first one is the start of the turn.

        While others are in the batches around it, the power of the machine does not follow this
        turn. And a fitted step would change energies around it by which others have been settled.
        """
        if self._began_ns is None:
            self._began_ns = t_ns
        shared = self._ledger.is_shared_at(t_ns, self._numbers(), _NEAR_NS)
        if phase == "idle" and not shared:
            self._ledger.rested_ns = t_ns
        self._meter.mark(t_ns, "shared" if shared else phase)

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
        idle = sum_known([scale(run.idle_watts, run.seconds) for run in runs])
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
            found.append(sum_known(own) if own else 0.0)
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
        whole = None if self._is_forgotten(began_ns) else sum_known(joules)
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
        cost = self._ledger.fix_cost(group, lambda model: find_batch_cost(self._weights(model)))
        shares, by_tokens = compute_shares(tokens, cost), compute_shares(tokens, None)
        return BatchPart(
            group,
            math.fsum(shares[index] for index in mine),
            math.fsum(by_tokens[index] for index in mine),
            requests,
            "tokens" if cost is None else "shapley",
        )

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
        whole = sum_known(joules)
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

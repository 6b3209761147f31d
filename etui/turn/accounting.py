"""Assign joules to the phases, votes and tokens of a turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from etui.energy.scopes import weakest
from etui.energy.types import ChannelEnergy, Energy, EnergyOf, WallEnergy, sum_known
from etui.events import Batch, Finished
from etui.turn.interfaces import Meter, PartMeter
from etui.turn.record import (
    Attribution,
    PictureRecord,
    Seconds,
    Tokens,
    ToolLoopRecord,
    TurnEnergy,
)


def machine_of(meter: Meter) -> Meter:
    """Return the meter of the whole machine, by which loads and unloads are measured."""
    return meter.machine if isinstance(meter, PartMeter) else meter


def settle_meters(legs: Sequence[Leg]) -> None:
    """Wait until the energy of every leg of a turn is final."""
    last_ns: dict[int, tuple[Meter, int]] = {}
    for leg in widen_legs(legs):
        if leg.meter is not None:
            last_ns[id(leg.meter)] = leg.meter, leg.end.end_ns
    for meter, end_ns in last_ns.values():
        meter.settle(end_ns)


def widen_legs(legs: Sequence[Leg]) -> list[Leg]:
    """Widen the legs of a turn that share batches to all of these batches.

    A shared batch begins where the one before it ended, and a turn may have joined a moment later;
    one that was stopped may have left before the batch had ended. It has its share of both, so that
    all turns together have all of every batch.
    """
    widened = list(legs)
    for meter in {id(leg.meter): leg.meter for leg in legs}.values():
        work = meter.work_span() if isinstance(meter, PartMeter) else None
        if work is None:
            continue
        own = [index for index, leg in enumerate(legs) if leg.meter is meter]
        first, last = own[0], own[-1]
        if first == 0:
            end = widened[0].end
            start_ns = min(end.start_ns, work.start_ns)
            widened[0] = replace(widened[0], end=replace(end, start_ns=start_ns))
        end = widened[last].end
        end_ns = max(end.end_ns, work.end_ns)
        widened[last] = replace(widened[last], end=replace(end, end_ns=end_ns))
    return widened


def curve_of_legs(energy: TurnEnergy, legs: Sequence[Leg]) -> tuple[float | None, ...]:
    """Return the mean watts of a turn's slices, which are equal only within the legs of a meter."""
    meters = {id(leg.meter): leg.meter for leg in legs if leg.meter is not None}
    if len(meters) == 1:
        return power_curve(energy.start_ns, energy.end_ns, next(iter(meters.values())))
    watts: list[float | None] = []
    for spans, leg in zip(compute_spans(legs), legs, strict=True):
        if leg.meter is not None:
            watts += power_curve(spans.work[0].start_ns, spans.decode[-1].end_ns, leg.meter)
    return tuple(watts)


def attribute_turn(energy: TurnEnergy, legs: Sequence[Leg], own_meter: Meter) -> Attribution:
    """Return how a turn's joules were separated; meters but its own are of remote machines."""
    found = own_meter.attribution() if isinstance(own_meter, PartMeter) else None
    if found is None:
        found = Attribution("exclusive", batch_joules=energy.joules)
    remote = [
        energy_over(spans.work, leg.meter.energy)
        for spans, leg in zip(compute_spans(legs), legs, strict=True)
        if leg.meter is not None and leg.meter is not own_meter
    ]
    if any(each.shared or each.joules is None for each in remote):
        return replace(found, method="none", share=None, batch_joules=None, spread=None)
    if found.method == "exclusive":
        spread = None if energy.joules is None else 0.0
        return replace(found, share=1.0, batch_joules=energy.joules, spread=spread)
    if remote and found.batch_joules is not None and energy.joules is not None:
        whole = found.batch_joules + sum(each.joules or 0.0 for each in remote)
        share = energy.joules / whole if whole else found.share
        return replace(found, batch_joules=whole, share=share)
    return found


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """An interval of the monotonic clock."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Leg:
    """The part of one arm in a turn."""

    end: Finished  # Its final event
    load: TimeInterval | None = None  # The load it waited for; None if its model was in memory
    unloads: tuple[TimeInterval, ...] = ()  # Unloads of other models that made room for it
    meter: Meter | None = None  # Measures it; None if the caller does
    wait: TimeInterval | None = None  # The time before it in which tools ran; None without any
    pictures: tuple[TimeInterval, ...] = ()  # Encoding of pictures, before its first token

    @property
    def residences(self) -> tuple[TimeInterval, ...]:
        """Intervals of the unloads and the load."""
        return self.unloads if self.load is None else (*self.unloads, self.load)

    @property
    def excluded(self) -> tuple[TimeInterval, ...]:
        """Intervals that do not count for the turn: waits for tools, unloads and the load."""
        return self.residences if self.wait is None else (self.wait, *self.residences)


@dataclass(frozen=True, slots=True)
class LegSpans:
    """Working times of a leg: intervals of its phases, without loads and unloads."""

    prefill: tuple[TimeInterval, ...]
    decode: tuple[TimeInterval, ...]
    pictures: tuple[TimeInterval, ...] = ()

    @property
    def work(self) -> tuple[TimeInterval, ...]:
        """The intervals of all phases, in their order."""
        before = sorted((*self.prefill, *self.pictures), key=lambda each: each.start_ns)
        return (*before, *self.decode)

    @property
    def seconds(self) -> float:
        """Length of all phases in seconds."""
        return sum_seconds(self.work)


def compute_spans(legs: Sequence[Leg]) -> tuple[LegSpans, ...]:
    """Compute the working times of each leg.

    A leg begins where the previous one ended, so that the legs tile the turn: the time between two
    answers (choosing the next arm, looking up its model) belongs to the next prefill. Loads,
    unloads and waits for tools in between are excluded.
    """
    spans: list[LegSpans] = []
    begin_ns = legs[0].end.start_ns
    for leg in legs:
        end = leg.end
        prefill = TimeInterval(begin_ns, max(begin_ns, end.prefill_end_ns))
        decode = TimeInterval(prefill.end_ns, max(prefill.end_ns, end.end_ns))
        pictures = tuple(
            part for cut in leg.pictures for part in intersect(subtract(prefill, leg.excluded), cut)
        )
        texts = subtract(prefill, (*leg.excluded, *pictures))
        spans.append(LegSpans(texts, (decode,), pictures))
        begin_ns = decode.end_ns
    return tuple(spans)


def subtract(whole: TimeInterval, excluded: Iterable[TimeInterval]) -> tuple[TimeInterval, ...]:
    """Subtract intervals from an interval; the result has at least one interval, maybe empty."""
    left: list[TimeInterval] = []
    begin_ns = whole.start_ns
    for cut in sorted(excluded, key=lambda interval: interval.start_ns):
        start_ns = min(max(cut.start_ns, begin_ns), whole.end_ns)
        if start_ns > begin_ns:
            left.append(TimeInterval(begin_ns, start_ns))
        begin_ns = max(begin_ns, min(cut.end_ns, whole.end_ns))
    if begin_ns < whole.end_ns or not left:
        left.append(TimeInterval(begin_ns, whole.end_ns))
    return tuple(left)


def intersect(parts: Iterable[TimeInterval], cut: TimeInterval) -> tuple[TimeInterval, ...]:
    """Return what an interval has in common with others; without empty intervals."""
    common = (
        TimeInterval(max(each.start_ns, cut.start_ns), min(each.end_ns, cut.end_ns))
        for each in parts
    )
    return tuple(each for each in common if each.end_ns > each.start_ns)


def merge_adjacent(intervals: Iterable[TimeInterval]) -> tuple[TimeInterval, ...]:
    """Merge adjacent intervals and drop empty ones, unless all of them are empty."""
    made: list[TimeInterval] = []
    for interval in intervals:
        if made and made[-1].end_ns == interval.start_ns:
            made[-1] = TimeInterval(made[-1].start_ns, interval.end_ns)
        elif made and made[-1].start_ns == made[-1].end_ns:
            made[-1] = interval
        elif not made or interval.start_ns != interval.end_ns:
            made.append(interval)
    return tuple(made)


def energy_over(intervals: Iterable[TimeInterval], energy_of: EnergyOf) -> Energy:
    """Compute the energy of several intervals as one; unmeasured if any part is.

    Half widths are added, which bounds the error if all parts share its cause. ``start_ns`` and
    ``end_ns`` are the outer ends; watts are means over the parts only, so their difference is not
    the measured time.
    """
    return sum_energies([energy_of(i.start_ns, i.end_ns) for i in merge_adjacent(intervals)])


def energy_of_legs(legs: Sequence[Leg], spans: Sequence[LegSpans], energy_of: EnergyOf) -> Energy:
    """Compute the energy of the work of several legs as one, each by the meter of its machine."""
    parts: list[Energy] = []
    pairs = zip(legs, spans, strict=True)
    for meter, members in groupby(pairs, key=lambda pair: _energy_of(pair[0], energy_of)):
        intervals = [i for _, each in members for i in each.work]
        parts += [meter(i.start_ns, i.end_ns) for i in merge_adjacent(intervals)]
    return sum_energies([part for part in parts if part.end_ns > part.start_ns] or parts[:1])


def _energy_of(leg: Leg, energy_of: EnergyOf) -> EnergyOf:
    return energy_of if leg.meter is None else leg.meter.energy


def sum_energies(parts: Sequence[Energy]) -> Energy:
    """Sum the energies of several intervals as one, see :func:`energy_over`; at least one."""
    if len(parts) == 1:
        return parts[0]
    seconds = math.fsum(part.seconds for part in parts)
    joules = sum_known([part.joules for part in parts])
    kinds = [part.kind for part in parts if part.kind is not None]
    peaks = [part.peak_watts for part in parts if part.peak_watts is not None]
    idle = sum_known(
        [p.idle_watts * p.seconds if p.idle_watts is not None else None for p in parts]
    )
    measured = joules is not None
    own = None
    if any(part.shared for part in parts):
        own = sum_known([part.own_joules if part.shared else part.joules for part in parts])
    return Energy(
        start_ns=parts[0].start_ns,
        end_ns=parts[-1].end_ns,
        joules=joules,
        uncertainty=sum_known([part.uncertainty for part in parts]) if measured else None,
        kind=weakest(kinds) if measured else None,
        coverage=math.fsum(p.coverage * p.seconds for p in parts) / seconds if measured else 0.0,
        idle_watts=idle / seconds if idle is not None else None,
        mean_watts=joules / seconds if joules is not None else None,
        peak_watts=max(peaks, default=None),
        channels=_merge_channels(parts) if measured else (),
        unmeasured=tuple(dict.fromkeys(name for part in parts for name in part.unmeasured)),
        flags=tuple(dict.fromkeys(flag for part in parts for flag in part.flags)),
        own_joules=own,
        wall=_sum_wall([part.wall for part in parts]),
    )


def _sum_wall(parts: Sequence[WallEnergy | None]) -> WallEnergy | None:
    """Sum joules at the wall; None if any is unknown, half widths as in :func:`energy_over`."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return WallEnergy(
        math.fsum(part.joules for part in known),
        math.fsum(part.uncertainty for part in known),
        "+".join(dict.fromkeys(part.calibration for part in known)),
        any(part.extrapolated for part in known),
    )


def sum_seconds(intervals: Iterable[TimeInterval]) -> float:
    """Sum the lengths of intervals, in seconds."""
    return math.fsum(interval.seconds for interval in intervals)


def _merge_channels(parts: Sequence[Energy]) -> tuple[ChannelEnergy, ...]:
    made: dict[str, ChannelEnergy] = {}
    for channel in (channel for part in parts for channel in part.channels):
        before = made.get(channel.id)
        made[channel.id] = (
            channel if before is None else replace(before, joules=before.joules + channel.joules)
        )
    return tuple(made.values())


def compute_account(
    legs: Sequence[Leg], energy_of: EnergyOf, taken: int = -1
) -> tuple[TurnEnergy, Tokens, Seconds]:
    """Compute the energy, tokens and seconds of a turn.

    Prefill lasts from the start of a leg to its first token, decode from there to its end, so the
    joules of both, over all legs, sum to the turn's; loads and unloads belong to neither.

    Args:
        taken: Index of the leg whose answer is the turn's; its first token counts for ``ttft``.
    """
    ends = [leg.end for leg in legs]
    spans = compute_spans(legs)
    tokens = sum_tokens(ends)
    taken %= len(legs)
    first_ns, ttft = ends[taken].first_token_ns, None
    if first_ns is not None:  # from the start of the turn, without loads
        cuts = [cut for leg in legs[1 : taken + 1] for cut in leg.excluded]
        ttft = sum_seconds(subtract(TimeInterval(ends[0].start_ns, first_ns), cuts))
    seconds = Seconds(
        load=math.fsum(leg.load.seconds for leg in legs if leg.load),
        prefill=math.fsum(sum_seconds(each.prefill) for each in spans),
        decode=math.fsum(sum_seconds(each.decode) for each in spans),
        total=math.fsum(each.seconds for each in spans),
        ttft=ttft,
    )
    return _energy(legs, spans, tokens, energy_of), tokens, seconds


def measure_tool_loop(
    found: ToolLoopRecord, legs: Sequence[Leg], energy: TurnEnergy, meter: Meter
) -> ToolLoopRecord:
    """Return a loop with its tree of joules: ``rounds`` are the turn's own, measured before.

    What is neither work nor a load is idle. The time of a round on another machine belongs to that
    machine's meter; the whole is then the sum of the parts. Calls whose results no round has read
    any more are a part of it too.
    """
    of = machine_of(meter).energy
    moves = [cut for leg in legs for cut in leg.residences]
    work = [i for spans in compute_spans(legs) for i in spans.work]
    begin_ns = min(i.start_ns for i in (*moves, *work))
    end_ns = max(max(i.end_ns for i in (*moves, *work)), *(i.end_ns for i in found.calls))
    whole = TimeInterval(begin_ns, end_ns)
    rest = subtract(whole, [*moves, *work])
    idle = energy_over(rest, of).joules
    loads = sum_known([0.0, *(of(i.start_ns, i.end_ns).joules for i in moves)])
    total = of(whole.start_ns, whole.end_ns)
    joules, uncertainty = total.joules, total.uncertainty
    nothing = None if idle is None else 0.0
    if any(leg.meter is not None and leg.meter is not meter for leg in legs):
        joules, uncertainty = sum_known([energy.joules, idle, loads]), None
    calls = tuple(
        replace(each, joules=of(each.start_ns, each.end_ns).joules if each.seconds else nothing)
        for each in found.calls
    )
    return replace(
        found,
        calls=calls,
        joules=joules,
        uncertainty=uncertainty,
        rounds=energy.joules,
        idle=idle,
        idle_seconds=sum_seconds(rest),
        loads=loads,
        kind=total.kind and total.kind.value,
    )


def measure_pictures(
    legs: Sequence[Leg], spans: Sequence[LegSpans], tokens: int, energy_of: EnergyOf
) -> PictureRecord | None:
    """Measure the encoding of pictures, the phase ``image``; None if none was encoded."""
    parts = [
        energy_over(each.pictures, _energy_of(leg, energy_of))
        for leg, each in zip(legs, spans, strict=True)
        if each.pictures
    ]
    if not parts:
        return None
    energy = sum_energies(parts)
    seconds = math.fsum(sum_seconds(each.pictures) for each in spans)
    return PictureRecord(tokens, seconds, energy.joules, energy.uncertainty)


def sum_tokens(ends: Sequence[Finished]) -> Tokens:
    """Sum the tokens of the answers of a turn."""
    return Tokens(
        prompt=sum(end.prompt_tokens for end in ends),
        cached=sum(end.cached_tokens for end in ends),
        computed=sum(end.computed_tokens for end in ends),
        thinking=sum(end.thinking_tokens for end in ends),
        output=sum(end.output_tokens for end in ends),
    )


def _energy(
    legs: Sequence[Leg], spans: Sequence[LegSpans], tokens: Tokens, energy_of: EnergyOf
) -> TurnEnergy:
    whole = energy_of_legs(legs, spans, energy_of)
    measured = whole.joules is not None
    prefills, decodes, thoughts, loads, pictures = [], [], [], [], []
    for leg, each in zip(legs, spans, strict=True):
        of = _energy_of(leg, energy_of)
        prefills.append(energy_over(each.prefill, of).joules)
        decodes.append(energy_over(each.decode, of).joules)
        if each.pictures:
            pictures.append(energy_over(each.pictures, of).joules)
        if leg.end.thinking_tokens:
            start_ns = each.decode[0].start_ns
            thoughts.append(of(start_ns, max(start_ns, leg.end.thinking_end_ns)).joules)
        if leg.load is not None:  # measured by the whole machine: loads are never shared
            of = energy_of if leg.meter is None else machine_of(leg.meter).energy
            loads.append(of(leg.load.start_ns, leg.load.end_ns).joules)
    net = None
    if whole.joules is not None and whole.idle_watts is not None:
        net = whole.joules - whole.idle_watts * math.fsum(each.seconds for each in spans)
    nothing = 0.0 if measured else None
    return TurnEnergy(
        joules=whole.joules,
        uncertainty=whole.uncertainty,
        net_joules=net,
        idle_watts=whole.idle_watts,
        kind=whole.kind.value if whole.kind else None,
        coverage=whole.coverage,
        mean_watts=whole.mean_watts,
        peak_watts=whole.peak_watts,
        joules_per_token=joules_per_token(whole.joules, tokens.output),
        phases={
            "load": sum_known(loads) if loads else nothing,
            "prefill": sum_known(prefills),
            **({"image": sum_known(pictures)} if pictures else {}),
            "decode": sum_known(decodes),
        },
        thinking_joules=sum_known(thoughts) if tokens.thinking else nothing,
        channels={channel.id: channel.joules for channel in whole.channels},
        unmeasured=whole.unmeasured,
        flags=whole.flags,
        shared=whole.shared,
        own_joules=whole.own_joules,
        start_ns=whole.start_ns,
        end_ns=whole.end_ns,
        wall=whole.wall,
    )


def split_vote_joules(batches: Sequence[Batch], energy_of: EnergyOf) -> dict[int, float]:
    """Split the decode joules over the votes by index, by their tokens in each batch.

    Empty if any batch is unmeasured: a part of a vote's energy would look like all of it.
    """
    joules: dict[int, float] = {}
    for batch in batches:
        energy = energy_of(batch.start_ns, batch.end_ns).joules
        if energy is None:
            return {}
        shares = split_by_weights(energy, [count for _, count in batch.tokens])
        for (index, _), share in zip(batch.tokens, shares, strict=True):
            joules[index] = joules.get(index, 0.0) + share
    return joules


def joules_per_token(joules: float | None, output_tokens: int) -> float | None:
    """Compute gross joules per output token; None if unmeasured or without output."""
    if joules is None or output_tokens == 0:
        return None
    return joules / output_tokens


MOST_SLICES = 60

SHORTEST_SLICE_NS = 100_000_000
"""Counters are refreshed about ten times a second: shorter slices would show the steps."""


def power_curve(start_ns: int, end_ns: int, meter: Meter) -> tuple[float | None, ...]:
    """Return the mean watts of equal slices of an interval, first to last; None if unmeasured.

    Three digits are enough for a graph and keep the row of the log small.
    """
    if end_ns <= start_ns:
        return ()
    count = max(1, min(MOST_SLICES, (end_ns - start_ns) // SHORTEST_SLICE_NS))
    slices = meter.power_curve(start_ns, end_ns, count)
    return tuple(None if watts is None else float(f"{watts:.3g}") for _, watts in slices)


def split_by_weights(joules: float, weights: Sequence[float]) -> list[float]:
    """Split the energy of a batch in proportion to weights, none of them negative.

    The parts sum to the whole: the last one with a weight takes the rounding. Without any weight
    all parts are 0.
    """
    total = math.fsum(weights)
    if total <= 0:
        return [0.0 for _ in weights]
    parts = [joules * weight / total for weight in weights]
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    parts[last] = joules - math.fsum(parts[:last])
    return parts

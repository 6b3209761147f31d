"""The meters of a turn's hops: each hop is measured on the machine that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from etui.turn.accounting import power_curve
from etui.turn.intervals import Leg, compute_spans, energy_over
from etui.turn.ports import Meter, PartMeter
from etui.turn.record import Attribution, TurnEnergy


def machine_of(meter: Meter) -> Meter:
    """Return the meter of the whole machine, by which loads and unloads are measured."""
    return meter.machine if isinstance(meter, PartMeter) else meter


def measure_leg_by(leg: Leg, meter: Meter) -> Leg:
    """Return a leg with the meter of the machine that answered it."""
    return replace(leg, energy_of=meter.energy, load_energy_of=machine_of(meter).energy)


def settle_meters(legs: Sequence[Leg], meters: Sequence[Meter]) -> None:
    """Wait until the energy of every leg is final.

    Args:
        legs: The legs of a turn, in order.
    """
    last_ns: dict[int, tuple[Meter, int]] = {}
    for leg, meter in zip(widen_legs(legs, meters), meters, strict=True):
        last_ns[id(meter)] = meter, leg.end.end_ns
    for meter, end_ns in last_ns.values():
        meter.settle(end_ns)


def widen_legs(legs: Sequence[Leg], meters: Sequence[Meter]) -> list[Leg]:
    """Widen the legs that share batches to all of these batches.

    A shared batch begins where the one before it ended, and a turn may have joined a moment later;
    one that was stopped may have left before the batch had ended. It has its share of both, so that
    all turns together have all of every batch.

    Args:
        legs: The legs of a turn, in order.
    """
    widened = list(legs)
    for meter in {id(each): each for each in meters}.values():
        work = meter.work_span() if isinstance(meter, PartMeter) else None
        if work is None:
            continue
        own = [index for index, each in enumerate(meters) if each is meter]
        first, last = own[0], own[-1]
        if first == 0:
            end = widened[0].end
            start_ns = min(end.start_ns, work.start_ns)
            widened[0] = replace(widened[0], end=replace(end, start_ns=start_ns))
        end = widened[last].end
        end_ns = max(end.end_ns, work.end_ns)
        widened[last] = replace(widened[last], end=replace(end, end_ns=end_ns))
    return widened


def curve_of_legs(
    energy: TurnEnergy, legs: Sequence[Leg], meters: Sequence[Meter]
) -> tuple[float | None, ...]:
    """Return the mean watts of a turn's slices, first to last, each from the meter of its leg.

    The slices of a turn on several machines are equal only within each leg.
    """
    if len({id(meter) for meter in meters}) == 1:
        return power_curve(energy.start_ns, energy.end_ns, meters[0])
    watts: list[float | None] = []
    for spans, meter in zip(compute_spans(legs), meters, strict=True):
        intervals = (*spans.prefill, *spans.decode)
        watts += power_curve(intervals[0].start_ns, intervals[-1].end_ns, meter)
    return tuple(watts)


def attribute_turn(
    energy: TurnEnergy,
    legs: Sequence[Leg],
    meters: Sequence[Meter],
    own_meter: Meter,
    find: Callable[[], Attribution | None] | None,
) -> Attribution:
    """Return how a turn's joules were separated from those of others.

    Args:
        own_meter: The turn's own meter; the others are those of remote machines.
        find: Returns the attribution on this machine; None asks the meter, if it measures a part.
    """
    if find is None and isinstance(own_meter, PartMeter):
        find = own_meter.attribution
    found = find() if find is not None else None
    if found is None:
        found = Attribution("exclusive", batch_joules=energy.joules)
    remote = [
        energy_over((*spans.prefill, *spans.decode), meter.energy)
        for spans, meter in zip(compute_spans(legs), meters, strict=True)
        if meter is not own_meter
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

"""Assign joules to the phases, votes and tokens of a turn."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etui.energy.types import EnergyOf
from etui.events import Batch, Finished
from etui.turn.intervals import (
    Leg,
    LegSpans,
    TimeInterval,
    energy_over,
    seconds_of,
    spans_of,
    sum_of_known,
    without,
)
from etui.turn.ports import Meter
from etui.turn.record import Seconds, Tokens, TurnEnergy


def account(
    legs: Sequence[Leg], energy_of: EnergyOf, stands: int = -1
) -> tuple[TurnEnergy, Tokens, Seconds]:
    """What a turn took.

    Prefill runs from the start of a leg to its first token, decode from there to its end, so the
    joules of both, over all legs, sum to the turn's; loads and unloads are charged to neither.

    Args:
        legs: The answers it took, in order; most turns have one.
        energy_of: Energy of an interval.
        stands: Index of the leg whose answer is the turn's; time to first token is its.
    """
    ends = [leg.end for leg in legs]
    spans = spans_of(legs)
    tokens = tokens_of(ends)
    seconds = Seconds(
        load=math.fsum(leg.load.seconds for leg in legs if leg.load),
        prefill=math.fsum(seconds_of(each.prefill) for each in spans),
        decode=math.fsum(seconds_of(each.decode) for each in spans),
        total=math.fsum(each.seconds for each in spans),
        ttft=_first_token_seconds(legs, stands % len(legs)),
    )
    return _energy(legs, spans, tokens, energy_of), tokens, seconds


def tokens_of(ends: Sequence[Finished]) -> Tokens:
    """Tokens of the answers of a turn, added up."""
    return Tokens(
        prompt=sum(end.prompt_tokens for end in ends),
        cached=sum(end.cached_tokens for end in ends),
        computed=sum(end.computed_tokens for end in ends),
        thinking=sum(end.thinking_tokens for end in ends),
        output=sum(end.output_tokens for end in ends),
    )


def _first_token_seconds(legs: Sequence[Leg], stands: int) -> float | None:
    """From the start of the turn to the first token of the answer that stands, loads left out."""
    first_ns = legs[stands].end.first_token_ns
    if first_ns is None:
        return None
    away = [gone for leg in legs[1 : stands + 1] for gone in leg.away]
    return seconds_of(without(TimeInterval(legs[0].end.start_ns, first_ns), away))


def _energy(
    legs: Sequence[Leg], spans: Sequence[LegSpans], tokens: Tokens, energy_of: EnergyOf
) -> TurnEnergy:
    whole = energy_over([i for each in spans for i in (*each.prefill, *each.decode)], energy_of)
    measured = whole.joules is not None
    prefill = sum_of_known([energy_over(each.prefill, energy_of).joules for each in spans])
    decode = sum_of_known([energy_over(each.decode, energy_of).joules for each in spans])
    thinking = sum_of_known(
        [
            energy_of(
                each.decode[0].start_ns, max(each.decode[0].start_ns, e.thinking_end_ns)
            ).joules
            for each, e in zip(spans, (leg.end for leg in legs), strict=True)
            if e.thinking_tokens
        ]
    )
    net = None
    if whole.joules is not None and whole.idle_watts is not None:
        net = whole.joules - whole.idle_watts * math.fsum(each.seconds for each in spans)
    loads = [leg.load for leg in legs if leg.load is not None]
    load_joules: float | None = 0.0 if measured else None
    if loads:
        load_joules = sum_of_known([energy_of(load.start_ns, load.end_ns).joules for load in loads])
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
        phases={"load": load_joules, "prefill": prefill, "decode": decode},
        thinking_joules=thinking if tokens.thinking else (0.0 if measured else None),
        channels={channel.id: channel.joules for channel in whole.channels},
        unmeasured=whole.unmeasured,
        flags=whole.flags,
        shared=whole.shared,
        own_joules=whole.own_joules,
        start_ns=whole.start_ns,
        end_ns=whole.end_ns,
    )


def joules_of_votes(batches: Sequence[Batch], energy_of: EnergyOf) -> dict[int, float]:
    """Vote index -> its joules of the decode, by the tokens it had in each batch.

    Empty when any batch is unmeasured: a part of a vote's energy would look like all of it.
    """
    joules: dict[int, float] = {}
    for batch in batches:
        energy = energy_of(batch.start_ns, batch.end_ns).joules
        if energy is None:
            return {}
        shares = split_by_tokens(energy, [count for _, count in batch.tokens])
        for (index, _), share in zip(batch.tokens, shares, strict=True):
            joules[index] = joules.get(index, 0.0) + share
    return joules


def joules_per_token(joules: float | None, output_tokens: int) -> float | None:
    """Gross joules of the turn per output token; None when unmeasured or nothing was put out."""
    if joules is None or output_tokens == 0:
        return None
    return joules / output_tokens


MOST_SLICES = 60


SHORTEST_SLICE_NS = 100_000_000
"""Counters are refreshed about ten times a second: thinner slices would show their steps."""


def power_curve(start_ns: int, end_ns: int, meter: Meter) -> tuple[float | None, ...]:
    """Return the mean watts of equal slices of an interval, first to last.

    Returns:
        Watts with three digits, which say all that a graph shows and keep the row of the log
        small; None for a slice that is unmeasured. Empty for an interval without a length.
    """
    if end_ns <= start_ns:
        return ()
    count = max(1, min(MOST_SLICES, (end_ns - start_ns) // SHORTEST_SLICE_NS))
    slices = meter.power_curve(start_ns, end_ns, count)
    return tuple(None if watts is None else float(f"{watts:.3g}") for _, watts in slices)


def split_by_tokens(joules: float, tokens: Sequence[int]) -> list[float]:
    """Energy of one batch among the sequences that shared it, by the tokens each had in it.

    The parts sum to the whole exactly: rounding falls to the last sequence with tokens.

    Args:
        joules: Energy of the interval.
        tokens: Tokens of each sequence in the batch.
    """
    total = sum(tokens)
    if total <= 0:
        return [0.0 for _ in tokens]
    parts = [joules * count / total for count in tokens]
    last = max(index for index, count in enumerate(tokens) if count)
    parts[last] = joules - sum(part for index, part in enumerate(parts) if index != last)
    return parts

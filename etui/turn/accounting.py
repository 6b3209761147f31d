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
    compute_spans,
    energy_of_legs,
    energy_over,
    subtract,
    sum_of_known,
    sum_seconds,
)
from etui.turn.ports import Meter
from etui.turn.record import Seconds, Tokens, TurnEnergy


def compute_account(
    legs: Sequence[Leg], energy_of: EnergyOf, taken: int = -1
) -> tuple[TurnEnergy, Tokens, Seconds]:
    """Compute the energy, tokens and seconds of a turn.

    Prefill lasts from the start of a leg to its first token, decode from there to its end, so the
    joules of both, over all legs, sum to the turn's; loads and unloads belong to neither.

    Args:
        legs: The legs of the turn, in order; most turns have one.
        energy_of: Returns the energy of an interval, for legs without a meter of their own.
        taken: Index of the leg whose answer is the turn's; its first token counts for ``ttft``.
    """
    ends = [leg.end for leg in legs]
    spans = compute_spans(legs)
    tokens = sum_tokens(ends)
    seconds = Seconds(
        load=math.fsum(leg.load.seconds for leg in legs if leg.load),
        prefill=math.fsum(sum_seconds(each.prefill) for each in spans),
        decode=math.fsum(sum_seconds(each.decode) for each in spans),
        total=math.fsum(each.seconds for each in spans),
        ttft=_compute_ttft(legs, taken % len(legs)),
    )
    return _energy(legs, spans, tokens, energy_of), tokens, seconds


def sum_tokens(ends: Sequence[Finished]) -> Tokens:
    """Sum the tokens of the answers of a turn."""
    return Tokens(
        prompt=sum(end.prompt_tokens for end in ends),
        cached=sum(end.cached_tokens for end in ends),
        computed=sum(end.computed_tokens for end in ends),
        thinking=sum(end.thinking_tokens for end in ends),
        output=sum(end.output_tokens for end in ends),
    )


def _compute_ttft(legs: Sequence[Leg], taken: int) -> float | None:
    """Compute the time from the turn's start to its answer's first token, without loads."""
    first_ns = legs[taken].end.first_token_ns
    if first_ns is None:
        return None
    excluded = [cut for leg in legs[1 : taken + 1] for cut in leg.excluded]
    return sum_seconds(subtract(TimeInterval(legs[0].end.start_ns, first_ns), excluded))


def _energy(
    legs: Sequence[Leg], spans: Sequence[LegSpans], tokens: Tokens, energy_of: EnergyOf
) -> TurnEnergy:
    whole = energy_of_legs(legs, spans, energy_of)
    measured = whole.joules is not None
    by_leg = [
        (leg, each, leg.energy_of or energy_of) for leg, each in zip(legs, spans, strict=True)
    ]
    prefill = sum_of_known([energy_over(each.prefill, of).joules for _, each, of in by_leg])
    decode = sum_of_known([energy_over(each.decode, of).joules for _, each, of in by_leg])
    thinking = sum_of_known(
        [
            of(
                each.decode[0].start_ns, max(each.decode[0].start_ns, leg.end.thinking_end_ns)
            ).joules
            for leg, each, of in by_leg
            if leg.end.thinking_tokens
        ]
    )
    net = None
    if whole.joules is not None and whole.idle_watts is not None:
        net = whole.joules - whole.idle_watts * math.fsum(each.seconds for each in spans)
    loads = [
        (leg.load_energy_of or energy_of)(leg.load.start_ns, leg.load.end_ns).joules
        for leg in legs
        if leg.load is not None
    ]
    load_joules: float | None = 0.0 if measured else None
    if loads:
        load_joules = sum_of_known(loads)
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


def split_vote_joules(batches: Sequence[Batch], energy_of: EnergyOf) -> dict[int, float]:
    """Split the decode joules over the votes, by their tokens in each batch.

    Returns:
        Joules by vote index. Empty if any batch is unmeasured, because a part of a vote's energy
        would look like all of it.
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
    """Compute gross joules per output token; None if unmeasured or without output."""
    if joules is None or output_tokens == 0:
        return None
    return joules / output_tokens


MOST_SLICES = 60


SHORTEST_SLICE_NS = 100_000_000
"""Counters are refreshed about ten times a second: shorter slices would show the steps."""


def power_curve(start_ns: int, end_ns: int, meter: Meter) -> tuple[float | None, ...]:
    """Return the mean watts of equal slices of an interval, first to last.

    Returns:
        Watts with three digits, which is enough for a graph and keeps the row of the log small;
        None for an unmeasured slice. Empty for an interval of length 0.
    """
    if end_ns <= start_ns:
        return ()
    count = max(1, min(MOST_SLICES, (end_ns - start_ns) // SHORTEST_SLICE_NS))
    slices = meter.power_curve(start_ns, end_ns, count)
    return tuple(None if watts is None else float(f"{watts:.3g}") for _, watts in slices)


def split_by_tokens(joules: float, tokens: Sequence[int]) -> list[float]:
    """Split the energy of a batch over its sequences, by their tokens in it.

    The parts sum exactly to the whole: the last sequence with tokens absorbs the rounding.
    """
    total = sum(tokens)
    if total <= 0:
        return [0.0 for _ in tokens]
    parts = [joules * count / total for count in tokens]
    last = max(index for index, count in enumerate(tokens) if count)
    parts[last] = joules - sum(part for index, part in enumerate(parts) if index != last)
    return parts

"""From the timestamps of an answer to its tokens, seconds and joules: plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.energy.sharing import split_by_tokens
from etui.energy.types import Energy
from etui.engine.events import Batch, Finished
from etui.log.records import Seconds, Tokens, TurnEnergy

EnergyOf = Callable[[int, int], Energy]


@dataclass(frozen=True, slots=True)
class Interval:
    """Two moments of the monotonic clock."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


def account(
    end: Finished, load: Interval | None, energy_of: EnergyOf
) -> tuple[TurnEnergy, Tokens, Seconds]:
    """What a turn took.

    Prefill runs from the start to the first token, decode from there to the end, so their joules
    sum to the turn's; the load lies before both and is charged to neither.
    """
    whole = Interval(end.start_ns, end.end_ns)
    prefill = Interval(end.start_ns, end.prefill_end_ns)
    decode = Interval(end.prefill_end_ns, end.end_ns)
    tokens = Tokens(
        prompt=end.prompt_tokens,
        cached=end.cached_tokens,
        computed=end.computed_tokens,
        thinking=end.thinking_tokens,
        output=end.output_tokens,
    )
    first = end.first_token_ns
    seconds = Seconds(
        load=load.seconds if load else 0.0,
        prefill=prefill.seconds,
        decode=decode.seconds,
        total=whole.seconds,
        ttft=(first - end.start_ns) / 1e9 if first is not None else None,
    )
    return _energy(end, load, energy_of), tokens, seconds


def _energy(end: Finished, load: Interval | None, energy_of: EnergyOf) -> TurnEnergy:
    whole = energy_of(end.start_ns, end.end_ns)
    measured = whole.joules is not None
    prefill = energy_of(end.start_ns, end.prefill_end_ns).joules
    decode = energy_of(end.prefill_end_ns, end.end_ns).joules
    thinking = energy_of(end.prefill_end_ns, end.thinking_end_ns).joules
    if load is None:
        load_joules = 0.0 if measured else None
    else:
        load_joules = energy_of(load.start_ns, load.end_ns).joules
    return TurnEnergy(
        joules=whole.joules,
        uncertainty=whole.uncertainty,
        net_joules=whole.net_joules,
        idle_watts=whole.idle_watts,
        kind=whole.kind.value if whole.kind else None,
        coverage=whole.coverage,
        mean_watts=whole.mean_watts,
        peak_watts=whole.peak_watts,
        joules_per_token=joules_per_token(whole.joules, end.output_tokens),
        phases={"load": load_joules, "prefill": prefill, "decode": decode},
        thinking_joules=thinking if end.thinking_tokens else (0.0 if measured else None),
        channels={channel.id: channel.joules for channel in whole.channels},
        unmeasured=whole.unmeasured,
        flags=whole.flags,
        shared=whole.shared,
        own_joules=whole.own_joules,
        start_ns=end.start_ns,
        end_ns=end.end_ns,
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

"""What a model's tokens cost, as the mean of its last turns: a price until a curve is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import TokenCost
from etui.units import count_text

TURNS = 20
"""Last turns of a model that its price is the mean of."""

# Votes share each read of the weights, so their tokens are cheaper than those of one thought.
COSTS_SQL = """
    SELECT energy_phases_prefill, tokens_computed, energy_phases_decode, tokens_output, energy_kind
    FROM turns
    WHERE model = ? AND model_sha256 IS ? AND reasoning <> 'vote' AND tokens_output > 0
        AND hops = '[]' AND energy_phases_decode > 0 AND energy_phases_prefill IS NOT NULL
    ORDER BY created_at DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class TurnCost:
    """Measured joules and tokens of one turn, by phase, and how the energy is known."""

    prefill_joules: float
    computed_tokens: int
    decode_joules: float
    output_tokens: int
    kind: str | None


def mean_token_cost(turns: Sequence[TurnCost]) -> TokenCost | None:
    """Joules over tokens of the turns whose energy is known as that of the first, the newest.

    None without turns. A mean knows nothing of the context's length, so the price has no part
    that grows with it.
    """
    alike = [turn for turn in turns if turn.kind == turns[0].kind]
    output = sum(turn.output_tokens for turn in alike)
    if not output:
        return None
    computed = sum(turn.computed_tokens for turn in alike)
    prefill = math.fsum(turn.prefill_joules for turn in alike)
    return TokenCost(
        joules_per_token=math.fsum(turn.decode_joules for turn in alike) / output,
        joules_per_prompt_token=prefill / computed if computed else 0.0,
        source=f"the mean of {count_text(len(alike), 'turn')}",
    )

"""Estimate the joules per token of a model from its last turns, until a curve is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import TokenCost
from etui.units import count_text

TURNS = 20
"""Number of a model's last turns to average."""
LOOKED_AT = 5 * TURNS
"""Number of a model's last turns to choose from."""
BATCHED_SQL = "(coalesce(energy_attribution_method, 'exclusive') <> 'exclusive')"
"""Whether other requests were in the batches of a turn."""
SHARED_SQL = f"(energy_shared OR {BATCHED_SQL})"
"""Whether other programs used the hardware of a turn, or other requests were in its batches."""

FREE_OF_CACHES_SQL = """(
    length(cache) = 2 OR CASE WHEN json_valid(cache)
        THEN json_extract(cache, '$.restore_seconds') <= 0.02 * seconds_prefill END
)"""
"""Whether hardly any of the prefill went into bringing a KV cache back."""

# Votes share each read of the weights, so their tokens cost less than those of one sequence, and
# what drafted tokens cost depends on the text.
COSTS_SQL = f"""
    SELECT energy_phases_prefill, tokens_computed, energy_phases_decode, tokens_output, energy_kind,
        {SHARED_SQL}, {BATCHED_SQL}
    FROM turns INDEXED BY turns_with_cost
    WHERE model = ? AND model_sha256 IS ? AND reasoning <> 'vote' AND tokens_output > 0
        AND hops = '[]' AND speculation_method IS NULL
        AND energy_phases_decode > 0 AND energy_phases_prefill IS NOT NULL
        AND {FREE_OF_CACHES_SQL}
    ORDER BY created_at DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class TurnCost:
    """Measured joules and tokens of one turn, by phase, and how the energy is known.

    ``shared`` is true if other programs used the same hardware, so that it has joules of theirs, or
    if it is ``batched``: other requests were in its batches, and it did not pay for all of each.
    """

    prefill_joules: float
    computed_tokens: int
    decode_joules: float
    output_tokens: int
    kind: str | None
    shared: bool = False
    batched: bool = False


def mean_token_cost(turns: Sequence[TurnCost]) -> TokenCost | None:
    """Average the joules per token of the last turns with energy of the same kind as the newest's.

    Turns that shared the hardware count only if there are no others, and those that shared their
    batches only if there are none but those: their tokens cost less the more requests there were,
    and such a cost would divide the next batches wrongly. None without turns. A mean does not
    depend on the length of the context, so the cost has no term that grows with it.

    Args:
        turns: Newest first.
    """
    alike = [turn for turn in turns if turn.kind == turns[0].kind]
    alone = [turn for turn in alike if not turn.batched] or alike
    alike = ([turn for turn in alone if not turn.shared] or alone)[:TURNS]
    output = sum(turn.output_tokens for turn in alike)
    if not output:
        return None
    computed = sum(turn.computed_tokens for turn in alike)
    prefill = math.fsum(turn.prefill_joules for turn in alike)
    return TokenCost(
        joules_per_token=math.fsum(turn.decode_joules for turn in alike) / output,
        joules_per_prompt_token=prefill / computed if computed else 0.0,
        source=f"the mean of {count_text(len(alike), 'turn')}",
        batched=all(turn.batched for turn in alike),
    )

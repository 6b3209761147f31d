"""How deep to think: is the next chunk of thought worth its joules, is the answer there already.

Pure: decisions over numbers. The early exit follows the idea of probing the answer in mid-thought
until it is confident and stable (Yang et al., "Dynamic Early Exit in Reasoning Models", 2025; Fu et
al., "Efficiently Serving LLM Reasoning Programs with Certaindex", 2024). The joules of a chunk come
from the model's operating curve: b*m + k*(c*m + m^2/2) for m tokens behind c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import Arm, EarlyExit, TokenCost
from etui.units import energy_text, percent_text, tokens_text

CHUNK_TOKENS = 48
"""Thought tokens between two decisions where the arm names no number."""

_GAINS = 2
"""Gains of confidence that the next one is estimated from: one alone is mostly noise."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a probe saw: the answer as it would be given now, and its probability (0..1)."""

    key: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class JoulesSpent:
    """What an answer may spend, and has by estimate.

    Attributes:
        price: What tokens cost; None where that is not known.
        max_joules: The most the answer may spend; None is no limit.
        prompt_tokens: Prompt tokens that were computed.
        answer_tokens: Tokens that are kept for the answer.
    """

    price: TokenCost | None
    max_joules: float | None
    prompt_tokens: int
    answer_tokens: int


def chunk_tokens(arm: Arm) -> int:
    """Thought tokens between two decisions of this arm."""
    return arm.early_exit.every if arm.early_exit is not None else CHUNK_TOKENS


def confident(looks: Sequence[Look], rule: EarlyExit) -> str | None:
    """Why the thought may end: the last looks agree on one answer, each confident; or None."""
    last = looks[-rule.stable :]
    if len(last) < rule.stable or last[-1].key is None:
        return None
    if any(look.key != last[-1].key or look.probability < rule.min_p for look in last):
        return None
    times = f", {rule.stable} times running" if rule.stable > 1 else ""
    return f"the answer was {percent_text(last[-1].probability)} certain{times}"


def too_dear(
    spending: JoulesSpent, context_tokens: int, thought_tokens: int, chunk: int
) -> str | None:
    """Why the next chunk does not fit into the joules that are left; None if it does.

    Args:
        context_tokens: Tokens in the context now, the thought included.
        thought_tokens: Tokens of the thought so far.
        chunk: Tokens of the next chunk.
    """
    price, limit = spending.price, spending.max_joules
    if price is None or limit is None:
        return None
    begun = context_tokens - thought_tokens
    spent = price.joules_per_prompt_token * spending.prompt_tokens
    spent += price.decode_joules(begun, thought_tokens)
    answer = price.decode_joules(context_tokens + chunk, spending.answer_tokens)
    left = limit - spent - answer
    cost = price.decode_joules(context_tokens, chunk)
    if cost <= left:
        return None
    return (
        f"{tokens_text(chunk)} more would take {_about(cost)}, and {_about(max(0.0, left))} of "
        f"{energy_text(limit)} is left beside the answer"
    )


def not_worth_it(
    looks: Sequence[Look],
    price: TokenCost | None,
    exchange: float,
    context_tokens: int,
    chunk: int,
) -> str | None:
    """Why the next chunk costs more than the confidence it is expected to bring; None if not.

    The expected gain is the mean of the last two, no less than nothing and no more than is missing
    to certainty.

    Args:
        looks: Probes so far, one before the thought and one after each chunk.
        price: What tokens cost; None decides nothing.
        exchange: Joules a percentage point of confidence is worth.
    """
    if price is None or len(looks) <= _GAINS:
        return None
    now, before = looks[-1].probability, looks[-1 - _GAINS].probability
    gain = 100.0 * min(1.0 - now, max(0.0, (now - before) / _GAINS))
    cost = price.decode_joules(context_tokens, chunk)
    if cost <= exchange * gain:
        return None
    return (
        f"{tokens_text(chunk)} more would take {_about(cost)} for {percent_text(gain / 100.0)} "
        f"more confidence, worth {_about(exchange * gain)}"
    )


def _about(joules: float) -> str:
    return energy_text(joules, kind="estimate").removesuffix(" (estimate)")

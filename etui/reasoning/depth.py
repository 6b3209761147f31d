"""Decide how long to think: is the next chunk worth its joules, is the answer settled already?

Pure functions over numbers. Early exit probes the answer while thinking until it is confident and
stable (Yang et al., "Dynamic Early Exit in Reasoning Models", 2025; Fu et al., "Efficiently Serving
LLM Reasoning Programs with Certaindex", 2024). The joules of a chunk come from the model's
operating curve: b*m + k*(c*m + m^2/2) for m tokens after c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import Arm, EarlyExit, TokenCost
from etui.units import count_text, energy_text, percent_text

CHUNK_TOKENS = 48
"""Thinking tokens between two decisions, unless the arm sets a number."""

_GAINS = 2
"""Number of past gains in confidence that predict the next one: a single one is mostly noise."""


@dataclass(frozen=True, slots=True)
class Look:
    """Result of a probe: the answer that would be given now, and its probability (0..1)."""

    key: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class JoulesSpent:
    """The joule limit of an answer, and the inputs to estimate what it has spent."""

    price: TokenCost | None  # Energy cost of tokens; None if unknown
    max_joules: float | None  # Maximum joules of the answer; None is no limit
    prompt_tokens: int  # Number of computed prompt tokens
    answer_tokens: int


def chunk_tokens(arm: Arm) -> int:
    """Return the number of thinking tokens between two decisions of an arm."""
    return arm.early_exit.every if arm.early_exit is not None else CHUNK_TOKENS


def check_confidence(looks: Sequence[Look], rule: EarlyExit) -> str | None:
    """Return why thinking can end; None if it has to continue.

    It can end when the last ``rule.stable`` probes give the same answer, each with a probability of
    at least ``rule.min_p``.
    """
    last = looks[-rule.stable :]
    if len(last) < rule.stable or last[-1].key is None:
        return None
    if any(look.key != last[-1].key or look.probability < rule.min_p for look in last):
        return None
    times = f" in {rule.stable} consecutive probes" if rule.stable > 1 else ""
    return f"the answer was {percent_text(last[-1].probability)} certain{times}"


def check_joules(
    spending: JoulesSpent, context_tokens: int, thought_tokens: int, chunk: int
) -> str | None:
    """Return why the next chunk exceeds the joules left for thinking; None if it does not.

    Args:
        spending: The limit of the answer, and what it has spent on the prompt.
        context_tokens: Tokens in the context now, the thinking included.
        thought_tokens: Thinking tokens so far.
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
        f"{count_text(chunk, 'more token')} would cost {_format_estimate(cost)}, but only "
        f"{_format_estimate(max(0.0, left))} of {energy_text(limit)} is left for thinking"
    )


def check_gain(
    looks: Sequence[Look],
    price: TokenCost | None,
    exchange: float,
    context_tokens: int,
    chunk: int,
) -> str | None:
    """Return why the next chunk costs more than its expected gain is worth; None if it does not.

    The expected gain in confidence is the mean of the last two gains, but at least 0 and at
    most what is missing to certainty.

    Args:
        looks: Probes so far, one before the thinking and one after each chunk.
        price: Energy cost of tokens; None skips the check.
        exchange: Joules that one percentage point of confidence is worth.
        chunk: Tokens of the next chunk.
    """
    if price is None or len(looks) <= _GAINS:
        return None
    now, before = looks[-1].probability, looks[-1 - _GAINS].probability
    gain = 100.0 * min(1.0 - now, max(0.0, (now - before) / _GAINS))
    cost = price.decode_joules(context_tokens, chunk)
    if cost <= exchange * gain:
        return None
    return (
        f"{count_text(chunk, 'more token')} would cost {_format_estimate(cost)} for "
        f"{percent_text(gain / 100.0)} more confidence, worth {_format_estimate(exchange * gain)}"
    )


def _format_estimate(joules: float) -> str:
    return energy_text(joules, kind="estimate").removesuffix(" (estimate)")

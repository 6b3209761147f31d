"""Decide whether a request may begin while others run. Pure functions.

A cache that fills up in the middle of answers ends one of them, so a request waits until what it
may need is free in addition to what the running ones may still need.
"""

from __future__ import annotations

from dataclasses import dataclass

from etui.arm import Arm

HAND_OVER_TOKENS = 64
"""Tokens of a hand-over from thinking to the answer, with some to spare."""

PROBE_TOKENS = 64
"""Tokens of a probe of the answer, with some to spare."""

MESSAGE_TOKENS = 32
"""Tokens that a chat template adds to a message, with some to spare."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request may need of the context until its end."""

    prompt_tokens: int = 0  # Length of its prompt; an upper bound before that is known
    output_tokens: int = 0
    """Maximum number of tokens after the prompt, of all its sequences together."""
    sequences: int = 0  # Maximum number of sequences that are open at a time

    @property
    def tokens(self) -> int:
        """Cells of the cache that it may need."""
        return self.prompt_tokens + self.output_tokens


NOTHING = Reservation()
"""Of a request that reserves nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a session has left for one more request."""

    running: int  # Number of running requests
    tokens: int  # Free cells, less those that the running requests may still need
    sequences: int  # Free sequences, less those that the running requests may still open


def may_begin(need: Reservation, room: Room, shared_tokens: int = 0) -> bool:
    """Return whether a request may begin; alone it always may, and makes do with what there is.

    Args:
        shared_tokens: Tokens of its prompt whose cells it will share with a running request.
    """
    if room.running == 0:
        return True
    return need.tokens - shared_tokens <= room.tokens and need.sequences <= room.sequences


def estimate_need(arm: Arm, prompt_tokens: int, count: int = 1) -> Reservation:
    """Estimate what a request may need from its arm.

    Args:
        count: Answers that are drawn after one prefill.
    """
    output = arm.max_tokens
    thinks = arm.reasoning == "cot" or (arm.reasoning == "vote" and arm.think_tokens > 0)
    if thinks:
        output += arm.think_tokens + HAND_OVER_TOKENS
    if arm.reasoning == "vote":
        width = min(arm.votes, arm.batch)
        return Reservation(prompt_tokens, width * output, 1 + width)
    if count > 1:
        return Reservation(prompt_tokens, count * output, 1 + count)
    probes = arm.reasoning == "cot" and (arm.early_exit is not None or arm.exchange is not None)
    return Reservation(prompt_tokens, output + probes * PROBE_TOKENS, 1 + probes)


def limit_need(need: Reservation, context_tokens: int, sequences: int) -> Reservation:
    """Limit a reservation to what the whole context has.

    Answers are cut at the context, and votes wait for each other, so that a request that asks for
    more is still answered, alone.
    """
    prompt = min(need.prompt_tokens, context_tokens)
    return Reservation(
        prompt, min(need.output_tokens, context_tokens - prompt), min(need.sequences, sequences)
    )


def bound_prompt(contents: list[str]) -> int:
    """Return an upper bound of the tokens of a prompt: no token is shorter than a byte."""
    return sum(len(content.encode("utf-8", "replace")) + MESSAGE_TOKENS for content in contents)

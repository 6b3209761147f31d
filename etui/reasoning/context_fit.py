"""Making a conversation fit into a context: the oldest turns go first, the question never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.arm import ContextOverflow as Gives
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import ContextOverflow

SMALLEST_ANSWER_TOKENS = 16
"""A prompt that leaves less room than this for an answer does not fit."""

LIKELY_ANSWER_TOKENS = 64
"""Room or joules are kept for an answer of this length at most: few take all they may."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits: its tokens, and how many of the oldest messages had to go."""

    tokens: list[int]
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Tokens of the context that are kept for what follows the prompt.

    Attributes:
        least: The fewest an answer can do with.
        whole: What the arm's budgets ask for.
        gives_way: What gives way where not all of it fits (``Arm.context_overflow``).
    """

    least: int
    whole: int
    gives_way: Gives = "truncate_thought"


def fit(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], str],
    session: Session,
    reserve: Reserve,
) -> FittedPrompt:
    """The longest end of the conversation that leaves the reserve of the context free.

    The whole reserve is kept free at the cost of the oldest messages where these are to give way;
    the question alone needs the least of it. Where nothing is to give way nothing is left out.

    Raises:
        ContextOverflow: Not even the question fits.
    """
    context_tokens = session.facts.context_tokens
    kept = tuple(messages)
    while True:
        tokens = session.tokenize(render(kept), bos=True)
        shorter = without_oldest(kept) if reserve.gives_way != "fail" else None
        least = reserve.gives_way == "truncate_thought" or (
            reserve.gives_way == "drop_history" and shorter is None
        )
        free = reserve.least if least else reserve.whole
        if len(tokens) + free <= context_tokens:
            return FittedPrompt(tokens, len(messages) - len(kept))
        if shorter is None:
            raise ContextOverflow(len(tokens), context_tokens, free)
        kept = shorter


def without_oldest(messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """The conversation less its oldest turn; None when only the question is left.

    A turn is a question and everything up to the next one; the system prompt always stays.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    if len(messages) - first <= 1:
        return None
    end = first + 1
    while end < len(messages) - 1 and messages[end].role != "user":
        end += 1
    return (*messages[:first], *messages[end:])

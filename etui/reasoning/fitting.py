"""Making a conversation fit into a context: the oldest turns go first, the question never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.engine.session import Session
from etui.errors import ContextOverflow
from etui.query import Message

SMALLEST_ANSWER_TOKENS = 16
"""A prompt that leaves less room than this for an answer does not fit."""

LIKELY_ANSWER_TOKENS = 64
"""Room or joules are kept for an answer of this length at most: few take all they may."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that fits: its tokens, and how many of the oldest messages had to go."""

    tokens: list[int]
    dropped_messages: int


def fit(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], str],
    session: Session,
    reserve_tokens: int,
) -> Prompt:
    """The longest end of the conversation that leaves ``reserve_tokens`` of the context free.

    Raises:
        ContextOverflow: Not even the question fits.
    """
    context_tokens = session.facts.context_tokens
    kept = tuple(messages)
    while True:
        tokens = session.tokenize(render(kept), bos=True)
        if len(tokens) + reserve_tokens <= context_tokens:
            return Prompt(tokens, len(messages) - len(kept))
        shorter = without_oldest(kept)
        if shorter is None:
            raise ContextOverflow(len(tokens), context_tokens, reserve_tokens)
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

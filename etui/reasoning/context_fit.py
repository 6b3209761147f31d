"""Fit a conversation into a context: the oldest turns are dropped first, the question never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.arm import ContextOverflow as OverflowRule
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import ContextOverflow

SMALLEST_ANSWER_TOKENS = 16
"""Minimum room for an answer; a prompt that leaves less does not fit."""

LIKELY_ANSWER_TOKENS = 64
"""Maximum reserve of room or joules for an answer: few answers use their whole budget."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits: its tokens, and the number of oldest messages dropped for that."""

    tokens: list[int]
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Tokens of the context reserved for the thinking and the answer.

    Attributes:
        least: Minimum for a usable answer.
        whole: Sum of the arm's budgets.
        gives_way: What is cut if not everything fits (``Arm.context_overflow``).
    """

    least: int
    whole: int
    gives_way: OverflowRule = "truncate_thought"


def fit(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], str],
    session: Session,
    reserve: Reserve,
) -> FittedPrompt:
    """Drop the oldest turns until the prompt and the reserve fit into the context.

    What has to fit depends on ``reserve.gives_way``: the least reserve with ``truncate_thought``;
    with ``drop_history`` the whole reserve as long as there are turns to drop, then the least one;
    with ``fail`` the whole reserve, and nothing is dropped.

    Args:
        messages: The conversation, the question last.
        render: Renders messages as prompt text.
        session: Tokenizes the prompt.
        reserve: Tokens to keep free after the prompt.

    Raises:
        ContextOverflow: It does not fit, even without the turns that may be dropped.
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
    """Drop the oldest turn of a conversation; None if only the last one is left.

    A turn is a question and everything up to the next one; the system prompt is always kept. So are
    the calls and results of tools after the last question, which mean nothing without each other.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    questions = [i for i, message in enumerate(messages) if message.role == "user"]
    last = questions[-1] if questions else len(messages) - 1
    if last <= first:
        return None
    end = first + 1
    while end < last and messages[end].role != "user":
        end += 1
    return (*messages[:first], *messages[end:])

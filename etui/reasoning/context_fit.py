"""Fit a conversation into a context: the oldest turns are dropped first, the question never."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from etui.arm import ContextOverflow as OverflowRule
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import ContextOverflow

SMALLEST_ANSWER_TOKENS = 16
"""Minimum room for an answer; a prompt that leaves less does not fit."""

MOST_TOKEN_CHARACTERS = 64
"""Characters of a token that no prompt has on average, were it of spaces alone."""

LIKELY_ANSWER_TOKENS = 64
"""Maximum reserve of room or joules for an answer: few answers use their whole budget."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits: its tokens, and the number of oldest messages dropped for that."""

    tokens: list[int]
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Tokens of the context reserved for the thinking and the answer."""

    least: int  # Minimum for a usable answer
    whole: int  # Sum of the arm's budgets
    overflow: OverflowRule = "truncate_thought"
    """What is cut if not everything fits (``Arm.context_overflow``)."""

    def choose(self, is_shortest: bool) -> int:
        """Return what has to stay free; ``is_shortest`` if no turn is left to drop."""
        least = self.overflow == "truncate_thought" or (
            self.overflow == "drop_history" and is_shortest
        )
        return self.least if least else self.whole


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A version of the conversation; without tokens if it is far too long to read them."""

    tokens: list[int]
    count: int
    free: int
    fits: bool


def fit(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], str],
    session: Session,
    reserve: Reserve,
) -> FittedPrompt:
    """Drop the oldest turns until the prompt and the reserve fit into the context.

    What has to fit depends on ``reserve.overflow``: the least reserve with ``truncate_thought``;
    with ``drop_history`` the whole reserve as long as there are turns to drop, then the least one;
    with ``fail`` the whole reserve, and nothing is dropped.

    Raises:
        ContextOverflow: It does not fit, even without the turns that may be dropped.
    """
    context_tokens = session.facts.context_tokens

    def attempt(kept: Sequence[Message]) -> _Attempt:
        is_shortest = reserve.overflow != "fail" and without_oldest(kept) is None
        free = reserve.choose(is_shortest)
        count = count_least_tokens(sum(map(_count_characters, kept)))
        tokens = []
        if count <= context_tokens:
            tokens = session.tokenize(render(kept), bos=True)
            count = len(tokens)
        return _Attempt(tokens, count, free, count + free <= context_tokens)

    best = attempt(tuple(messages))
    if best.fits:
        return FittedPrompt(best.tokens, 0)
    shorter = list(_shorten(messages)) if reserve.overflow != "fail" else []
    if shorter:
        best = attempt(shorter[-1])
    if not best.fits:
        raise ContextOverflow(best.count, context_tokens, best.free)
    # Each is shorter than the one before it, so the first that fits is found by halving: a client
    # may send thousands of turns.
    low, high = 0, len(shorter) - 1
    while low < high:
        middle = (low + high) // 2
        tried = attempt(shorter[middle])
        if tried.fits:
            best, high = tried, middle
        else:
            low = middle + 1
    return FittedPrompt(best.tokens, len(messages) - len(shorter[high]))


def count_least_tokens(characters: int) -> int:
    """Count the tokens that a text has at least, without reading it.

    Tokenizing megabytes takes a long time, which other answers would have to wait for.
    """
    return characters // MOST_TOKEN_CHARACTERS


def _count_characters(message: Message) -> int:
    return len(message.content) + len(message.tool_calls)


def _shorten(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Yield the conversation without its oldest turn, without its two oldest turns, and so on."""
    kept = without_oldest(messages)
    while kept is not None:
        yield kept
        kept = without_oldest(kept)


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

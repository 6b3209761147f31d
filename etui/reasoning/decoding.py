"""The loop every way of answering shares: prefill, then one token after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum

from etui.engine.events import Answer, Event, Prefilling, Thought
from etui.engine.session import Sampled, Session, TokenSequence
from etui.engine.text import TextStream
from etui.reasoning.control import Control


class Ending(Enum):
    """Why a run of tokens ended."""

    TOKEN = "end token"
    TEXT = "stop string"
    LIMIT = "token limit"
    BUDGET = "energy budget"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One run of tokens.

    Attributes:
        text: Everything before the stop string, whole characters only.
        rest: Text behind the stop string that came with it; it opens what follows.
        tokens: Tokens decoded, those of the stop string included.
        ending: Why the run ended.
        stop: The stop string that ended it.
        first_ns, last_ns: When the first and the last token were there; None without any.
        logprob_sum: Sum of the tokens' log-probabilities (nats), None where they were not read.
    """

    text: str
    rest: str
    tokens: int
    ending: Ending
    stop: str | None
    first_ns: int | None
    last_ns: int | None
    logprob_sum: float | None


@dataclass(frozen=True, slots=True)
class Primed:
    """A sequence whose queue has been computed: its next token, and when that was drawn."""

    next: Sampled
    at_ns: int


def prefill(
    session: Session, sequence: TokenSequence, control: Control
) -> Generator[Prefilling, None, Primed | None]:
    """Compute what is queued, batch by batch; None when cancelled between two batches."""
    total = len(sequence.tokens)
    while not control.cancelled():
        step = session.step([sequence])
        if step.sampled:
            return Primed(step.sampled[0], step.end_ns)
        yield Prefilling(step.end_ns, total - sequence.pending, total)
    return None


def feed(session: Session, sequence: TokenSequence, control: Control) -> Primed | None:
    """Compute what is queued in the middle of an answer; None when cancelled."""
    while not control.cancelled():
        step = session.step([sequence])
        if step.sampled:
            return Primed(step.sampled[0], step.end_ns)
    return None


def decode(
    session: Session,
    sequence: TokenSequence,
    primed: Primed,
    *,
    kind: type[Thought] | type[Answer],
    limit: int,
    stops: Sequence[str],
    control: Control,
    frugal: bool = True,
    opening: str = "",
) -> Generator[Event, None, Decoded]:
    """Decode until an end token, a stop string, the limit or a cancel, one event a token.

    Args:
        primed: The token the sequence's last step drew.
        kind: What the events are called.
        limit: The most tokens to decode; 0 decodes none.
        stops: Strings that end the run and are not part of the text.
        frugal: Whether a spent energy budget ends the run.
        opening: Text that came before, with the stop string of the thought.
    """
    stream = TextStream(stops)
    shown: list[str] = []
    tokens, logprobs, first_ns, last_ns = 0, 0.0, None, None
    read_logprobs = True
    if opening:
        shown.append(opening)
        yield kind(primed.at_ns, opening, 0)
    sampled, at_ns = primed.next, primed.at_ns
    ending = Ending.LIMIT
    while tokens < limit:
        if control.cancelled():
            ending = Ending.CANCELLED
            break
        if frugal and tokens and control.spent():
            ending = Ending.BUDGET
            break
        if sampled.ends:
            ending = Ending.TOKEN
            break
        tokens += 1
        first_ns, last_ns = first_ns or at_ns, at_ns
        if sampled.logprob is None:
            read_logprobs = False
        else:
            logprobs += sampled.logprob
        text = stream.push(sampled.piece)
        shown.append(text)
        yield kind(at_ns, text, 1)
        if stream.stopped is not None:
            ending = Ending.TEXT
            break
        if tokens == limit:
            break
        step = session.step([sequence])
        sampled, at_ns = step.sampled[0], step.end_ns
    tail = stream.finish()
    if tail:
        shown.append(tail)
        yield kind(at_ns, tail, 0)
    return Decoded(
        text="".join(shown),
        rest=stream.rest,
        tokens=tokens,
        ending=ending,
        stop=stream.stopped,
        first_ns=first_ns,
        last_ns=last_ns,
        logprob_sum=logprobs if read_logprobs and tokens else None,
    )

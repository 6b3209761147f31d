"""What every way of answering shares: the prefill, and runs of tokens that know their end."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum

from etui.engine.events import Answer, Event, Prefilling
from etui.engine.session import Sampled, Session, TokenSequence
from etui.engine.text import TextStream
from etui.reasoning.control import Control


class Ending(Enum):
    """Why a run of tokens ended."""

    TOKEN = "end token"
    TEXT = "stop string"
    LIMIT = "token limit"
    BUDGET = "energy budget"
    CONFIDENT = "confident answer"
    DEPTH = "depth"
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
        logprob_sum: Sum of the tokens' log-probabilities (nats); None without any.
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


class Run:
    """Tokens of one sequence as they are drawn: their text, their count, and when to stop.

    Whoever steps the session hands each drawn token over, so that many sequences can be decoded in
    one batch.

    Args:
        limit: The most tokens to take; 0 takes none.
        stops: Strings that end the run and are not part of its text.
        opening: Text that came before, behind the stop string of the thought.

    Attributes:
        ending: Why the run is over; None as long as it is not.
        tokens: Tokens taken.
    """

    def __init__(self, limit: int, stops: Sequence[str], opening: str = "") -> None:
        self.ending: Ending | None = Ending.LIMIT if limit <= 0 else None
        self.tokens = 0
        self._limit = limit
        self._stream = TextStream(stops)
        self._shown = [opening]
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._logprob_sum = 0.0

    def take(self, sampled: Sampled, at_ns: int) -> str:
        """Take the token drawn at ``at_ns``; the text that is certain with it."""
        if self.ending is not None:
            raise ValueError(f"the run is over: {self.ending.value}")
        if sampled.ends:
            return self._over(Ending.TOKEN)
        self.tokens += 1
        self._first_ns, self._last_ns = self._first_ns or at_ns, at_ns
        self._logprob_sum += sampled.logprob
        text = self._stream.push(sampled.piece)
        self._shown.append(text)
        if self._stream.stopped is not None:
            return text + self._over(Ending.TEXT)
        return text + self._over(Ending.LIMIT) if self.tokens == self._limit else text

    def end(self, ending: Ending) -> str:
        """End the run from outside; the text that was held back."""
        return "" if self.ending is not None else self._over(ending)

    def _over(self, ending: Ending) -> str:
        self.ending = ending
        tail = self._stream.finish()
        self._shown.append(tail)
        return tail

    def decoded(self) -> Decoded:
        """What the run came to; it must be over."""
        assert self.ending is not None
        return Decoded(
            text="".join(self._shown),
            rest=self._stream.rest,
            tokens=self.tokens,
            ending=self.ending,
            stop=self._stream.stopped,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            logprob_sum=self._logprob_sum if self.tokens else None,
        )


def decode(
    session: Session,
    sequence: TokenSequence,
    primed: Primed,
    run: Run,
    control: Control,
) -> Generator[Event, None, Decoded]:
    """Decode one answer until its run is over, one event a token.

    Args:
        primed: The token the sequence's last step drew.
    """
    sampled, at_ns = primed.next, primed.at_ns
    while run.ending is None:
        if control.cancelled():
            text, tokens = run.end(Ending.CANCELLED), 0
        elif run.tokens and control.spent():
            text, tokens = run.end(Ending.BUDGET), 0
        else:
            before = run.tokens
            text = run.take(sampled, at_ns)
            tokens = run.tokens - before
        if text or tokens:
            yield Answer(at_ns, text, tokens)
        if run.ending is None:
            step = session.step([sequence])
            sampled, at_ns = step.sampled[0], step.end_ns
    return run.decoded()

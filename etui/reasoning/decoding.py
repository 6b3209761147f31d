"""Open a prompt and decode tokens from it as text."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum

from etui.arm import Arm
from etui.engine.session import Sampled, Session, TokenSequence
from etui.engine.text_stream import TextStream
from etui.events import Answer, Event, Finished, Prefilled, Prefilling, Status
from etui.reasoning.context_fit import FittedPrompt
from etui.reasoning.control import BUDGET, Control


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
            rest=self._stream.remainder,
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


@dataclass(frozen=True, slots=True)
class Opened:
    """A prompt on its way into the cache.

    Attributes:
        sequence: The sequence that holds it.
        prompt: What was asked for.
        start_ns: When work on the answer began.
        end_ns: When the prefill ended, or was cancelled.
        first: The first token; None when the prefill was cancelled.
    """

    sequence: TokenSequence
    prompt: FittedPrompt
    start_ns: int
    end_ns: int
    first: Primed | None


def open_prompt(
    prompt: FittedPrompt,
    arm: Arm,
    session: Session,
    control: Control,
    start_ns: int,
    *,
    to_fork: bool = False,
) -> Generator[Event, None, Opened]:
    """Prefill the prompt; the sequence is the caller's to close.

    With ``to_fork`` the prompt's last token is left queued for each fork to compute itself. So
    every fork draws its own first token, on models that refuse to take a token back as well.
    """
    total = len(prompt.tokens)
    held = prompt.tokens[-1:] if to_fork and total > 1 else []
    sequence = session.open(prompt.tokens[: total - len(held)], arm.sampling)
    first = yield from prefill(session, sequence, control)
    if first is None:
        return Opened(sequence, prompt, start_ns, time.monotonic_ns(), None)
    if to_fork:
        if not first.next.ends:
            session.rollback(sequence, 1)
        session.extend(sequence, held)
    yield Prefilled(
        start_ns=start_ns,
        end_ns=first.at_ns,
        prompt_tokens=total,
        cached_tokens=sequence.cached,
        computed_tokens=total - sequence.cached,
        dropped_messages=prompt.dropped_messages,
        batch_tokens=session.facts.batch_tokens,
    )
    return Opened(sequence, prompt, start_ns, first.at_ns, first)


def finished(
    opened: Opened,
    thought: Decoded | None,
    reply: Decoded | None,
    *,
    status: Status,
    why: str,
) -> Finished:
    """The last event of an answer, from the runs of tokens it consists of."""
    runs = [run for run in (thought, reply) if run is not None]
    firsts = [run.first_ns for run in runs if run.first_ns is not None]
    lasts = [run.last_ns for run in runs if run.last_ns is not None]
    thinking_end_ns = opened.end_ns
    if thought is not None:
        followed = reply.first_ns if reply is not None else None
        thinking_end_ns = followed or thought.last_ns or opened.end_ns
    total = len(opened.prompt.tokens)
    cached = opened.sequence.cached
    computed = total - cached
    if opened.first is None:
        computed = max(0, len(opened.sequence.tokens) - opened.sequence.pending - cached)
    thinking_tokens = thought.tokens if thought else 0
    return Finished(
        start_ns=opened.start_ns,
        prefill_end_ns=opened.end_ns,
        thinking_end_ns=thinking_end_ns,
        end_ns=max([opened.end_ns, *lasts]),
        first_token_ns=firsts[0] if firsts else None,
        status=status,
        why=why,
        answer=reply.text.strip() if reply else "",
        thinking=thought.text.strip() if thought else "",
        prompt_tokens=opened.sequence.cached + computed,
        cached_tokens=opened.sequence.cached,
        computed_tokens=computed,
        thinking_tokens=thinking_tokens,
        output_tokens=thinking_tokens + (reply.tokens if reply else 0),
        confidence=mean_probability(reply),
    )


def how_reply_ended(reply: Decoded, arm: Arm) -> tuple[Status, str]:
    """Status and reason of an answer from the way its last run ended."""
    match reply.ending:
        case Ending.CANCELLED:
            return "stopped", "stopped while answering"
        case Ending.BUDGET:
            return "budget", f"{BUDGET} ended the answer after {reply.tokens} tokens"
        case Ending.LIMIT:
            limit = "max tokens" if reply.tokens >= arm.max_tokens else "the context"
            return "truncated", f"{limit} cut the answer after {reply.tokens} tokens"
        case _:
            return "complete", ""


def mean_probability(run: Decoded | None) -> float | None:
    """Geometric mean of the tokens' probabilities, 0..1; None without tokens."""
    if run is None or run.logprob_sum is None:
        return None
    return math.exp(run.logprob_sum / run.tokens)

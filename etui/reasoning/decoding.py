"""Prefill a prompt and decode its answer as text."""

from __future__ import annotations

import codecs
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from etui.arm import Arm
from etui.engine.session import (
    NO_TOKEN,
    LikelyToken,
    PromptScores,
    Sampled,
    Session,
    TokenSequence,
)
from etui.engine.special_tokens import TextStream
from etui.events import (
    Ended,
    Event,
    Finished,
    Prefilled,
    Prefilling,
    PromptTokens,
    Status,
    TokenLogprob,
    Verified,
)
from etui.reasoning.answer_plan import AnswerPlan
from etui.reasoning.choice_readout import LetterReading
from etui.reasoning.loop_guard import LoopGuard, Repetition, keep_first_round
from etui.units import count_text

_ECHOED_TOKENS = 256
"""Most tokens of the prompt in one event."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A token, and the characters of the text that it adds: from ``start`` to ``end``."""

    sampled: Sampled
    top: tuple[LikelyToken, ...]
    t_ns: int
    start: int
    end: int


class TokenLog:
    """Keeps each drawn token with its alternatives until its text is shown.

    Text is held back while it may begin a stop string, and a character until all its bytes are
    there. Tokens of a stop string are never shown, so they are never reported.
    """

    def __init__(
        self, session: Session, sequence: TokenSequence, count: int, index: int = 0
    ) -> None:
        self._session = session
        self._sequence = sequence
        self._count = count
        self._index = index
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoded = 0
        self._shown = 0
        self._waiting: deque[_Drawn] = deque()
        self._end: _Drawn | None = None

    def take_end(self, sampled: Sampled, t_ns: int) -> None:
        """Take the token that ends the answer, which has no text and is reported last."""
        top = self._session.top_logprobs(self._sequence, self._count) if self._count else ()
        self._end = _Drawn(replace(sampled, piece=b""), top, t_ns, self._decoded, self._decoded)

    def take(self, sampled: Sampled, t_ns: int) -> None:
        """Take a token of the answer, right after the step that drew it."""
        top = self._session.top_logprobs(self._sequence, self._count) if self._count else ()
        start = self._decoded
        self._decoded += len(self._decoder.decode(sampled.piece))
        self._waiting.append(_Drawn(sampled, top, t_ns, start, self._decoded))

    def show(self, text: str, *, last: bool = False) -> list[TokenLogprob]:
        """Return the tokens whose text is shown now; with ``last``, a part of it is enough."""
        self._shown += len(text)
        events: list[TokenLogprob] = []
        while self._waiting:
            drawn = self._waiting[0]
            begun = drawn.start < self._shown
            if not begun or (not last and drawn.end > self._shown):
                break
            events.append(self._build(self._waiting.popleft()))
        if last and self._end is not None:
            events.append(self._build(self._end))
        return events

    def _build(self, drawn: _Drawn) -> TokenLogprob:
        return TokenLogprob(
            t_ns=drawn.t_ns,
            piece=tuple(drawn.sampled.piece),
            logprob=drawn.sampled.logprob,
            top=tuple((tuple(each.piece), each.logprob) for each in drawn.top),
            index=self._index,
        )


BUDGET = "the budget"
"""Placeholder for the budget in a ``why`` text; the caller replaces it by the budget's name."""


class Control(Protocol):
    """Flags polled between tokens and between prefill batches; set from other threads."""

    def cancelled(self) -> bool:
        """Return whether the user stopped the answer, which then ends immediately."""

    def spent(self) -> bool:
        """Return whether a budget is spent, which ends the thinking so that the answer follows."""


class Ending(Enum):
    """Reasons for the end of a run of tokens."""

    TOKEN = "end token"
    TEXT = "stop string"
    LIMIT = "token limit"
    BUDGET = "energy budget"
    CONFIDENT = "confident answer"
    DEPTH = "depth"
    REPEATS = "repetition"
    CANCELLED = "cancelled"
    STUCK = "no token allowed"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One run of tokens."""

    text: str  # Text before the stop string, whole characters only; of a loop, its first round
    rest: str  # Text after the stop string, decoded with it; the next run starts with it
    tokens: int  # Number of decoded tokens, those of the stop string included
    ending: Ending  # Why the run ended
    stop: str | None  # The stop string that ended it; None if none did
    first_ns: int | None
    last_ns: int | None
    logprob_sum: float | None
    """Sum of the log-probabilities (nats) of the tokens in ``text``; None without tokens."""
    repetition: Repetition | None = None  # The loop that ended it; None if none did
    whole: str = ""  # The text with all rounds of the loop; empty without a loop
    saved_tokens: int = 0  # Tokens that a loop left unused of the run's limit
    letter: LetterReading | None = None  # The option read behind it; None if none was

    @property
    def kept_tokens(self) -> int:
        """Number of tokens in ``text``."""
        return self.tokens if self.repetition is None else self.repetition.kept_tokens


class Run:
    """The drawn tokens of one sequence: their text, their count, and when to stop.

    The caller steps the session and passes each drawn token in, so that many sequences can be
    decoded in one batch. The text starts with ``opening``. With ``logs_end`` the token that ends
    the answer is logged, for clients that count the tokens behind an echoed prompt.
    """

    def __init__(
        self,
        limit: int,
        stops: Sequence[str],
        opening: str = "",
        guard: LoopGuard | None = None,
        log: TokenLog | None = None,
        *,
        logs_end: bool = False,
        stream: TextStream | None = None,
    ) -> None:
        self.ending: Ending | None = Ending.LIMIT if limit <= 0 else None
        self.tokens = 0
        self._limit = limit
        self._stream = TextStream(stops) if stream is None else stream
        self._shown = [opening]
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._stops = tuple(stops)
        self._guard = guard
        self._log = log
        self._logs_end = logs_end
        self._pieces: list[bytes] = []
        self._logprobs: list[float] = []

    def take(self, sampled: Sampled, at_ns: int) -> str:
        """Take the token drawn at ``at_ns`` and return the text that is now final."""
        if self.ending is not None:
            raise ValueError(f"the run has ended: {self.ending.value}")
        if sampled.ends:
            if self._log is not None and self._logs_end and not sampled.stuck:
                self._log.take_end(sampled, at_ns)
            return self._finish(Ending.STUCK if sampled.stuck else Ending.TOKEN)
        self.tokens += 1
        self._first_ns, self._last_ns = self._first_ns or at_ns, at_ns
        self._logprobs.append(sampled.logprob)
        self._pieces.append(sampled.piece)
        if self._log is not None:
            self._log.take(sampled, at_ns)
        text = self._stream.push(sampled.piece)
        self._shown.append(text)
        if self._stream.stopped is not None:
            return text + self._finish(Ending.TEXT)
        if self._guard is not None and self._guard.take(sampled.token, sampled.piece) is not None:
            return text + self._finish(Ending.REPEATS)
        return text + self._finish(Ending.LIMIT) if self.tokens == self._limit else text

    def begin_with(self, piece: bytes) -> None:
        """Take the bytes of an unfinished character, which the next token completes."""
        self._stream.push(piece)

    def logprobs(self, text: str) -> list[TokenLogprob]:
        """Return the log-probabilities of the tokens that this new text shows."""
        if self._log is None:
            return []
        return self._log.show(text, last=self.ending is not None)

    def end(self, ending: Ending) -> str:
        """End the run early and return the text that was held back."""
        return "" if self.ending is not None else self._finish(ending)

    def _finish(self, ending: Ending) -> str:
        self.ending = ending
        tail = self._stream.finish()
        self._shown.append(tail)
        return tail

    def decoded(self) -> Decoded:
        """Return the result of the run, which must have ended."""
        assert self.ending is not None
        text, whole = "".join(self._shown), ""
        loop = self._guard.found if self._guard and self.ending is Ending.REPEATS else None
        kept = self.tokens
        if loop is not None:
            text, whole, kept = self._first_round(loop.kept_tokens), text, loop.kept_tokens
        return Decoded(
            text=text,
            rest=self._stream.remainder,
            tokens=self.tokens,
            ending=self.ending,
            stop=self._stream.stopped,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            logprob_sum=sum(self._logprobs[:kept]) if self.tokens else None,
            repetition=loop,
            whole=whole,
            saved_tokens=self._limit - self.tokens if loop is not None else 0,
        )

    def _first_round(self, kept: int) -> str:
        stream = TextStream(self._stops)
        text = [self._shown[0], *(stream.push(piece) for piece in self._pieces[:kept])]
        return keep_first_round("".join([*text, stream.finish()]))


def start_speculation(session: Session, sequence: TokenSequence, arm: Arm) -> str:
    """Let the arm's speculation begin after the prefill; return why it cannot, but for ``auto``."""
    if arm.speculate == "off":
        return ""
    refused = session.speculate(sequence, arm.speculate)
    return f"no speculation: {refused}" if refused and arm.speculate != "auto" else ""


def end_speculation(
    session: Session, sequence: TokenSequence, arm: Arm
) -> Generator[Verified, None, None]:
    """Drop what was drafted and not drawn; yield the verifications not yet reported."""
    if arm.speculate != "off":
        yield from session.settle(sequence)


@dataclass(frozen=True, slots=True)
class Opened:
    """A prompt after its prefill, which may have been cancelled."""

    sequence: TokenSequence
    plan: AnswerPlan
    end_ns: int  # End of the prefill, or its cancellation
    first: Sampled | None  # The token drawn after it; None if the prefill was cancelled


def run_prompt(
    plan: AnswerPlan,
    arm: Arm,
    session: Session,
    control: Control,
    decode: Callable[[Opened, Sampled], Iterator[Event]],
    *,
    to_fork: bool = False,
) -> Iterator[Event]:
    """Prefill the prompt, yield the events of ``decode``, and close the sequence.

    A grammar constrains an answer that begins right after the prompt. With ``to_fork`` the last
    token of the prompt stays queued, so that each fork computes it and draws its own first token.
    This also works on models that cannot roll back a token.
    """
    tokens = plan.prompt.tokens
    total = len(tokens)
    queued = tokens[-1:] if to_fork and total > 1 else []
    options = plan.output.options
    scores = PromptScores(tokens, options.top_logprobs or 0) if options.echo else None
    sequence = session.open(tokens[: total - len(queued)], arm.sampling, scores=scores)
    keep = False
    try:
        if plan.output.grammar is not None and plan.thinking is None and not to_fork:
            session.constrain(sequence, plan.output.grammar)
        keep = True
        if min(tokens) < NO_TOKEN:
            yield from session.encode(sequence, control.cancelled)
        opened = yield from _prefill(plan, session, sequence, control)
        if opened.first is None:
            why = "stopped while computing the prompt"
            yield build_finished(opened, None, None, status="stopped", why=why)
            return
        if to_fork:
            if not opened.first.ends:
                session.rollback(sequence, 1)
            session.extend(sequence, queued)
        yield Prefilled(
            start_ns=plan.start_ns,
            end_ns=opened.end_ns,
            prompt_tokens=total,
            cached_tokens=sequence.cached,
            computed_tokens=total - sequence.cached,
            dropped_messages=plan.prompt.dropped_messages,
            batch_tokens=session.facts.batch_tokens,
            recomputed_tokens=sequence.lost,
            recomputed_why=_explain_loss(session, sequence),
        )
        if scores is not None:
            for start in range(0, len(scores.found), _ECHOED_TOKENS):
                part = scores.found[start : start + _ECHOED_TOKENS]
                yield PromptTokens(opened.end_ns, tuple(part))
        yield from decode(opened, opened.first)
    finally:
        session.close(sequence, keep=keep)


def _explain_loss(session: Session, sequence: TokenSequence) -> str:
    """Say from where on tokens were computed again, and why; empty if none were."""
    if not sequence.lost:
        return ""
    source = "from a checkpoint" if sequence.cached else "from the beginning"
    return f"{source}: {session.facts.cache_limit}"


def _prefill(
    plan: AnswerPlan, session: Session, sequence: TokenSequence, control: Control
) -> Generator[Prefilling, None, Opened]:
    total = len(sequence.tokens)
    while not control.cancelled():
        step = session.step([sequence])
        if step.sampled:
            return Opened(sequence, plan, step.end_ns, step.sampled[0])
        yield Prefilling(step.end_ns, total - sequence.pending, total)
    return Opened(sequence, plan, time.monotonic_ns(), None)


def build_finished(
    opened: Opened,
    thought: Decoded | None,
    reply: Decoded | None,
    *,
    status: Status,
    why: str,
) -> Finished:
    """Build the last event of an answer from its runs of tokens."""
    runs = [run for run in (thought, reply) if run is not None]
    firsts = [run.first_ns for run in runs if run.first_ns is not None]
    lasts = [run.last_ns for run in runs if run.last_ns is not None]
    thinking_end_ns = opened.end_ns
    if thought is not None:
        followed = reply.first_ns if reply is not None else None
        thinking_end_ns = followed or thought.last_ns or opened.end_ns
    cached, output = opened.sequence.cached, opened.plan.output
    computed = len(opened.plan.prompt.tokens) - cached
    if opened.first is None:
        computed = max(0, len(opened.sequence.tokens) - opened.sequence.pending - cached)
    thinking_tokens = thought.tokens if thought else 0
    return Finished(
        start_ns=opened.plan.start_ns,
        prefill_end_ns=opened.end_ns,
        thinking_end_ns=thinking_end_ns,
        end_ns=max([opened.end_ns, *lasts]),
        first_token_ns=firsts[0] if firsts else None,
        status=status,
        why="; ".join(part for part in (output.note, why) if part),
        answer=reply.text.strip() if reply else "",
        thinking=thought.text.strip() if thought else "",
        ended=describe_loops(thought, reply),
        raw_answer=reply.whole.strip() if reply else "",
        raw_thinking=thought.whole.strip() if thought else "",
        saved_tokens=sum(run.saved_tokens for run in runs),
        prompt_tokens=cached + computed,
        cached_tokens=cached,
        computed_tokens=computed,
        thinking_tokens=thinking_tokens,
        output_tokens=thinking_tokens + (reply.tokens if reply else 0),
        confidence=mean_probability(reply),
        margin=reply.letter.margin if reply is not None and reply.letter is not None else None,
        stop=(reply.stop or "") if reply and reply.stop in output.options.stop else "",
    )


def describe_ending(reply: Decoded, arm: Arm) -> tuple[Status, str]:
    """Return the status of an answer and the reason for it, from the end of its last run."""
    match reply.ending:
        case Ending.CANCELLED:
            return "stopped", "stopped while answering"
        case Ending.BUDGET:
            return "budget", f"{BUDGET} ended the answer after {reply.tokens} tokens"
        case Ending.LIMIT:
            limit = "max tokens" if reply.tokens >= arm.max_tokens else "the context"
            status: Status = "truncated" if reply.letter is None else "complete"
            return status, f"{limit} cut off the answer after {reply.tokens} tokens"
        case Ending.STUCK:
            return "truncated", "the form of the answer allows no further token of this model"
        case Ending.REPEATS if reply.repetition is not None:
            return "complete", f"the answer {describe_repetition(reply.repetition, reply.tokens)}"
        case _:
            return "complete", ""


def describe_repetition(loop: Repetition, tokens: int) -> str:
    """Say what was found and what was done: ``repeats itself (7 tokens, 5.6 times), ...``."""
    period = count_text(loop.period_tokens, "token")
    return f"repeats itself ({period}, {loop.rounds:.1f} times), so it was ended after {tokens}"


def describe_loops(thought: Decoded | None, reply: Decoded | None) -> Ended:
    """Return which part of an answer was ended because it repeats itself; the answer counts."""
    if reply is not None and reply.repetition is not None:
        return "repeats"
    return "thinking_repeats" if thought is not None and thought.repetition is not None else ""


def mean_probability(run: Decoded | None) -> float | None:
    """Compute the geometric mean of the tokens' probabilities, or that of the letter behind."""
    if run is not None and run.letter is not None:
        return run.letter.best[1]
    if run is None or run.logprob_sum is None:
        return None
    return math.exp(run.logprob_sum / run.kept_tokens)

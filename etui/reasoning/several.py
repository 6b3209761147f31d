"""Several answers to one question, for a client that asks for more than one.

The prompt is computed once; each answer is a fork of it with a seed of its own, and those that fit
into the cache are decoded in one batch. Answer 0 is that of the turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import CacheFull, EtuiError
from etui.events import (
    Answer,
    Batch,
    Event,
    Status,
    Thought,
    TokenLogprob,
    Vote,
    VoteStatus,
)
from etui.reasoning.context_fit import LIKELY_ANSWER_TOKENS
from etui.reasoning.control import BUDGET, Control
from etui.reasoning.decoding import (
    Decoded,
    Ending,
    Opened,
    build_finished,
    describe_ending,
    describe_loops,
    open_prompt,
)
from etui.reasoning.output import Output
from etui.reasoning.thinking_run import ThinkingPlan, ThinkingRun
from etui.reasoning.tool_events import read_calls
from etui.reasoning.vote import plan_forks
from etui.units import count_text


def several(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    output: Output,
    count: int,
) -> Iterator[Event]:
    """Draw ``count`` answers, each with the arm's seed plus its number.

    ``Thought`` and ``Answer`` events report the tokens of all of them with an empty text. The text
    of each follows in its ``Vote`` when it ends, after the log-probabilities of its tokens.

    Yields:
        The events of the answers; the last is ``Finished``, with the text of answer 0.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    prompt, plan = plan_forks(messages, arm, session, output)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns, to_fork=True)
    try:
        if opened.first is None:
            why = "stopped while computing the prompt"
            yield build_finished(opened, None, None, status="stopped", why=why)
            return
        answers = _Answers(arm, session, plan, opened, output, count)
        yield from answers.run(control)
        yield from answers.close()
    finally:
        session.close(opened.sequence)


@dataclass(slots=True)
class _UnderWay:
    """An answer that is being decoded."""

    index: int
    run: ThinkingRun
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Ended:
    """An answer that has ended."""

    thought: Decoded | None
    reply: Decoded | None
    vote: Vote


class _Answers:
    """The answers to one question on one session."""

    def __init__(
        self,
        arm: Arm,
        session: Session,
        plan: ThinkingPlan,
        opened: Opened,
        output: Output,
        count: int,
    ) -> None:
        self._arm = arm
        self._session = session
        self._plan = plan
        self._opened = opened
        self._output = output
        self._base_tokens = len(opened.sequence.tokens) - opened.sequence.pending
        self._count = count
        self._waiting = deque(range(count))
        self._live: list[_UnderWay] = []
        self._ended: dict[int, _Ended] = {}
        self._cut: Status | None = None
        self._tokens: dict[type[Event], int] = {Thought: 0, Answer: 0}
        self._first_ns: int | None = None
        self._thinking_end_ns = self._end_ns = self._batches_end_ns = opened.end_ns

    def run(self, control: Control) -> Iterator[Event]:
        """Decode the answers until all have ended, or the user or a budget ends them."""
        try:
            while self._live or self._waiting:
                if control.cancelled():
                    self._cut = "stopped"
                    break
                if control.spent():
                    self._hurry()
                self._begin()
                yield from self._collect()
                if self._live:
                    yield from self._step()
                    yield from self._collect()
        finally:
            if self._cut == "stopped" or self._live:
                for each in self._live:
                    each.logprobs += _logprobs(each.run.cancel(self._end_ns))
                    self._session.close(each.run.sequence, keep=False)
        for each in self._live:
            yield from self._close_one(each, stopped=True)
        self._live.clear()

    def close(self) -> Iterator[Event]:
        """Yield the text of answer 0, and the final event."""
        first = self._ended.get(0)
        vote = first.vote if first is not None else None
        if vote is not None and vote.answer:
            yield Answer(self._end_ns, vote.answer, 0)
        status, why = self._describe()
        thinking, answer = self._tokens[Thought], self._tokens[Answer]
        thought = first.thought if first is not None else None
        reply = first.reply if first is not None else None
        yield replace(
            build_finished(self._opened, thought, reply, status=status, why=why),
            thinking_end_ns=self._thinking_end_ns,
            end_ns=self._end_ns,
            first_token_ns=self._first_ns,
            answer=vote.answer if vote is not None else "",
            tool_calls=vote.tool_calls if vote is not None else "",
            thinking_tokens=thinking,
            output_tokens=thinking + answer,
        )

    def _describe(self) -> tuple[Status, str]:
        ended = count_text(self._count, "answer")
        whole = sum(each.vote.status == "answered" for each in self._ended.values())
        if self._cut == "stopped":
            return "stopped", f"stopped after {whole} of {ended}"
        if self._cut == "budget":
            return "budget", f"{BUDGET} ended the answers after {whole} of {ended}"
        first = self._ended[0].reply
        return describe_ending(first, self._arm) if first is not None else ("complete", "")

    def _begin(self) -> None:
        while self._waiting and len(self._live) < self._arm.batch:
            if self._live and not self._has_room():
                return  # it waits for room; a smaller batch does not change its text
            index = self._waiting.popleft()
            sampling = self._arm.sampling
            seeded = replace(sampling, seed=(sampling.seed + index) % 2**32)
            sequence = self._session.fork(self._opened.sequence, seeded)
            try:
                run = ThinkingRun(self._session, sequence, self._plan, self._session.facts, index)
            except EtuiError:  # the grammar is refused
                self._session.close(sequence, keep=False)
                raise
            self._live.append(_UnderWay(index, run))

    def _has_room(self) -> bool:
        if self._session.free_sequences < 1:
            return False
        each = self._plan.think_tokens + len(self._plan.hand_over) + 1
        each += min(self._plan.answer_tokens, LIKELY_ANSWER_TOKENS)
        promised = sum(max(0, each - self._computed(other.run)) for other in self._live)
        return self._session.free_tokens - promised >= each

    def _computed(self, run: ThinkingRun) -> int:
        return len(run.sequence.tokens) - run.sequence.pending - self._base_tokens

    def _step(self) -> Iterator[Event]:
        try:
            step = self._session.step([each.run.sequence for each in self._live])
        except CacheFull:  # an answer took more room than was reserved for it
            if len(self._live) < 2:
                raise
            last = self._live.pop()
            self._session.close(last.run.sequence, keep=False)
            self._waiting.appendleft(last.index)  # its seed draws the same text later
            return
        live = {each.run.sequence.id: each for each in self._live}
        shares = tuple((live[id_].index, tokens) for id_, tokens in step.computed.items())
        if shares:
            yield Batch(self._batches_end_ns, step.end_ns, shares)
            self._batches_end_ns = step.end_ns
        new: dict[type[Event], int] = {Thought: 0, Answer: 0}
        for sampled in step.sampled:
            each = live[sampled.sequence_id]
            was_thinking = each.run.thinking
            for event in each.run.take(sampled, step.end_ns):
                if isinstance(event, TokenLogprob):
                    each.logprobs.append(event)
                else:
                    new[type(event)] += event.tokens
            if was_thinking:
                self._thinking_end_ns = step.end_ns
        self._end_ns = step.end_ns
        for kind, tokens in new.items():
            self._tokens[kind] += tokens
            if tokens:
                self._first_ns = self._first_ns or step.end_ns
                yield (Thought if kind is Thought else Answer)(step.end_ns, "", tokens)

    def _collect(self) -> Iterator[Event]:
        for each in [each for each in self._live if each.run.done]:
            self._live.remove(each)
            self._session.close(each.run.sequence, keep=False)
            yield from self._close_one(each, stopped=False)

    def _close_one(self, each: _UnderWay, *, stopped: bool) -> Iterator[Event]:
        thought, reply = each.run.thought, each.run.reply
        text, calls = read_calls(reply.text if reply is not None else "", self._output)
        vote = Vote(
            t_ns=self._end_ns,
            index=each.index,
            answer=text.strip(),
            thinking=thought.text.strip() if thought is not None else "",
            tokens=each.run.tokens,
            weight=0.0 if stopped else 1.0,
            status=_status(reply, stopped=stopped),
            ended=describe_loops(thought, reply),
            raw_answer=reply.whole.strip() if reply is not None else "",
            raw_thinking=thought.whole.strip() if thought is not None else "",
            tool_calls=calls,
        )
        self._ended[each.index] = _Ended(thought, reply, vote)
        yield from each.logprobs
        yield vote

    def _hurry(self) -> None:
        """End the thinking, or the answers, because the joules are spent; begin no others."""
        self._cut = "budget"
        least = 0 if self._ended or self._live else 1  # one token at least, as for one answer
        while len(self._waiting) > least:
            self._waiting.pop()
        for each in self._live:
            each.logprobs += _logprobs(each.run.hurry(self._end_ns))


def _status(reply: Decoded | None, *, stopped: bool) -> VoteStatus:
    if stopped:
        return "abandoned"
    cut = reply is not None and reply.ending in (Ending.LIMIT, Ending.BUDGET, Ending.STUCK)
    return "truncated" if cut else "answered"


def _logprobs(events: Sequence[Event]) -> list[TokenLogprob]:
    return [event for event in events if isinstance(event, TokenLogprob)]

"""Several answers to one question, for a client that asks for more than one.

The prompt is computed once; each answer is a fork of it with a seed of its own, and those that fit
into the cache are decoded in one batch. Answer 0 is that of the turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.events import (
    Answer,
    Event,
    Status,
    Thought,
    TokenLogprob,
    Vote,
    VoteStatus,
)
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
from etui.reasoning.forks import Fork, Forks, plan_forks
from etui.reasoning.output import Output
from etui.reasoning.thinking_run import ThinkingPlan
from etui.reasoning.tool_events import read_calls
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
        self._forks = Forks(count, arm, session, plan, opened)
        self._opened = opened
        self._output = output
        self._count = count
        self._ended: dict[int, _Ended] = {}
        self._cut: Status | None = None

    def run(self, control: Control) -> Iterator[Event]:
        """Decode the answers until all have ended, or the user or a budget ends them."""
        try:
            while self._forks.live or self._forks.waiting:
                if control.cancelled():
                    self._cut = "stopped"
                    break
                if control.spent():
                    self._hurry()
                while self._forks.begin():
                    pass
                yield from self._collect()
                if self._forks.live:
                    yield from self._forks.step()
                    yield from self._collect()
        finally:
            if self._cut == "stopped" or self._forks.live:
                for each in self._forks.live:
                    each.logprobs += _logprobs(each.run.cancel(self._forks.end_ns))
                    self._session.close(each.run.sequence, keep=False)
        for each in self._forks.live:
            yield from self._close_one(each, stopped=True)
        self._forks.live.clear()

    def close(self) -> Iterator[Event]:
        """Yield the text of answer 0, and the final event."""
        first = self._ended.get(0)
        vote = first.vote if first is not None else None
        if vote is not None and vote.answer:
            yield Answer(self._forks.end_ns, vote.answer, 0)
        status, why = self._describe()
        thinking, answer = self._forks.tokens[Thought], self._forks.tokens[Answer]
        thought = first.thought if first is not None else None
        reply = first.reply if first is not None else None
        yield replace(
            build_finished(self._opened, thought, reply, status=status, why=why),
            thinking_end_ns=self._forks.thinking_end_ns,
            end_ns=self._forks.end_ns,
            first_token_ns=self._forks.first_ns,
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

    def _collect(self) -> Iterator[Event]:
        for each in [each for each in self._forks.live if each.run.done]:
            self._forks.end(each)
            yield from self._close_one(each, stopped=False)

    def _close_one(self, each: Fork, *, stopped: bool) -> Iterator[Event]:
        thought, reply = each.run.thought, each.run.reply
        text, calls = read_calls(reply.text if reply is not None else "", self._output)
        vote = Vote(
            t_ns=self._forks.end_ns,
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
        least = 0 if self._ended or self._forks.live else 1  # one token at least, as for one answer
        while len(self._forks.waiting) > least:
            self._forks.waiting.pop()
        for each in self._forks.live:
            each.logprobs += _logprobs(each.run.hurry(self._forks.end_ns))


def _status(reply: Decoded | None, *, stopped: bool) -> VoteStatus:
    if stopped:
        return "abandoned"
    cut = reply is not None and reply.ending in (Ending.LIMIT, Ending.BUDGET, Ending.STUCK)
    return "truncated" if cut else "answered"


def _logprobs(events: Sequence[Event]) -> list[TokenLogprob]:
    return [event for event in events if isinstance(event, TokenLogprob)]

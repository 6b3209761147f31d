"""Answer a conversation with the reasoning method of an arm."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from etui.arm import Arm, TokenCost
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions
from etui.engine.session import Session
from etui.errors import UsageError
from etui.events import (
    Answer,
    Event,
    Finished,
    Status,
    TokenLogprob,
    Vote,
    VoteStatus,
)
from etui.multiple_choice import parse_options
from etui.reasoning.choice_readout import choices
from etui.reasoning.cot import chain_of_thought
from etui.reasoning.decoding import (
    BUDGET,
    Control,
    Decoded,
    Ending,
    Opened,
    build_finished,
    describe_ending,
    mean_probability,
    open_prompt,
)
from etui.reasoning.direct import direct
from etui.reasoning.extraction import extract
from etui.reasoning.output import PLAIN, Output, adapt_arm, build_output, is_plain
from etui.reasoning.parallel_answers import ParallelAnswer, ParallelAnswers, plan_answers
from etui.reasoning.tool_events import read_calls, separate_calls
from etui.reasoning.vote_count import Poll
from etui.units import count_text


class _Drawn(Protocol):
    """Several answers to one question; how many are drawn, and what the turn's answer is."""

    def run(self, control: Control) -> Iterator[Event]:
        """Decode the answers until all have ended, or the user or a budget ends them."""

    def close(self, opened: Opened) -> Iterator[Event]:
        """Yield the text of the turn's answer, and the final event."""


def _draw(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    output: Output,
    count: int,
) -> Iterator[Event]:
    """Draw several answers after one prefill, each with the arm's seed plus its number.

    ``Thought`` and ``Answer`` events report the tokens of all of them with an empty text. The text
    of each follows in its ``Vote``, after the log-probabilities of its tokens.

    Args:
        count: Number of answers, none of which is counted; 0 draws and counts the arm's votes.
    """
    start_ns = time.monotonic_ns()
    prompt, plan = plan_answers(messages, arm, session, output)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns, to_fork=True)
    try:
        if opened.first is None:
            why = "stopped while computing the prompt"
            yield build_finished(opened, None, None, status="stopped", why=why)
            return
        answers = ParallelAnswers(count or arm.votes, arm, session, plan, opened)
        drawn: _Drawn
        if count:
            drawn = _Several(answers, arm, session, output, count)
        else:
            drawn = _Election(answers, arm, messages[-1].content, number=output.number)
        yield from drawn.run(control)
        yield from drawn.close(opened)
    finally:
        session.close(opened.sequence)


class _Several:
    """The answers that a client asks for; that of the turn is answer 0."""

    def __init__(
        self, answers: ParallelAnswers, arm: Arm, session: Session, output: Output, count: int
    ) -> None:
        self._answers = answers
        self._arm = arm
        self._session = session
        self._output = output
        self._count = count
        self._ended: dict[int, tuple[Decoded | None, Decoded | None, Vote]] = {}
        self._cut: Status | None = None

    def run(self, control: Control) -> Iterator[Event]:
        answers = self._answers
        try:
            while answers.live or answers.waiting:
                if control.cancelled():
                    self._cut = "stopped"
                    break
                if control.spent():
                    self._end_thinking()
                while answers.begin():
                    pass
                yield from self._collect()
                if answers.live:
                    yield from answers.step()
                    yield from self._collect()
        finally:
            for each in answers.live:
                each.logprobs += _logprobs(each.run.cancel(answers.end_ns))
                self._session.close(each.run.sequence, keep=False)
        for each in answers.live:
            yield from self._close_one(each, stopped=True)
        answers.live.clear()

    def close(self, opened: Opened) -> Iterator[Event]:
        thought, reply, vote = self._ended.get(0, (None, None, None))
        if vote is not None and vote.answer:
            yield Answer(self._answers.end_ns, vote.answer, 0)
        status, why = self._describe()
        yield replace(
            build_finished(opened, thought, reply, status=status, why=why),
            **self._answers.totals(),
            answer=vote.answer if vote is not None else "",
            tool_calls=vote.tool_calls if vote is not None else "",
        )

    def _describe(self) -> tuple[Status, str]:
        ended = count_text(self._count, "answer")
        whole = sum(vote.status == "answered" for _, _, vote in self._ended.values())
        if self._cut == "stopped":
            return "stopped", f"stopped after {whole} of {ended}"
        if self._cut == "budget":
            return "budget", f"{BUDGET} ended the answers after {whole} of {ended}"
        first = self._ended[0][1]
        return describe_ending(first, self._arm) if first is not None else ("complete", "")

    def _collect(self) -> Iterator[Event]:
        for each in [each for each in self._answers.live if each.run.done]:
            self._answers.end(each)
            yield from self._close_one(each, stopped=False)

    def _close_one(self, each: ParallelAnswer, *, stopped: bool) -> Iterator[Event]:
        vote, reply = each.build_vote(self._answers.end_ns), each.run.reply
        text, calls = read_calls(reply.text if reply is not None else "", self._output)
        vote = replace(vote, answer=text.strip(), tool_calls=calls)
        if not stopped:
            vote = replace(vote, weight=1.0, status=_status(reply))
        self._ended[each.index] = each.run.thought, reply, vote
        yield from each.logprobs
        yield vote

    def _end_thinking(self) -> None:
        """End the thinking, or the answers, because the joules are spent; begin no others."""
        self._cut = "budget"
        waiting = self._answers.waiting
        least = 0 if self._ended or self._answers.live else 1  # at least one, as for one answer
        while len(waiting) > least:
            waiting.pop()
        for each in self._answers.live:
            each.logprobs += _logprobs(each.run.end_thinking(self._answers.end_ns))


def _status(reply: Decoded | None) -> VoteStatus:
    cut = reply is not None and reply.ending in (Ending.LIMIT, Ending.BUDGET, Ending.STUCK)
    return "truncated" if cut else "answered"


def _logprobs(events: Sequence[Event]) -> list[TokenLogprob]:
    return [event for event in events if isinstance(event, TokenLogprob)]


class _Election:
    """The votes of one question; the turn's answer is that of the first vote for the winner."""

    def __init__(self, answers: ParallelAnswers, arm: Arm, question: str, *, number: bool) -> None:
        self._answers = answers
        self._arm = arm
        self._question = question
        self._options = () if number else parse_options(question)
        self._number = number
        self._poll = Poll(arm)
        self._ended: Status = "complete"
        self._cut_off = 0
        self._looped = 0
        self._saved_tokens = 0

    def run(self, control: Control) -> Iterator[Event]:
        answers, poll = self._answers, self._poll
        try:
            while True:
                if control.cancelled():
                    self._ended = "stopped"
                elif control.spent():
                    yield from self._end_thinking()
                if self._ended == "complete" and not poll.decided:
                    while poll.wants_another(len(answers.live)) and answers.begin():
                        pass
                if self._ended == "stopped" or poll.decided or not answers.live:
                    break
                yield from answers.step()
                yield from self._count_ended()
        finally:
            abandoned = [self._abandon(each) for each in list(answers.live)]
        if self._ended != "complete":
            yield from self._dated(poll.count_all())
        for vote in self._dated(poll.uncounted):
            yield replace(vote, status="uncounted")
        yield from abandoned

    def close(self, opened: Opened) -> Iterator[Event]:
        winner, state = self._poll.winner, self._poll.tally
        if winner is not None and winner.answer:
            yield Answer(self._answers.end_ns, winner.answer, 0)
        status = self._ended
        if status == "complete" and winner is not None and winner.status == "truncated":
            status = "truncated"
        started = self._arm.votes - len(self._answers.waiting)
        why = self._poll.why(started, self._cut_off, self._looped)
        if status in ("stopped", "budget"):
            by = f"{BUDGET} ended the vote" if status == "budget" else "stopped"
            why = f"{by} after {state.count} of {self._arm.votes} votes; {why}"
        silent = state.key is None
        yield replace(
            build_finished(opened, None, None, status=status, why=why),
            **self._answers.totals(),
            answer=winner.answer if winner else "",
            thinking=winner.thinking if winner else "",
            ended=winner.ended if winner else "",
            raw_answer=winner.raw_answer if winner else "",
            raw_thinking=winner.raw_thinking if winner else "",
            saved_tokens=self._saved_tokens,
            confidence=None if silent else state.agreement,
            margin=None if silent else (state.leader - state.second) / (state.total or 1.0),
        )

    def _count_ended(self) -> Iterator[Vote]:
        for each in [each for each in self._answers.live if each.run.done]:
            yield from self._dated(self._poll.add(self._build_vote(each)))

    def _build_vote(self, each: ParallelAnswer) -> Vote:
        self._answers.end(each)
        reply = each.run.reply
        assert reply is not None
        found = extract(
            reply.text,
            self._question,
            self._options,
            truncated=reply.ending in (Ending.LIMIT, Ending.BUDGET),
            number=self._number,
        )
        weight = 1.0 if self._arm.weight == "none" else mean_probability(reply) or 0.0
        vote = each.build_vote(self._answers.end_ns)
        self._looped += bool(vote.ended)
        self._saved_tokens += vote.saved_tokens
        return replace(vote, weight=weight, choice=found.key, status=found.status)

    def _end_thinking(self) -> Iterator[Event]:
        """End the vote because the joules are spent: count what has ended, or finish one vote."""
        if self._ended != "budget":
            self._ended = "budget"
            enough = any(vote.choice for vote in (*self._poll.counted, *self._poll.uncounted))
            for each in self._answers.live[0 if enough else 1 :]:
                yield self._abandon(each)
        for each in self._answers.live:
            each.run.end_thinking(self._answers.end_ns)
        yield from self._count_ended()

    def _abandon(self, each: ParallelAnswer) -> Vote:
        self._cut_off += 1
        each.run.cancel(self._answers.end_ns)
        self._answers.end(each)
        return each.build_vote(self._answers.end_ns)

    def _dated(self, votes: Iterable[Vote]) -> Iterator[Vote]:
        return (replace(vote, t_ns=self._answers.end_ns) for vote in votes)


def answer(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None = None,
    options: OutputOptions = DEFAULT_OUTPUT,
) -> Iterator[Event]:
    """Answer the last message of a conversation.

    Args:
        arm: How to answer; its model is the session's.
        session: The loaded model.
        control: Polled between tokens and between prefill batches.
        price: Energy cost of tokens, which limits the thinking; None if unknown.
        options: What is asked of the form of the answer. An arm that cannot keep to it answers
            directly, and ``Finished.why`` says so.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
        InvalidRequest: The model cannot answer in the form asked for.
        UsageError: The reasoning method of the arm is unknown.
    """
    if is_plain(options, messages):
        yield from _answer(messages, arm, session, control, price, PLAIN)
        return
    arm, note = adapt_arm(arm, options, session.facts, messages)
    output = build_output(options, arm, session.facts, messages)
    if options.count > 1:
        events = _draw(messages, arm, session, control, output, options.count)
    else:
        events = _answer(messages, arm, session, control, price, output)
        if output.tool_format:
            events = separate_calls(events, output)
    for event in events:
        if note and isinstance(event, Finished):
            event = replace(event, why="; ".join(part for part in (note, event.why) if part))
        yield event


def _answer(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None,
    output: Output,
) -> Iterator[Event]:
    match arm.reasoning:
        case "direct" if arm.readout == "choices":
            yield from choices(messages, arm, session, control, output)
        case "direct":
            yield from direct(messages, arm, session, control, output)
        case "cot":
            yield from chain_of_thought(messages, arm, session, control, price, output)
        case "vote":
            yield from _draw(messages, arm, session, control, output, 0)
        case other:
            raise UsageError(
                f"arm {arm.name!r} has the reasoning method {other!r}, which etui does not support",
                "use direct, cot or vote",
            )

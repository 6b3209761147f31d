"""Answer a conversation with the reasoning method of an arm."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm, TokenCost
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions
from etui.engine.session import Session
from etui.errors import UsageError
from etui.events import (
    Answer,
    Event,
    Finished,
    Status,
    Thought,
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
    describe_loops,
    open_prompt,
)
from etui.reasoning.direct import direct
from etui.reasoning.forks import Fork, Forks, plan_forks
from etui.reasoning.output import PLAIN, Output, adapt_arm, build_output, is_plain
from etui.reasoning.thinking_run import ThinkingPlan
from etui.reasoning.tool_events import read_calls, separate_calls
from etui.reasoning.vote_count import Ballot, Poll, build_abandoned_vote, build_ballot
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


def vote(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    output: Output = PLAIN,
) -> Iterator[Event]:
    """Draw up to ``arm.votes`` answers and return the most frequent one.

    Each vote thinks within ``arm.think_tokens`` (0 answers directly) and answers within
    ``arm.max_tokens``. The answer shown is that of the first vote for the winner.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    question = messages[-1].content
    prompt, plan = plan_forks(messages, arm, session, output)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns, to_fork=True)
    try:
        if opened.first is None:
            why = "stopped while computing the prompt"
            yield build_finished(opened, None, None, status="stopped", why=why)
            return
        election = _Election(question, arm, session, plan, opened, number=output.number)
        yield from election.run(control)
        yield from election.close(opened)
    finally:
        session.close(opened.sequence)


class _Election:
    """The votes of one question on one session."""

    def __init__(
        self,
        question: str,
        arm: Arm,
        session: Session,
        plan: ThinkingPlan,
        opened: Opened,
        *,
        number: bool,
    ) -> None:
        self._question = question
        self._options = () if number else parse_options(question)
        self._number = number
        self._arm = arm
        self._forks = Forks(arm.votes, arm, session, plan, opened)
        self._poll = Poll(arm)
        self._ended: Status = "complete"
        self._hurried = False
        self._cut_off = 0
        self._looped = 0
        self._saved_tokens = 0

    def run(self, control: Control) -> Iterator[Event]:
        """Decode votes until the count is decided, or the user or a budget ends it."""
        try:
            while True:
                if control.cancelled():
                    self._ended = "stopped"
                elif control.spent():
                    yield from self._hurry()
                if self._ended == "complete" and not self._poll.decided:
                    self._begin_votes()
                if self._ended == "stopped" or self._poll.decided or not self._forks.live:
                    break
                yield from self._step()
        finally:
            abandoned = [self._abandon(each) for each in list(self._forks.live)]
        if self._ended != "complete":
            yield from self._build_events(self._poll.count_all())
        for event in self._build_events(self._poll.uncounted):
            yield replace(event, status="uncounted")
        yield from abandoned

    def close(self, opened: Opened) -> Iterator[Event]:
        """Yield the winner's answer and the final event."""
        winner, state = self._poll.winner, self._poll.tally
        if winner is not None and winner.answer:
            yield Answer(self._forks.end_ns, winner.answer, 0)
        status = self._ended
        if status == "complete" and winner is not None and winner.extracted.status == "truncated":
            status = "truncated"
        started = self._arm.votes - len(self._forks.waiting)
        why = self._poll.why(started, self._cut_off, self._looped)
        if status in ("stopped", "budget"):
            by = f"{BUDGET} ended the vote" if status == "budget" else "stopped"
            why = f"{by} after {state.count} of {self._arm.votes} votes; {why}"
        silent = state.key is None
        thinking, answer = self._forks.tokens[Thought], self._forks.tokens[Answer]
        yield replace(
            build_finished(opened, None, None, status=status, why=why),
            thinking_end_ns=self._forks.thinking_end_ns,
            end_ns=self._forks.end_ns,
            first_token_ns=self._forks.first_ns,
            answer=winner.answer if winner else "",
            thinking=winner.thinking if winner else "",
            ended=winner.ended if winner else "",
            raw_answer=winner.raw_answer if winner else "",
            raw_thinking=winner.raw_thinking if winner else "",
            saved_tokens=self._saved_tokens,
            thinking_tokens=thinking,
            output_tokens=thinking + answer,
            confidence=None if silent else state.agreement,
            margin=None if silent else (state.leader - state.second) / (state.total or 1.0),
        )

    def _begin_votes(self) -> None:
        while self._poll.wants_another(len(self._forks.live)) and self._forks.begin():
            pass

    def _step(self) -> Iterator[Event]:
        yield from self._forks.step()
        for fork in list(self._forks.live):
            if fork.run.done:
                yield from self._build_events(self._poll.add(self._ballot(fork)))

    def _ballot(self, vote: Fork) -> Ballot:
        self._forks.end(vote)
        ballot = build_ballot(
            vote.index,
            vote.run,
            self._question,
            self._options,
            self._arm.weight,
            number=self._number,
        )
        self._looped += bool(ballot.ended)
        self._saved_tokens += ballot.saved_tokens
        return ballot

    def _hurry(self) -> Iterator[Event]:
        """End the vote because the joules are spent: count what has ended, or finish one vote."""
        self._ended = "budget"
        if not self._hurried:
            self._hurried = True
            enough = any(b.cast.key for b in (*self._poll.counted, *self._poll.uncounted))
            for vote in self._forks.live[0 if enough else 1 :]:
                yield self._abandon(vote)
        for vote in list(self._forks.live):
            vote.run.hurry(self._forks.end_ns)
            if vote.run.done:
                yield from self._build_events(self._poll.add(self._ballot(vote)))

    def _abandon(self, vote: Fork) -> Vote:
        self._cut_off += 1
        vote.run.cancel(self._forks.end_ns)
        self._forks.end(vote)
        return build_abandoned_vote(vote.index, vote.run, self._forks.end_ns)

    def _build_events(self, ballots: Iterable[Ballot]) -> Iterator[Vote]:
        return (ballot.event(self._forks.end_ns) for ballot in ballots)


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
        events = several(messages, arm, session, control, output, options.count)
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
            yield from vote(messages, arm, session, control, output)
        case other:
            raise UsageError(
                f"arm {arm.name!r} has the reasoning method {other!r}, which etui does not support",
                "use direct, cot or vote",
            )

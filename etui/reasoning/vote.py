"""Majority vote: several answers after one prefill, decoded in one batch, until enough agree.

The prompt is computed once and shared; each vote is a fork of it with its own seed. Votes run in
parallel, because the sequences of a batch share each read of the weights; when a vote ends, the
next one takes its place.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import CacheFull
from etui.events import Answer, Batch, Event, Status, Thought, TokenLogprob, Vote
from etui.multiple_choice import parse_options
from etui.reasoning.ballot import Ballot, build_abandoned_vote, build_ballot
from etui.reasoning.context_fit import LIKELY_ANSWER_TOKENS, FittedPrompt
from etui.reasoning.control import BUDGET, Control
from etui.reasoning.cot import thinking_prompt
from etui.reasoning.decoding import Opened, build_finished, open_prompt
from etui.reasoning.direct import answer_prompt
from etui.reasoning.loop_guard import build_guard
from etui.reasoning.output import PLAIN, Output
from etui.reasoning.prompts import build_thinking, choose_style
from etui.reasoning.thinking_run import ThinkingPlan, ThinkingRun, build_plan
from etui.reasoning.vote_count import Poll


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
        election = _Election(question, arm, session, plan, opened)
        yield from election.run(control)
        yield from election.close(opened)
    finally:
        session.close(opened.sequence)


def plan_forks(
    messages: Sequence[Message], arm: Arm, session: Session, output: Output
) -> tuple[FittedPrompt, ThinkingPlan]:
    """Build the prompt that several answers share, and the plan of each.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    facts = session.facts
    question = messages[-1].content
    if arm.reasoning != "direct" and arm.think_tokens:
        thinking = build_thinking(choose_style(arm, facts), facts)
        hand_over = session.tokenize(thinking.hand_over)
        prompt = thinking_prompt(messages, arm, session, thinking, len(hand_over), output)
        own = build_plan(arm, facts, len(prompt.tokens), thinking, hand_over, question, output)
        return prompt, own
    prompt = answer_prompt(messages, arm, session, output)
    room = facts.context_tokens - len(prompt.tokens)
    guard = partial(build_guard, arm, question)
    return prompt, ThinkingPlan(None, 0, min(arm.max_tokens, room), guard=guard, output=output)


@dataclass(slots=True)
class _UnderWay:
    """A running vote."""

    index: int
    trace: ThinkingRun


class _Election:
    """The votes of one question on one session."""

    def __init__(
        self, question: str, arm: Arm, session: Session, plan: ThinkingPlan, opened: Opened
    ) -> None:
        self._question = question
        self._options = parse_options(question)
        self._arm = arm
        self._session = session
        self._plan = plan
        self._base = opened.sequence
        self._base_tokens = len(self._base.tokens) - self._base.pending
        self._waiting = deque(range(arm.votes))
        self._live: list[_UnderWay] = []
        self._poll = Poll(arm)
        self._ended: Status = "complete"
        self._hurried = False
        self._cut_off = 0
        self._looped = 0
        self._saved_tokens = 0
        self._tokens: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        self._first_ns: int | None = None
        self._thinking_end_ns = self._end_ns = self._batches_end_ns = opened.end_ns

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
                if self._ended == "stopped" or self._poll.decided or not self._live:
                    break
                yield from self._step()
        finally:
            abandoned = [self._abandon(each) for each in list(self._live)]
        if self._ended != "complete":
            yield from self._build_events(self._poll.count_all())
        for event in self._build_events(self._poll.uncounted):
            yield replace(event, status="uncounted")
        yield from abandoned

    def close(self, opened: Opened) -> Iterator[Event]:
        """Yield the winner's answer and the final event."""
        winner, state = self._poll.winner, self._poll.tally
        if winner is not None and winner.answer:
            yield Answer(self._end_ns, winner.answer, 0)
        status = self._ended
        if status == "complete" and winner is not None and winner.extracted.status == "truncated":
            status = "truncated"
        started = self._arm.votes - len(self._waiting)
        why = self._poll.why(started, self._cut_off, self._looped)
        if status in ("stopped", "budget"):
            by = f"{BUDGET} ended the vote" if status == "budget" else "stopped"
            why = f"{by} after {state.count} of {self._arm.votes} votes; {why}"
        silent = state.key is None
        thinking, answer = self._tokens[Thought], self._tokens[Answer]
        yield replace(
            build_finished(opened, None, None, status=status, why=why),
            thinking_end_ns=self._thinking_end_ns,
            end_ns=self._end_ns,
            first_token_ns=self._first_ns,
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
        while self._waiting and len(self._live) < self._arm.batch:
            if not self._poll.wants_another(len(self._live)):
                return
            if self._live and not self._has_room():
                return  # the vote waits for room; a smaller batch does not change its result
            index = self._waiting.popleft()
            sampling = self._arm.sampling
            seeded = replace(sampling, seed=(sampling.seed + index) % 2**32)
            sequence = self._session.fork(self._base, seeded)
            trace = ThinkingRun(self._session, sequence, self._plan, self._session.facts)
            self._live.append(_UnderWay(index, trace))

    def _has_room(self) -> bool:
        if self._session.free_sequences < 1:
            return False
        each = self._plan.think_tokens + len(self._plan.hand_over) + 1
        each += min(self._plan.answer_tokens, LIKELY_ANSWER_TOKENS)
        promised = sum(max(0, each - self._computed(vote.trace)) for vote in self._live)
        return self._session.free_tokens - promised >= each

    def _computed(self, trace: ThinkingRun) -> int:
        return len(trace.sequence.tokens) - trace.sequence.pending - self._base_tokens

    def _step(self) -> Iterator[Event]:
        try:
            step = self._session.step([vote.trace.sequence for vote in self._live])
        except CacheFull:  # an answer took more room than was reserved for it
            if len(self._live) < 2:
                raise
            self._requeue(self._live[-1])
            return
        live = {vote.trace.sequence.id: vote for vote in self._live}
        shares = tuple((live[id_].index, count) for id_, count in step.computed.items())
        if shares:
            yield Batch(self._batches_end_ns, step.end_ns, shares)
            self._batches_end_ns = step.end_ns
        new: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        for sampled in step.sampled:
            vote = live[sampled.sequence_id]
            was_thinking = vote.trace.thinking
            for event in vote.trace.take(sampled, step.end_ns):
                if not isinstance(event, TokenLogprob):
                    new[type(event)] += event.tokens
            if was_thinking:
                self._thinking_end_ns = step.end_ns
        self._end_ns = step.end_ns
        for kind, tokens in new.items():
            self._tokens[kind] += tokens
            if tokens:
                self._first_ns = self._first_ns or step.end_ns
                yield kind(step.end_ns, "", tokens)
        for vote in list(self._live):
            if vote.trace.done:
                yield from self._build_events(self._poll.add(self._ballot(vote)))

    def _ballot(self, vote: _UnderWay) -> Ballot:
        self._live.remove(vote)
        self._session.close(vote.trace.sequence, keep=False)
        ballot = build_ballot(
            vote.index, vote.trace, self._question, self._options, self._arm.weight
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
            for vote in self._live[0 if enough else 1 :]:
                yield self._abandon(vote)
        for vote in list(self._live):
            vote.trace.hurry(self._end_ns)
            if vote.trace.done:
                yield from self._build_events(self._poll.add(self._ballot(vote)))

    def _abandon(self, vote: _UnderWay) -> Vote:
        self._live.remove(vote)
        self._cut_off += 1
        vote.trace.cancel(self._end_ns)
        self._session.close(vote.trace.sequence, keep=False)
        return build_abandoned_vote(vote.index, vote.trace, self._end_ns)

    def _requeue(self, vote: _UnderWay) -> None:
        """Free a vote's cache and queue it again; its seed reproduces the same vote later."""
        self._live.remove(vote)
        self._session.close(vote.trace.sequence, keep=False)
        self._waiting.appendleft(vote.index)

    def _build_events(self, ballots: Iterable[Ballot]) -> Iterator[Vote]:
        return (ballot.event(self._end_ns) for ballot in ballots)

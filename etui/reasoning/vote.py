"""Majority vote: several answers after one prefill, decoded in one batch, until enough agree.

The prompt is computed once and shared; each vote is a fork of it with its own seed. Votes run in
parallel, because the sequences of a batch share each read of the weights; when a vote ends, the
next one takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.events import Answer, Event, Status, Thought, Vote
from etui.multiple_choice import parse_options
from etui.reasoning.ballot import Ballot, build_abandoned_vote, build_ballot
from etui.reasoning.control import BUDGET, Control
from etui.reasoning.decoding import Opened, build_finished, open_prompt
from etui.reasoning.forks import Fork, Forks, plan_forks
from etui.reasoning.output import PLAIN, Output
from etui.reasoning.thinking_run import ThinkingPlan
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

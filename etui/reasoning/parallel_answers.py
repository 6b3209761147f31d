"""Several answers after one prefill: forks of its prompt, decoded in one batch.

``Thought`` and ``Answer`` events report the tokens of all of them with an empty text. The text of
each follows in its ``Vote``, after the log-probabilities of its tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Sampled, Session
from etui.errors import CacheFull
from etui.events import (
    Answer,
    Batch,
    Event,
    Finished,
    Status,
    Thought,
    TokenLogprob,
    Vote,
    VoteStatus,
)
from etui.multiple_choice import parse_options
from etui.reasoning.answer_plan import LIKELY_ANSWER_TOKENS, plan_answer
from etui.reasoning.cot import ThinkingRun
from etui.reasoning.decoding import (
    BUDGET,
    Control,
    Decoded,
    Ending,
    Opened,
    build_finished,
    describe_ending,
    describe_loops,
    mean_probability,
    run_prompt,
)
from etui.reasoning.extraction import extract
from etui.reasoning.output import Output
from etui.reasoning.tool_events import read_calls
from etui.reasoning.vote_count import Poll
from etui.units import count_text


def draw_answers(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    output: Output,
    count: int,
) -> Iterator[Event]:
    """Draw several answers after one prefill, each with the arm's seed plus its number.

    A ``count`` of 1 draws and counts the arm's votes; else none is counted.
    """
    plan = plan_answer(messages, arm, session, output)

    def decode(opened: Opened, _: Sampled) -> Iterator[Event]:
        drawn: _ParallelAnswers
        if count > 1:
            drawn = _Several(arm, session, opened, count)
        else:
            drawn = _Election(arm, session, opened, messages[-1].content)
        yield from drawn.run(control)
        yield drawn.finish()

    yield from run_prompt(plan, arm, session, control, decode, to_fork=True)


@dataclass(slots=True)
class _ParallelAnswer:
    index: int  # Its number, from 0; its seed is the arm's plus this
    run: ThinkingRun
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Log-probabilities of its tokens, if the client asks for them."""

    def keep_logprobs(self, events: Iterable[Event]) -> None:
        self.logprobs += [event for event in events if isinstance(event, TokenLogprob)]

    def build_vote(self, t_ns: int) -> Vote:
        """Build the event with its text so far; its weight is 0 until it is counted."""
        thought, reply = self.run.thought, self.run.reply
        runs = [run for run in (thought, reply) if run is not None]
        return Vote(
            t_ns=t_ns,
            index=self.index,
            answer=reply.text.strip() if reply else "",
            thinking=thought.text.strip() if thought else "",
            tokens=self.run.tokens,
            weight=0.0,
            status="abandoned",
            ended=describe_loops(thought, reply),
            raw_answer=reply.whole.strip() if reply else "",
            raw_thinking=thought.whole.strip() if thought else "",
            saved_tokens=sum(run.saved_tokens for run in runs),
        )


class _ParallelAnswers(ABC):
    """The answers to one question on one session, as many in a batch as fit into the cache.

    Args:
        opened: The prompt after its prefill; its last token is queued.

    Attributes:
        waiting: Numbers of the answers that have not begun.
        live: Those that are being decoded.
        cut: What ended them early; None as long as nothing did.
        decided: Whether the running answers are not needed any more.
        broken_off: Number of answers that were ended while they were decoded.
        end_ns: End of the last batch.
    """

    def __init__(self, arm: Arm, session: Session, opened: Opened, count: int) -> None:
        self.arm = arm
        self.opened = opened
        self.waiting = deque(range(count))
        self.live: list[_ParallelAnswer] = []
        self.cut: Status | None = None
        self.decided = False
        self.broken_off = 0
        self.end_ns = self._thinking_end_ns = self._batches_end_ns = opened.end_ns
        self._session = session
        self._plan = opened.plan
        self._base_tokens = len(opened.sequence.tokens) - opened.sequence.pending
        self._tokens: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        self._first_ns: int | None = None

    def run(self, control: Control) -> Iterator[Event]:
        try:
            while True:
                if control.cancelled():
                    self.cut = "stopped"
                    break
                if control.spent():
                    yield from self.end_early()
                    yield from self._collect()
                while self.wants_another() and self._begin():
                    pass
                if self.decided or not self.live:
                    break
                yield from self._step()
                yield from self._collect()
        finally:
            broken = list(self.live)
            for each in broken:
                self.break_off(each)
        yield from self.count_broken(broken)

    def _collect(self) -> Iterator[Event]:
        for each in [each for each in self.live if each.run.done]:
            self.remove(each)
            yield from self.count(each)

    def finish(self) -> Finished:
        """Build the final event; the turn's answer is that of one of the answers."""
        thinking, answer = self._tokens[Thought], self._tokens[Answer]
        return replace(
            self.build_end(),
            thinking_end_ns=self._thinking_end_ns,
            end_ns=self.end_ns,
            first_token_ns=self._first_ns,
            thinking_tokens=thinking,
            output_tokens=thinking + answer,
        )

    @abstractmethod
    def wants_another(self) -> bool:
        """Return whether one more answer is to begin."""

    @abstractmethod
    def count(self, each: _ParallelAnswer) -> Iterator[Event]:
        """Yield what follows from an answer that has ended."""

    @abstractmethod
    def count_broken(self, broken: Sequence[_ParallelAnswer]) -> Iterator[Event]:
        """Yield what follows from the answers that were broken off, and the text of the turn."""

    @abstractmethod
    def end_early(self) -> Iterator[Event]:
        """End the thinking, or the answers, because the joules are spent; begin no others."""

    @abstractmethod
    def build_end(self) -> Finished:
        """Build the final event without the times and tokens of all answers."""

    def remove(self, each: _ParallelAnswer) -> None:
        self.live.remove(each)
        self._session.close(each.run.sequence, keep=False)

    def break_off(self, each: _ParallelAnswer) -> None:
        self.broken_off += 1
        each.keep_logprobs(each.run.cancel(self.end_ns))
        self.remove(each)

    def _begin(self) -> bool:
        """Begin the next answer; return False if none waits, or there is no room for it now.

        One that waits for room is not changed by it: a smaller batch draws the same text.
        """
        if not self.waiting or len(self.live) >= self.arm.batch:
            return False
        if self.live and not self._has_room():
            return False
        index = self.waiting.popleft()
        sampling = self.arm.sampling
        seeded = replace(sampling, seed=(sampling.seed + index) % 2**32)
        sequence = self._session.fork(self.opened.sequence, seeded)
        each = _ParallelAnswer(index, ThinkingRun(self._session, sequence, self._plan, index))
        self.live.append(each)
        if self._plan.thinking is None and self._plan.output.grammar is not None:
            self._session.constrain(sequence, self._plan.output.grammar)
        return True

    def _has_room(self) -> bool:
        if self._session.free_sequences < 1:
            return False
        most = self._plan.think_tokens + len(self._plan.hand_over) + 1
        most += min(self._plan.answer_tokens, LIKELY_ANSWER_TOKENS)
        most += 0 if self._plan.letter is None else self._plan.letter.most_tokens
        promised = sum(max(0, most - self._computed(each.run)) for each in self.live)
        return self._session.free_tokens - promised >= most

    def _computed(self, run: ThinkingRun) -> int:
        return len(run.sequence.tokens) - run.sequence.pending - self._base_tokens

    def _step(self) -> Iterator[Batch | Thought | Answer]:
        """Decode one batch; yield its shares, and the numbers of its tokens by kind."""
        try:
            step = self._session.step([each.run.sequence for each in self.live])
        except CacheFull:  # an answer took more room than was reserved for it
            if len(self.live) < 2:
                raise
            last = self.live[-1]
            self.remove(last)
            self.waiting.appendleft(last.index)  # its seed draws the same text later
            return
        live = {each.run.sequence.id: each for each in self.live}
        shares = tuple((live[id_].index, tokens) for id_, tokens in step.computed.items())
        if shares:
            yield Batch(self._batches_end_ns, step.end_ns, shares)
            self._batches_end_ns = step.end_ns
        new: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        for sampled in step.sampled:
            each = live[sampled.sequence_id]
            if each.run.thinking:
                self._thinking_end_ns = step.end_ns
            events = each.run.take(sampled, step.end_ns)
            each.keep_logprobs(events)
            for event in events:
                if isinstance(event, Thought | Answer):
                    new[type(event)] += event.tokens
        self.end_ns = step.end_ns
        for kind, tokens in new.items():
            self._tokens[kind] += tokens
            if tokens:
                self._first_ns = self._first_ns or step.end_ns
                yield kind(step.end_ns, "", tokens)


class _Several(_ParallelAnswers):
    """The answers that a client asks for; that of the turn is answer 0."""

    def __init__(self, arm: Arm, session: Session, opened: Opened, count: int) -> None:
        super().__init__(arm, session, opened, count)
        self._count = count
        self._ended: dict[int, tuple[Decoded | None, Decoded | None, Vote]] = {}

    def wants_another(self) -> bool:
        return True

    def count(self, each: _ParallelAnswer) -> Iterator[Event]:
        return self._close(each, 1.0, _status(each.run.reply))

    def count_broken(self, broken: Sequence[_ParallelAnswer]) -> Iterator[Event]:
        for each in broken:
            yield from self._close(each, 0.0, "abandoned")
        if 0 in self._ended and (text := self._ended[0][2].answer):
            yield Answer(self.end_ns, text, 0)

    def _close(self, each: _ParallelAnswer, weight: float, status: VoteStatus) -> Iterator[Event]:
        reply = each.run.reply
        written = reply.text if reply is not None else ""
        text, calls, thought = read_calls(written, self.opened.plan.output)
        vote = each.build_vote(self.end_ns)
        vote = replace(
            vote,
            answer=text if self.opened.plan.output.options.raw else text.strip(),
            thinking="\n\n".join(filter(None, (vote.thinking, thought.strip()))),
            tool_calls=calls,
            weight=weight,
            status=status,
        )
        self._ended[each.index] = each.run.thought, reply, vote
        yield from each.logprobs
        yield vote

    def end_early(self) -> Iterator[Event]:
        self.cut = "budget"
        least = 0 if self._ended or self.live else 1  # at least one, as for one answer
        while len(self.waiting) > least:
            self.waiting.pop()
        for each in self.live:
            each.keep_logprobs(each.run.end_thinking(self.end_ns))
        yield from ()

    def build_end(self) -> Finished:
        thought, reply, vote = self._ended.get(0, (None, None, None))
        status, why = self._describe(reply)
        return replace(
            build_finished(self.opened, thought, reply, status=status, why=why),
            answer=vote.answer if vote is not None else "",
            tool_calls=vote.tool_calls if vote is not None else "",
        )

    def _describe(self, first: Decoded | None) -> tuple[Status, str]:
        ended = count_text(self._count, "answer")
        whole = sum(vote.status == "answered" for _, _, vote in self._ended.values())
        if self.cut == "stopped":
            return "stopped", f"stopped after {whole} of {ended}"
        if self.cut == "budget":
            return "budget", f"{BUDGET} ended the answers after {whole} of {ended}"
        return describe_ending(first, self.arm) if first is not None else ("complete", "")


def _status(reply: Decoded | None) -> VoteStatus:
    cut = reply is not None and reply.ending in (Ending.LIMIT, Ending.BUDGET, Ending.STUCK)
    return "truncated" if cut else "answered"


class _Election(_ParallelAnswers):
    """The votes of one question; the turn's answer is that of the first vote for the winner."""

    def __init__(self, arm: Arm, session: Session, opened: Opened, question: str) -> None:
        super().__init__(arm, session, opened, arm.votes)
        self._question = question
        self._number = opened.plan.output.options.number
        self._options = () if self._number else parse_options(question)
        self._poll = Poll(arm)
        self._looped = 0
        self._saved_tokens = 0

    def wants_another(self) -> bool:
        return self.cut is None and self._poll.wants_another(len(self.live))

    def count(self, each: _ParallelAnswer) -> Iterator[Event]:
        reply = each.run.reply
        assert reply is not None
        found = extract(
            reply.text,
            self._question,
            self._options,
            truncated=reply.ending in (Ending.LIMIT, Ending.BUDGET),
            number=self._number,
        )
        weight = 1.0 if self.arm.weight == "none" else mean_probability(reply) or 0.0
        vote = each.build_vote(self.end_ns)
        self._looped += bool(vote.ended)
        self._saved_tokens += vote.saved_tokens
        vote = replace(vote, weight=weight, choice=found.key, status=found.status)
        yield from self._dated(self._poll.add(vote))
        self.decided = self._poll.decided

    def count_broken(self, broken: Sequence[_ParallelAnswer]) -> Iterator[Event]:
        if self.cut is not None:
            yield from self._dated(self._poll.count_all())
        for vote in self._dated(self._poll.uncounted):
            yield replace(vote, status="uncounted")
        yield from (each.build_vote(self.end_ns) for each in broken)
        winner = self._poll.winner
        if winner is not None and winner.answer:
            yield Answer(self.end_ns, winner.answer, 0)

    def end_early(self) -> Iterator[Event]:
        """End the vote because the joules are spent: count what has ended, or finish one vote."""
        if self.cut is None:
            self.cut = "budget"
            enough = any(vote.choice for vote in (*self._poll.counted, *self._poll.uncounted))
            for each in self.live[0 if enough else 1 :]:
                self.break_off(each)
                yield each.build_vote(self.end_ns)
        for each in self.live:
            each.run.end_thinking(self.end_ns)

    def build_end(self) -> Finished:
        winner, state = self._poll.winner, self._poll.tally
        started = self.arm.votes - len(self.waiting)
        why = self._poll.why(started, self.broken_off, self._looped)
        status: Status = self.cut or "complete"
        if self.cut is not None:
            by = f"{BUDGET} ended the vote" if self.cut == "budget" else "stopped"
            why = f"{by} after {state.count} of {self.arm.votes} votes; {why}"
        elif winner is not None and winner.status == "truncated":
            status = "truncated"
        end = build_finished(self.opened, None, None, status=status, why=why)
        if winner is not None:
            end = replace(
                end,
                answer=winner.answer,
                thinking=winner.thinking,
                ended=winner.ended,
                raw_answer=winner.raw_answer,
                raw_thinking=winner.raw_thinking,
            )
        if state.key is not None:
            margin = (state.leader - state.second) / (state.total or 1.0)
            end = replace(end, confidence=state.agreement, margin=margin)
        return replace(end, saved_tokens=self._saved_tokens)

    def _dated(self, votes: Iterable[Vote]) -> Iterator[Vote]:
        return (replace(vote, t_ns=self.end_ns) for vote in votes)

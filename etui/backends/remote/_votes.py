"""Majority vote over a remote server: one request with many answers, or many requests.

The votes count as they do here (:mod:`etui.reasoning.vote_count`): in the order of their numbers,
until enough agree; then the running requests are closed. A vote's thinking has a budget only where
the server keeps it, since one answer of many cannot be handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

from etui.arm import VoteStop
from etui.backends.remote._answer import (
    OVERRUN_TOKENS,
    Arrived,
    Ended,
    RemoteAnswer,
    build_facts,
)
from etui.backends.remote._client import CUT_OFF, RequestFailed
from etui.backends.remote._reply import Reply, ThinkingSplitter, describe_end
from etui.events import Answer, Event, Status, Thought, TokenLogprob, Vote, VoteStatus
from etui.multiple_choice import parse_options
from etui.reasoning.decoding import BUDGET
from etui.reasoning.extraction import extract
from etui.reasoning.prompts import build_thinking, choose_style, with_instruction
from etui.reasoning.vote_count import Poll
from etui.units import count_text


@dataclass(slots=True)
class _Group:
    """One request with the votes that it draws."""

    first: int
    replies: list[Reply]
    open: set[int]
    overrun: bool = False


class Election:
    """The votes of an arm, or the answers that a client asks for."""

    def __init__(self, answer: RemoteAnswer) -> None:
        self._answer = answer
        arm = answer.arm
        # A client's `count` answers are all drawn, and not counted: answer 0 is that of the turn.
        self._counts = arm.reasoning == "vote"
        if not self._counts:
            arm = replace(
                arm, reasoning="vote", think_tokens=0, votes=answer.options.count,
                batch=answer.options.count, stop=VoteStop("all"), weight="none",
            )  # fmt: skip
        self._arm = arm
        self._most_tokens = arm.think_tokens + arm.max_tokens + OVERRUN_TOKENS
        self._question = answer.messages[-1].content
        self._number = answer.options.number
        self._options = () if self._number else parse_options(self._question)
        style = choose_style(arm, build_facts(answer.spec)) if arm.think_tokens else None
        self._thinks = style == "native"
        self._marker = ""
        self._messages = answer.messages
        if style in ("plain", "draft"):
            self._messages = with_instruction(answer.messages, style)
            self._marker = build_thinking(style, build_facts(answer.spec)).marker
        needs_probabilities = arm.weight == "probability" or answer.options.top_logprobs is not None
        dialect = answer.dialect
        self._joins = dialect.joins_votes and (
            dialect.joins_probabilities or not needs_probabilities
        )
        self._poll = Poll(arm)
        self._waiting = deque(range(arm.votes))
        self._groups: dict[int, _Group] = {}
        self._sent: list[list[Reply]] = []
        self._answers: dict[int, tuple[Reply, Vote]] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self._unweighed = False
        self._spent = False
        self._failed: RequestFailed | None = None
        self._lost = False  # a vote that will never end leaves a gap before those behind it
        self._cut_off = 0
        self._status: Status = "complete"

    async def run(self) -> AsyncIterator[Event]:
        """Draw and count them; RequestFailed if a request fails before any vote has ended."""
        requests = self._answer.requests
        while True:
            if self._spent and self._has_votes():
                self._status = "budget"
            goes_on = self._status == "complete" and not self._spent and self._failed is None
            if goes_on and not self._poll.decided:
                self._begin_groups()
            if self._poll.decided or self._status != "complete":
                for number in [n for n, group in self._groups.items() if group.open]:
                    await requests.close(number)
                    for vote in self._end(number):
                        yield vote
            # A request whose votes have all ended is read on: its tokens are reported last.
            if not self._groups or self._status == "stopped":
                break
            message = await requests.receive()
            match message:
                case "cancel":
                    self._status = "stopped"
                case "end thinking":  # finish one vote if none has ended yet
                    self._status = "budget" if self._spent else self._status
                    self._spent = True
                case Arrived():
                    async for event in self._take(message):
                        yield event
                case Ended(number=number, error=error):
                    group = self._groups[number]
                    if error is None and not any(reply.finish for reply in group.replies):
                        self._failed = RequestFailed(CUT_OFF)
                    elif error is not None and group.open:
                        self._failed = error
                    self._lost = self._lost or bool(group.open)
                    for vote in self._end(number):
                        yield vote
                    await requests.close(number)
        if self._failed is not None and self._status == "complete" and not self._has_votes():
            raise self._failed
        for number in list(self._groups):
            await requests.close(number)
            for vote in self._end(number):
                yield vote
        if self._status != "complete" or (self._lost and not self._poll.decided):
            for vote in self._poll.count_all():
                yield replace(vote, t_ns=self._answer.clock_ns())
        for vote in self._poll.uncounted:
            yield replace(vote, t_ns=self._answer.clock_ns(), status="uncounted")
        for event in self._close():
            yield event

    async def _take(self, arrived: Arrived) -> AsyncIterator[Event]:
        """Take pieces of a request, and count the votes that end with them."""
        pieces, t_ns = arrived.pieces, arrived.t_ns
        group = self._groups[arrived.number]
        self._answer.take_facts(group.replies[0], pieces)
        first = self._answer.note_first(group.replies[0], pieces, t_ns)
        if first is not None:
            yield first
        new: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        for piece in pieces:
            if piece.index >= len(group.replies):
                continue
            for event in group.replies[piece.index].take(piece, t_ns):
                if isinstance(event, Thought | Answer):
                    new[type(event)] += event.tokens
                elif isinstance(event, TokenLogprob):
                    self._logprobs.setdefault(group.first + piece.index, []).append(event)
        for kind, tokens in new.items():
            if tokens:
                yield kind(t_ns, "", tokens)
        for index in sorted(group.open):
            reply = group.replies[index]
            if reply.finish is None and reply.tokens >= self._most_tokens:
                reply.finish, group.overrun = "length", True
            if reply.finish is not None:
                group.open.discard(index)
                for ended in self._count(group.first + index, reply):
                    yield ended
        if group.overrun and not group.open:  # its server may go on for ever
            await self._answer.requests.close(arrived.number)
            del self._groups[arrived.number]

    def _begin_groups(self) -> None:
        """Send requests for the votes that are wanted, as many at a time as the arm's batch."""
        arm, answer = self._arm, self._answer
        limit = arm.think_tokens + arm.max_tokens
        while self._waiting:
            running = sum(len(group.open) for group in self._groups.values())
            room = arm.batch - running
            wanted = 0
            while wanted < min(room, len(self._waiting)) and self._poll.wants_another(
                running + wanted
            ):
                wanted += 1
            if wanted < 1:
                return
            count = wanted if self._joins else 1
            first = self._waiting[0]
            number = answer.requests.send(
                answer.ask(
                    self._messages,
                    limit,
                    thinks=self._thinks,
                    count=count,
                    logprobs=0 if arm.weight == "probability" else None,
                    seed=arm.sampling.seed + first,
                )
            )
            splitters = (
                ThinkingSplitter(self._marker, thinks=True) if self._marker else None
                for _ in range(count)
            )
            replies = list(map(answer.new_reply, splitters))
            self._sent.append(replies)
            self._groups[number] = _Group(first, replies, set(range(count)))
            for _ in range(count):
                self._waiting.popleft()

    def _has_votes(self) -> bool:
        return bool(self._poll.counted or self._poll.uncounted or self._answers)

    def _count(self, index: int, reply: Reply) -> Iterator[Event]:
        yield from self._logprobs.pop(index, ())
        if not self._counts:
            status: VoteStatus = "truncated" if reply.finish == "length" else "answered"
            vote = self._build_vote(index, reply, 1.0, status)
            vote = replace(vote, tool_calls=reply.tool_calls)
            self._answers[index] = (reply, vote)
            yield vote
            return
        answer, thinking = reply.answer.strip(), reply.thinking.strip()
        if self._marker and not answer and reply.finish != "length":
            answer, thinking = thinking, ""  # it answered without thinking first
        weight = reply.mean_probability
        self._unweighed = self._unweighed or weight is None
        found = extract(
            answer,
            self._question,
            self._options,
            truncated=reply.finish == "length",
            number=self._number,
        )
        vote = Vote(
            t_ns=self._answer.clock_ns(),
            index=index,
            answer=answer,
            thinking=thinking,
            tokens=reply.tokens,
            weight=weight if self._arm.weight == "probability" and weight is not None else 1.0,
            choice=found.key,
            status=found.status,
        )
        for counted in self._poll.add(vote):
            yield replace(counted, t_ns=self._answer.clock_ns())

    def _build_vote(self, index: int, reply: Reply, weight: float, status: VoteStatus) -> Vote:
        return Vote(
            t_ns=self._answer.clock_ns(),
            index=index,
            answer=reply.answer.strip(),
            thinking=reply.thinking.strip(),
            tokens=reply.tokens,
            weight=weight,
            status=status,
        )

    def _end(self, number: int) -> Iterator[Vote]:
        """Drop the votes of a request that have not ended."""
        group = self._groups.pop(number)
        for index in sorted(group.open):
            self._cut_off += 1
            yield self._build_vote(group.first + index, group.replies[index], 0.0, "abandoned")

    def _close(self) -> Iterator[Event]:
        """Yield the answer of the turn, and the final event."""
        if not self._counts:
            yield from self._close_answers()
            return
        poll, state = self._poll, self._poll.tally
        winner = poll.winner
        if winner is not None and winner.answer:
            yield Answer(self._answer.clock_ns(), winner.answer, 0)
        status = self._status
        if status == "complete" and winner is not None and winner.status == "truncated":
            status = "truncated"
        why = poll.why(self._arm.votes - len(self._waiting), self._cut_off)
        if status in ("stopped", "budget"):
            by = f"{BUDGET} ended the vote" if status == "budget" else "stopped"
            why = f"{by} after {state.count} of {self._arm.votes} votes; {why}"
        weighs = self._arm.weight == "probability" and self._unweighed
        unweighed = "the server gave no probabilities, so every vote counts alike" if weighs else ""
        silent = state.key is None
        ended = self._answer.finish(self._sent, status, why, unweighed)
        yield replace(
            ended,
            answer=winner.answer if winner else "",
            thinking=winner.thinking if winner else "",
            confidence=None if silent else state.agreement,
            margin=None if silent else (state.leader - state.second) / (state.total or 1.0),
        )

    def _close_answers(self) -> Iterator[Event]:
        """Yield the text of answer 0, and the final event."""
        reply, vote = self._answers.get(0, (None, None))
        if vote is not None and vote.answer:
            yield Answer(self._answer.clock_ns(), vote.answer, 0)
        status, why = self._status, ""
        if status != "complete":
            by = f"{BUDGET} ended the answers" if status == "budget" else "stopped"
            why = f"{by} after {len(self._answers)} of {count_text(self._arm.votes, 'answer')}"
        elif reply is not None:
            status, why = describe_end(reply, "ended", self._arm.max_tokens)
        lost = f"{count_text(self._cut_off, 'answer')} dropped unfinished" if self._cut_off else ""
        yield replace(
            self._answer.finish(self._sent, status, why, lost),
            answer=vote.answer if vote is not None else "",
            thinking=vote.thinking if vote is not None else "",
            tool_calls=vote.tool_calls if vote is not None else "",
            confidence=None if reply is None else reply.mean_probability,
        )

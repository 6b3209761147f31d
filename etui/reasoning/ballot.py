"""One vote of a majority vote: what it wrote and what it counts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import VoteWeight
from etui.events import Ended, Vote
from etui.multiple_choice import Option
from etui.reasoning.decoding import Ending, describe_loops, mean_probability
from etui.reasoning.extraction import Extracted, extract
from etui.reasoning.stop_rules import Cast
from etui.reasoning.thinking_run import ThinkingRun


@dataclass(frozen=True, slots=True)
class Ballot:
    """One completed vote.

    Attributes:
        ended, raw_answer, raw_thinking, saved_tokens: As in :class:`etui.events.Vote`.
    """

    index: int  # Its number, from 0
    answer: str
    thinking: str
    extracted: Extracted  # The answer it counts for
    weight: float  # Weight in the count, 0..1
    tokens: int
    ended: Ended = ""
    raw_answer: str = ""
    raw_thinking: str = ""
    saved_tokens: int = 0

    @property
    def cast(self) -> Cast:
        """Its contribution to the count."""
        return Cast(self.extracted.key, self.weight)

    def event(self, t_ns: int) -> Vote:
        """Build the event of the vote."""
        return Vote(
            t_ns=t_ns,
            index=self.index,
            answer=self.answer,
            thinking=self.thinking,
            tokens=self.tokens,
            weight=self.weight,
            choice=self.extracted.key,
            status=self.extracted.status,
            ended=self.ended,
            raw_answer=self.raw_answer,
            raw_thinking=self.raw_thinking,
            saved_tokens=self.saved_tokens,
        )


def build_ballot(
    index: int,
    trace: ThinkingRun,
    question: str,
    options: Sequence[Option],
    weight: VoteWeight,
    *,
    number: bool = False,
) -> Ballot:
    """Build the ballot of a completed run.

    With ``probability`` as ``weight``, it is the geometric mean of the answer's token
    probabilities. With ``number``, it counts for the last number of its answer.
    """
    thought, reply = trace.thought, trace.reply
    assert reply is not None
    truncated = reply.ending in (Ending.LIMIT, Ending.BUDGET)
    return Ballot(
        index=index,
        answer=reply.text.strip(),
        thinking=thought.text.strip() if thought else "",
        extracted=extract(reply.text, question, options, truncated=truncated, number=number),
        weight=1.0 if weight == "none" else mean_probability(reply) or 0.0,
        tokens=trace.tokens,
        ended=describe_loops(thought, reply),
        raw_answer=reply.whole.strip(),
        raw_thinking=thought.whole.strip() if thought else "",
        saved_tokens=reply.saved_tokens + (thought.saved_tokens if thought else 0),
    )


def build_abandoned_vote(index: int, trace: ThinkingRun, t_ns: int) -> Vote:
    """Build the event of a vote that was dropped unfinished, with its text so far and weight 0."""
    thought, reply = trace.thought, trace.reply
    return Vote(
        t_ns=t_ns,
        index=index,
        answer=reply.text.strip() if reply else "",
        thinking=thought.text.strip() if thought else "",
        tokens=trace.tokens,
        weight=0.0,
        status="abandoned",
        ended=describe_loops(thought, reply),
        raw_answer=reply.whole.strip() if reply else "",
        raw_thinking=thought.whole.strip() if thought else "",
        saved_tokens=thought.saved_tokens if thought else 0,
    )

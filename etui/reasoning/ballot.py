"""One vote: from its thought and answer to what it counts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import VoteWeight
from etui.events import Vote
from etui.multiple_choice import Option
from etui.reasoning.decoding import Ending, mean_probability
from etui.reasoning.extraction import Extracted, extract
from etui.reasoning.stop_rules import Cast
from etui.reasoning.thinking_run import ThinkingRun


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote that came to its end.

    Attributes:
        index: Its number, from 0.
        answer, thinking: What it wrote.
        extracted: The answer it counts for.
        weight: What it counts, 0..1.
        tokens: Tokens it decoded.
    """

    index: int
    answer: str
    thinking: str
    extracted: Extracted
    weight: float
    tokens: int

    @property
    def cast(self) -> Cast:
        """What it adds to the count."""
        return Cast(self.extracted.key, self.weight)

    def event(self, t_ns: int) -> Vote:
        """The vote as it is told."""
        return Vote(
            t_ns=t_ns,
            index=self.index,
            answer=self.answer,
            thinking=self.thinking,
            tokens=self.tokens,
            weight=self.weight,
            choice=self.extracted.key,
            status=self.extracted.status,
        )


def ballot_of(
    index: int, trace: ThinkingRun, question: str, options: Sequence[Option], weight: VoteWeight
) -> Ballot:
    """The ballot of a trace that is done; by probability its weight is the geometric mean."""
    thought, reply = trace.thought, trace.reply
    assert reply is not None
    truncated = reply.ending in (Ending.LIMIT, Ending.BUDGET)
    return Ballot(
        index=index,
        answer=reply.text.strip(),
        thinking=thought.text.strip() if thought else "",
        extracted=extract(reply.text, question, options, truncated=truncated),
        weight=1.0 if weight == "none" else mean_probability(reply) or 0.0,
        tokens=trace.tokens,
    )


def abandoned_vote(index: int, trace: ThinkingRun, t_ns: int) -> Vote:
    """A vote that was dropped under way, with what it had written; it counts for nothing."""
    thought, reply = trace.thought, trace.reply
    return Vote(
        t_ns=t_ns,
        index=index,
        answer=reply.text.strip() if reply else "",
        thinking=thought.text.strip() if thought else "",
        tokens=trace.tokens,
        weight=0.0,
        status="abandoned",
    )

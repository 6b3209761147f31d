"""An arm: one way to answer, a model plus a way of reasoning plus budgets.

Routing chooses an arm, reasoning carries it out; both rooms share this word and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reasoning = Literal["direct", "cot", "vote"]
Style = Literal["auto", "plain", "draft", "native"]
Readout = Literal["text", "choices"]
StopRuleName = Literal["all", "lead", "flip", "adaptive"]
VoteWeight = Literal["none", "probability"]
ContextOverflow = Literal["truncate_thought", "drop_history", "fail"]

DEFAULT_VOTES = 7
VOTE_TEMPERATURE = 0.7
"""Votes drawn greedily would all be the same, so a vote that names no temperature takes this."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass kept; 1 keeps all.
        top_k: Candidates kept; 0 keeps all.
        min_p: Smallest probability kept, relative to the most likely token; 0 keeps all.
        seed: Seed of the draw; equal seeds on one machine and build repeat an answer.
    """

    temperature: float = 0.0
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True)
class VoteStop:
    """When a majority is certain enough to draw no further votes.

    Attributes:
        rule: ``all`` draws every vote; ``lead`` stops when the votes left cannot change the winner;
            ``flip`` and ``adaptive`` stop earlier, at a stated risk (``reasoning/stopping.py``).
        eps: ``flip`` stops once the chance that the winner changes is at most this.
        threshold: ``adaptive`` stops once the leader is the majority with this probability.
    """

    rule: StopRuleName = "flip"
    eps: float = 0.05
    threshold: float = 0.95


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """When a thought has come to its answer before its budget is used up.

    Attributes:
        every: Thought tokens between two looks at the answer.
        min_p: Probability the answer must have.
        stable: Looks running that must give the same answer.
    """

    every: int = 48
    min_p: float = 0.9
    stable: int = 2


@dataclass(frozen=True, slots=True)
class Arm:
    """A model, a way of reasoning, and what it may spend.

    Attributes:
        name: Name in the policy, or ``custom`` when the command line spelled it out.
        model: Name in models.yaml; roles are resolved before an arm is made.
        reasoning: ``direct``, ``cot`` (thought with a budget) or ``vote`` (majority).
        think_tokens: Budget of thought in tokens, for ``cot`` and ``vote``.
        max_tokens: Tokens reserved for the answer, beside the thought.
        votes: Most answers drawn by ``vote``.
        batch: Most of them decoded at a time; fewer where the cache has no room for them.
        stop: When ``vote`` draws no further answers.
        weight: What a vote counts: one, or its answer's ``probability``.
        style: How thought is asked for; ``auto`` is ``native`` for a model with think tags, else
            ``plain``.
        readout: ``text`` decodes the answer, ``choices`` reads the option letters' logits.
        sampling: How tokens are drawn.
        early_exit: When ``cot`` stops before its budget; None thinks to the end.
        exchange: Joules a percentage point of confidence is worth: thought that is expected to
            cost more is not begun. None sets no price.
        max_joules: The most one answer of this arm may spend; None is no limit.
        context_overflow: What gives way when the conversation, the thought and the answer do not
            all fit: the thought's budget (and the oldest messages once there is none left), the
            oldest messages first, or nothing.
    """

    name: str
    model: str
    reasoning: Reasoning = "direct"
    think_tokens: int = 256
    max_tokens: int = 512
    votes: int = DEFAULT_VOTES
    batch: int = 8
    stop: VoteStop = VoteStop()
    weight: VoteWeight = "none"
    style: Style = "auto"
    readout: Readout = "text"
    sampling: Sampling = Sampling()
    early_exit: EarlyExit | None = None
    exchange: float | None = None
    max_joules: float | None = None
    context_overflow: ContextOverflow = "truncate_thought"


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What a model's tokens cost on this machine, as far as it is known before an answer.

    Decoding m tokens with c tokens in the context takes b*m + k*(c*m + m^2/2) joules: the decode
    part of an operating curve, without its constant.

    Attributes:
        joules_per_token: b, joules of a decoded token in an empty context.
        joules_per_token_per_context: k, further joules for each token of the context.
        joules_per_prompt_token: Joules of a computed prompt token.
        source: Where it is from, in words: ``operating curve``, ``mean of 12 turns``.
    """

    joules_per_token: float
    joules_per_token_per_context: float = 0.0
    joules_per_prompt_token: float = 0.0
    source: str = ""

    def decode_joules(self, context_tokens: int, tokens: int) -> float:
        """Joules of decoding ``tokens`` more behind ``context_tokens``."""
        per_context = context_tokens * tokens + tokens**2 / 2
        return self.joules_per_token * tokens + self.joules_per_token_per_context * per_context

"""An arm: one way to answer, a model plus a way of reasoning plus budgets.

Routing chooses an arm, reasoning carries it out; both rooms share this word and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reasoning = Literal["direct", "cot", "vote"]
Style = Literal["auto", "plain", "draft", "native"]
Readout = Literal["text", "choices"]


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
class Arm:
    """A model, a way of reasoning, and what it may spend.

    Attributes:
        name: Name in the policy, or ``custom`` when the command line spelled it out.
        model: Name in models.yaml; roles are resolved before an arm is made.
        reasoning: ``direct``, ``cot`` (thought with a budget) or ``vote`` (majority).
        think_tokens: Budget of thought in tokens, for ``cot`` and ``vote``.
        max_tokens: Tokens reserved for the answer, beside the thought.
        votes: Answers drawn by ``vote``.
        style: How thought is asked for; ``auto`` is ``native`` for a model with think tags, else
            ``plain``.
        readout: ``text`` decodes the answer, ``choices`` reads the option letters' logits.
        sampling: How tokens are drawn.
        max_joules: The most one answer of this arm may spend; None is no limit.
    """

    name: str
    model: str
    reasoning: Reasoning = "direct"
    think_tokens: int = 256
    max_tokens: int = 512
    votes: int = 1
    style: Style = "auto"
    readout: Readout = "text"
    sampling: Sampling = Sampling()
    max_joules: float | None = None

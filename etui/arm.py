"""An arm: one way to answer, which is a model, a reasoning method and budgets.

Routing chooses an arm and reasoning executes it; the two packages share only this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reasoning = Literal["direct", "cot", "vote"]
Style = Literal["auto", "plain", "draft", "native"]
Readout = Literal["text", "choices"]
StopRuleName = Literal["all", "lead", "flip", "adaptive", "unanimous"]
VoteWeight = Literal["none", "probability"]
ContextOverflow = Literal["truncate_thought", "drop_history", "fail"]
Speculate = Literal["off", "lookup", "draft", "mtp", "auto"]

DEFAULT_VOTES = 7
VOTE_TEMPERATURE = 0.7
"""Default temperature of ``vote``: votes drawn greedily would all be the same."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled.

    Attributes:
        temperature: 0 is greedy.
        top_p: Probability mass kept (nucleus sampling); 1 keeps all.
        top_k: Candidates kept; 0 keeps all.
        min_p: Smallest probability kept, relative to the most likely token; 0 keeps all.
        seed: Random seed; the same seed on the same machine and build repeats an answer.
        repeat_penalty: Divides the positive logits of repeated tokens, and multiplies the negative
            ones; 1 leaves them as they are.
        repeat_last_n: Last tokens of prompt and answer in which a token counts as repeated; -1 is
            the whole context, 0 none.
    """

    temperature: float = 0.0
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int = 0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64


SamplingOrigin = Literal[
    "arm", "option", "models.yaml", "models.yaml thinking", "gguf", "vote", "default"
]
"""Where a value of a sampling comes from.

``arm`` is the policy or a bench run, ``option`` a command-line option, ``gguf`` the metadata of the
model file, ``vote`` the default of majority votes, which are never greedy.
"""


@dataclass(frozen=True, slots=True)
class SamplingFrom:
    """Where each value of a :class:`Sampling` comes from, by its name.

    A value with ``default`` or ``vote`` is open: the model's own recommendation replaces it.
    """

    temperature: SamplingOrigin = "arm"
    top_p: SamplingOrigin = "arm"
    top_k: SamplingOrigin = "arm"
    min_p: SamplingOrigin = "arm"
    repeat_penalty: SamplingOrigin = "arm"
    repeat_last_n: SamplingOrigin = "arm"


OPEN_SAMPLING = SamplingFrom(*("default",) * 6)
"""Every value is left to the model."""


@dataclass(frozen=True, slots=True)
class VoteStop:
    """When to stop drawing votes because the majority is certain enough.

    Attributes:
        rule: ``all`` draws every vote; ``lead`` stops when the remaining votes cannot change the
            winner; ``flip`` and ``adaptive`` stop earlier, at a stated risk
            (:mod:`etui.reasoning.stop_rules`); ``unanimous`` stops at the first vote that differs.
        eps: ``flip`` stops once the chance that the winner changes is at most this.
        threshold: ``adaptive`` stops once the leader is the majority with this probability.
    """

    rule: StopRuleName = "flip"
    eps: float = 0.05
    threshold: float = 0.95


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """When to stop thinking before the budget is used up, because the answer is settled.

    Attributes:
        every: Thinking tokens between two probes of the answer.
        min_p: Probability the answer must have.
        stable: Consecutive probes that must give the same answer.
    """

    every: int = 48
    min_p: float = 0.9
    stable: int = 2


@dataclass(frozen=True, slots=True)
class Arm:
    """A model, a reasoning method, and what it may spend.

    Attributes:
        name: Name in the policy, or ``custom`` for an arm given by command-line options.
        model: Name in models.yaml; roles are resolved before an arm is made.
        reasoning: ``direct``, ``cot`` (thinking with a budget) or ``vote`` (majority).
        think_tokens: Thinking budget in tokens, for ``cot`` and ``vote``.
        max_tokens: Tokens reserved for the answer, in addition to the thinking.
        votes: Maximum number of answers drawn by ``vote``.
        batch: Maximum number decoded at a time; fewer if the cache has no room for them.
        stop: When ``vote`` stops drawing answers.
        weight: Weight of a vote: 1, or the ``probability`` of its answer.
        style: How the model is prompted to think; ``auto`` is ``native`` for a model with think
            tags, else ``plain``.
        readout: ``text`` decodes the answer, ``choices`` reads the option letters' logits.
        sampling: How tokens are sampled.
        sampling_from: Where its values come from, and which of them the model may replace.
        early_exit: When ``cot`` stops before its budget; None disables it.
        exchange: Joules that one percentage point of confidence is worth: a chunk of thinking that
            is expected to cost more is not started. None disables the comparison.
        max_joules: Maximum joules of one answer of this arm; None is no limit.
        context_overflow: What is cut when the conversation, the thinking and the answer do not
            all fit: the thinking budget (then the oldest messages, once it is 0), the oldest
            messages first, or nothing.
        speculate: Where drafted tokens come from, which the model verifies in batches: ``lookup``
            copies them from the prompt and the answer so far, ``draft`` asks a second model,
            ``mtp`` the model's own heads; ``auto`` takes what pays. Votes are never speculated.
        loop_guard: Whether an answer that repeats itself is ended; None leaves it to the setting
            of config.yaml, and without one it is not.
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
    speculate: Speculate = "off"
    sampling_from: SamplingFrom = SamplingFrom()
    loop_guard: bool | None = None


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Joules of a model's tokens on this machine, as known before an answer.

    Decoding m tokens with c tokens in the context takes b*m + k*(c*m + m^2/2) joules: the decode
    part of an operating curve, without its constant.

    Attributes:
        joules_per_token: b, joules of a decoded token in an empty context.
        joules_per_token_per_context: k, additional joules per token in the context.
        joules_per_prompt_token: Joules of a computed prompt token.
        source: Origin of the numbers, for messages: ``operating curve``, ``mean of 12 turns``.
        batched: Whether it is known from shares of shared batches alone, which cannot say how a
            batch is to be divided.
    """

    joules_per_token: float
    joules_per_token_per_context: float = 0.0
    joules_per_prompt_token: float = 0.0
    source: str = ""
    batched: bool = False

    def decode_joules(self, context_tokens: int, tokens: int) -> float:
        """Return the joules of decoding ``tokens`` after ``context_tokens`` are in the context."""
        per_context = context_tokens * tokens + tokens**2 / 2
        return self.joules_per_token * tokens + self.joules_per_token_per_context * per_context

"""An arm: one way to answer, which is a model, a reasoning method and budgets.

Routing chooses an arm and reasoning executes it; the two packages share only this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reasoning = Literal["direct", "cot", "vote"]
Style = Literal["auto", "plain", "draft", "native"]
Readout = Literal["text", "choices", "letter"]
StopRuleName = Literal["all", "lead", "flip", "adaptive", "unanimous"]
VoteWeight = Literal["none", "probability"]
ContextOverflow = Literal["truncate_thought", "drop_history", "fail"]
Speculate = Literal["off", "lookup", "draft", "mtp", "auto"]
DEFAULT_VOTES = 7
VOTE_TEMPERATURE = 0.7
"""Default temperature of ``vote``: votes drawn greedily would all be the same."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled."""

    temperature: float = 0.0  # 0 is greedy
    top_p: float = 0.95  # Probability mass kept (nucleus sampling); 1 keeps all
    top_k: int = 40  # Candidates kept; 0 keeps all
    min_p: float = 0.05  # Smallest probability kept, relative to the most likely token; 0 keeps all
    seed: int = 0  # Random seed; the same seed on the same machine and build repeats an answer
    repeat_penalty: float = 1.0
    """Divides the positive logits of repeated tokens, and multiplies the negative ones; 1 leaves
    them as they are."""
    repeat_last_n: int = 64
    """Last tokens of prompt and answer in which a token counts as repeated; -1 is the whole
    context, 0 none."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each repeated token; 0 leaves it as it is."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token for each time that it was repeated; only clients ask for
    it, as for biases."""
    logit_bias: tuple[tuple[int, float], ...] = ()  # Pairs of a token and what its logit gains


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
    presence_penalty: SamplingOrigin = "arm"


OPEN_SAMPLING = SamplingFrom(*("default",) * 7)
"""Every value is left to the model."""


@dataclass(frozen=True, slots=True)
class VoteStop:
    """When to stop drawing votes because the majority is certain enough."""

    rule: StopRuleName = "flip"
    """``all`` draws every vote; ``lead`` stops when the remaining votes cannot change the winner;
    ``flip`` and ``adaptive`` stop earlier, at a stated risk (:mod:`etui.reasoning.vote_count`);
    ``unanimous`` stops at the first vote that differs."""
    eps: float = 0.05  # `flip` stops once the chance that the winner changes is at most this
    threshold: float = 0.95
    """``adaptive`` stops once the leader is the majority with this probability."""


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """When to stop thinking before the budget is used up, because the answer is settled."""

    every: int = 48  # Thinking tokens between two probes of the answer
    min_p: float = 0.9  # Probability the answer must have
    stable: int = 2  # Consecutive probes that must give the same answer


@dataclass(frozen=True, slots=True)
class Arm:
    """A model, a reasoning method, and what it may spend."""

    name: str  # Name in the policy, or `custom` for an arm given by command-line options
    model: str  # Name in models.yaml; roles are resolved before an arm is made
    reasoning: Reasoning = "direct"
    """``direct``, ``cot`` (thinking with a budget) or ``vote`` (majority)."""
    think_tokens: int = 256  # Thinking budget in tokens, for `cot` and `vote`
    max_tokens: int = 512  # Tokens reserved for the answer, in addition to the thinking
    votes: int = DEFAULT_VOTES  # Maximum number of answers drawn by `vote`
    batch: int = 8  # Maximum number decoded at a time; fewer if the cache has no room for them
    stop: VoteStop = VoteStop()  # When `vote` stops drawing answers
    weight: VoteWeight = "none"  # Weight of a vote: 1, or the `probability` of its answer
    style: Style = "auto"
    """How the model is prompted to think; ``auto`` is ``native`` for a model with think tags, else
    ``plain``."""
    readout: Readout = "text"
    """``text`` decodes the answer, ``choices`` reads the option letters' logits in its place, and
    ``letter`` reads them behind the decoded answer, of every vote too."""
    sampling: Sampling = Sampling()
    early_exit: EarlyExit | None = None  # When `cot` stops before its budget; None disables it
    exchange: float | None = None
    """Joules that one percentage point of confidence is worth: a chunk of thinking that is expected
    to cost more is not started. None disables the comparison."""
    max_joules: float | None = None  # Maximum joules of one answer of this arm; None is no limit
    context_overflow: ContextOverflow = "truncate_thought"
    """What is cut when the conversation, the thinking and the answer do not all fit: the thinking
    budget (then the oldest messages, once it is 0), the oldest messages first, or nothing."""
    speculate: Speculate = "off"
    """Where drafted tokens come from, which the model verifies in batches: ``lookup`` copies them
    from the prompt and the answer so far, ``draft`` asks a second model, ``mtp`` the model's own
    heads; ``auto`` takes what pays. Votes are never speculated."""
    sampling_from: SamplingFrom = SamplingFrom()
    """Where its values come from, and which of them the model may replace."""
    loop_guard: bool | None = None
    """Whether an answer that repeats itself is ended; None leaves it to the setting of config.yaml,
    and without one it is not."""

    def __hash__(self) -> int:
        """Hash the fields that tell arms apart: all of them take longer than a prediction."""
        return hash((self.name, self.model, self.reasoning, self.max_tokens))


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Joules of a model's tokens on this machine, as known before an answer.

    Decoding m tokens with c tokens in the context takes b*m + k*(c*m + m^2/2) joules: the decode
    part of an operating curve, without its constant.
    """

    joules_per_token: float  # B, joules of a decoded token in an empty context
    joules_per_token_per_context: float = 0.0  # K, additional joules per token in the context
    joules_per_prompt_token: float = 0.0  # Joules of a computed prompt token
    source: str = ""
    """Origin of the numbers, for messages: ``operating curve``, ``mean of 12 turns``."""
    batched: bool = False
    """Whether it is known from shares of shared batches alone, which cannot say how a batch is to
    be divided."""
    joules_per_prompt_token_per_context: float = 0.0
    """Additional joules of a prompt token per token in the context before it."""
    prompt_uncertainty: float | None = None
    """Half width of the joules of a prompt at 95 %, as a share of them; None if unknown."""

    def prompt_joules(self, tokens: int) -> float:
        """Return the joules of computing the first ``tokens`` of a prompt."""
        per_context = self.joules_per_prompt_token_per_context
        return self.joules_per_prompt_token * tokens + per_context * tokens**2 / 2

    def decode_joules(self, context_tokens: int, tokens: int) -> float:
        """Return the joules of decoding ``tokens`` after ``context_tokens`` are in the context."""
        per_context = context_tokens * tokens + tokens**2 / 2
        return self.joules_per_token * tokens + self.joules_per_token_per_context * per_context

"""A session on a simulated GPU: its steps take time and power, and its text has no meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.engine.sampler import Script
from etui.engine.session import (
    LikelyToken,
    ModelFacts,
    OutputGrammar,
    PromptScores,
    Sampled,
    Step,
    TokenSequence,
)
from etui.errors import ContextOverflow
from etui.events import Verified
from tests.support.gpu import SimulatedGpu

_END_EVERY = 37
"""The simulated model draws an end token once in so many tokens."""


@dataclass(slots=True)
class SimulatedSequence:
    """A sequence of tokens, of which ``tokens[:computed]`` are in the cache."""

    id: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    script: Script | None = None
    grammar: OutputGrammar | None = None
    lost: int = 0

    @property
    def pending(self) -> int:
        """Number of tokens that are queued and not yet computed."""
        return len(self.tokens) - self.computed


class SimulatedSession:
    """A session that computes one sequence at a time on a simulated GPU, in batches.

    Args:
        gpu: The GPU that does the work.
        context_tokens: Largest number of tokens of a sequence.
        batch_tokens: Largest number of tokens of a batch.
        rolls_back: Whether tokens can be rolled back, as most models allow.
    """

    free_sequences = 16

    def __init__(
        self,
        gpu: SimulatedGpu,
        context_tokens: int = 4096,
        batch_tokens: int = 512,
        *,
        rolls_back: bool = True,
    ) -> None:
        self.gpu = gpu
        self._facts = ModelFacts("simulated", context_tokens, ())
        self._batch_tokens = batch_tokens
        self._rolls_back = rolls_back
        self._made = 0
        self._drawn = 0

    @property
    def facts(self) -> ModelFacts:
        """Facts of the simulated model."""
        return self._facts

    @property
    def free_tokens(self) -> int:
        """The whole context, because nothing is cached."""
        return self._facts.context_tokens

    def render(
        self, messages: Sequence[Message], *, think_tokens: int | None = None, tools: str = ""
    ) -> str:
        """Join the messages, one per line."""
        return "\n".join([*([tools] if tools else []), *(each.content for each in messages)])

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Return one number per word."""
        return [len(word) for word in text.split()]

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        scores: PromptScores | None = None,
    ) -> SimulatedSequence:
        """Start a sequence; nothing is reused."""
        if len(tokens) > self._facts.context_tokens:
            raise ContextOverflow(len(tokens), self._facts.context_tokens, 0)
        self._made += 1
        own = SimulatedSequence(self._made, list(tokens))
        if script is not None:
            own.script = Script(len(tokens), tuple(script))
        return own

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> SimulatedSequence:
        """Copy the computed and queued tokens, and the script."""
        self._made += 1
        own = _require_simulated(sequence)
        return SimulatedSequence(
            self._made, list(own.tokens), own.computed, own.computed, own.script, own.grammar
        )

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Keep the grammar; words without meaning do not follow it."""
        _require_simulated(sequence).grammar = grammar

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Refuse: words without meaning cannot be foreseen."""
        return "a simulated model cannot be foreseen"

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Return nothing: nothing was drafted."""
        return ()

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens."""
        _require_simulated(sequence).tokens.extend(tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last tokens, if the model can."""
        own = _require_simulated(sequence)
        if not self._rolls_back:
            return False
        del own.tokens[len(own.tokens) - count :]
        own.computed = min(own.computed, len(own.tokens))
        return True

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute a batch of the first sequence, and draw a token when its queue is empty."""
        own = _require_simulated(sequences[0])
        if not own.pending:
            own.computed -= 1  # without its logits, the last token is computed again
        count = min(own.pending, self._batch_tokens)
        start_ns = self.gpu.clock()
        self.gpu.work(own.computed, count)
        own.computed += count
        sampled = (self._draw(own),) if draw and not own.pending else ()
        return Step(start_ns, self.gpu.clock(), {own.id: count}, sampled)

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return the same value for all tokens."""
        return [-1.0 for _ in tokens]

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return tokens of which each has half the probability of the one before."""
        words = (LikelyToken(1 + i, b" word", -1.0 - i * math.log(2)) for i in range(count))
        return tuple(words)

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Do nothing: nothing is cached."""

    def forget(self) -> None:
        """Do nothing: nothing is cached."""

    def _draw(self, sequence: SimulatedSequence) -> Sampled:
        self._drawn += 1
        scripted = sequence.script.find(len(sequence.tokens)) if sequence.script else None
        ends = scripted is None and self._drawn % _END_EVERY == 0
        token = 1 if scripted is None else scripted
        if not ends:
            sequence.tokens.append(token)
        return Sampled(sequence.id, token, b" word", -1.0, ends)


def _require_simulated(sequence: TokenSequence) -> SimulatedSequence:
    assert isinstance(sequence, SimulatedSequence)
    return sequence

"""A session over a simulated GPU: sequences whose steps cost time and power and say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from etui.arm import Sampling
from etui.chat import Message
from etui.engine.session import ModelFacts, Sampled, Step, TokenSequence
from etui.errors import ContextOverflow
from etui.testing.gpu import SimulatedGpu

_END_EVERY = 37
"""Every so many tokens the simulated model would like to end."""


@dataclass(slots=True)
class SimulatedSequence:
    """``tokens[:computed]`` are in the cache."""

    id: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0

    @property
    def pending(self) -> int:
        """Tokens queued and not yet computed."""
        return len(self.tokens) - self.computed


class SimulatedSession:
    """One sequence at a time on a simulated GPU, in batches.

    Args:
        gpu: Where the work is done.
        context_tokens: Tokens one sequence may hold.
        batch_tokens: Most tokens of a batch.
        rolls_back: Whether tokens can be taken back, as most models allow.
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
        self._facts = ModelFacts("simulated", context_tokens, None, None, None, (), True)
        self._batch_tokens = batch_tokens
        self._rolls_back = rolls_back
        self._made = 0
        self._drawn = 0

    @property
    def facts(self) -> ModelFacts:
        """Of the simulated model."""
        return self._facts

    @property
    def free_tokens(self) -> int:
        """The whole context: nothing is kept."""
        return self._facts.context_tokens

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """The messages under each other."""
        return "\n".join(message.content for message in messages)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """A number a word."""
        return [len(word) for word in text.split()]

    def open(self, tokens: Sequence[int], sampling: Sampling) -> SimulatedSequence:
        """Start a sequence; nothing is reused."""
        if len(tokens) > self._facts.context_tokens:
            raise ContextOverflow(len(tokens), self._facts.context_tokens, 0)
        self._made += 1
        return SimulatedSequence(self._made, list(tokens))

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> SimulatedSequence:
        """A copy of what is computed and queued."""
        self._made += 1
        own = _own(sequence)
        return SimulatedSequence(self._made, list(own.tokens), own.computed, own.computed)

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens."""
        _own(sequence).tokens.extend(tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Take tokens back, where the model can."""
        own = _own(sequence)
        if not self._rolls_back:
            return False
        del own.tokens[len(own.tokens) - count :]
        own.computed = min(own.computed, len(own.tokens))
        return True

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute a batch of the first sequence, and draw a token when its queue is empty."""
        own = _own(sequences[0])
        if not own.pending:
            own.computed -= 1  # its logits are gone: the last token is computed again
        count = min(own.pending, self._batch_tokens)
        start_ns = self.gpu.clock()
        self.gpu.work(own.computed, count)
        own.computed += count
        sampled = (self._draw(own),) if draw and not own.pending else ()
        return Step(start_ns, self.gpu.clock(), {own.id: count}, sampled)

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """All alike: the simulated model knows nothing."""
        return [-1.0 for _ in tokens]

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Nothing is kept."""

    def _draw(self, sequence: SimulatedSequence) -> Sampled:
        self._drawn += 1
        ends = self._drawn % _END_EVERY == 0
        if not ends:
            sequence.tokens.append(1)
        return Sampled(sequence.id, 1, b" word", -1.0, ends)


def _own(sequence: TokenSequence) -> SimulatedSequence:
    assert isinstance(sequence, SimulatedSequence)
    return sequence

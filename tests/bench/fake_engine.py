"""A model of characters: its log-probabilities are a pure function of the text before them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from etui.arm import Sampling
from etui.engine.context import ContextOptions
from etui.engine.sequence_cache import common_prefix
from etui.engine.session import ModelFacts, PromptScores, Step
from etui.errors import CacheFull, ContextOverflow

CLOCK_STEP_NS = 1_000_000


def believed(before: str, token: int) -> float:
    """Log-probability of a character behind a text."""
    digest = hashlib.sha256(f"{before}|{token}".encode()).digest()
    return -0.5 - 4 * digest[0] / 255


@dataclass
class FakeSequence:
    id: int
    tokens: list[int]
    computed: int = 0
    cached: int = 0
    lost: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed


@dataclass
class FakeSession:
    """Tokens are characters; two line breaks at the end of a text are one token of their own."""

    options: ContextOptions = field(
        default_factory=lambda: ContextOptions(4096, 1, sequences=8, batch_tokens=64)
    )
    whole_only: bool = False
    live: dict[int, FakeSequence] = field(default_factory=dict)
    batches: list[dict[int, int]] = field(default_factory=list)
    opened: int = 0
    ready: list[int] = field(default_factory=list)
    clock_ns: int = 0
    held_most: int = 0

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts("fake", self.options.context_tokens, ())

    @property
    def free_sequences(self) -> int:
        return self.options.sequences - len(self.live)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        tokens = [ord(char) for char in text]
        if text.endswith("\n\n"):
            tokens[-2:] = [0x110000]
        return [0x110001, *tokens] if bos else tokens

    def open(
        self, tokens: Sequence[int], sampling: Sampling, scores: PromptScores | None = None
    ) -> FakeSequence:
        if len(tokens) > self.options.context_tokens:
            raise ContextOverflow(len(tokens), self.options.context_tokens, 0)
        reused = 0
        for other in self.live.values():
            shared = min(common_prefix(other.tokens[: other.computed], tokens), len(tokens) - 1)
            if not (self.whole_only and shared < other.computed):
                reused = max(reused, shared)
        return self._made(FakeSequence(self.opened, list(tokens), reused, reused))

    def fork(self, sequence: FakeSequence, sampling: Sampling) -> FakeSequence:
        done = sequence.computed
        return self._made(FakeSequence(self.opened, list(sequence.tokens), done, done))

    def _made(self, sequence: FakeSequence) -> FakeSequence:
        assert self.free_sequences > 0
        self.opened += 1
        self.live[sequence.id] = sequence
        self.held_most = max(self.held_most, len(self.live))
        return sequence

    def extend(self, sequence: FakeSequence, tokens: Sequence[int]) -> None:
        sequence.tokens.extend(tokens)

    def step(self, sequences: Sequence[FakeSequence], *, draw: bool = True) -> Step:
        assert not draw
        room = self.options.batch_tokens
        computed: dict[int, int] = {}
        self.ready = []
        for sequence in sequences:
            count = min(sequence.pending, room)
            if count:
                computed[sequence.id] = count
                sequence.computed += count
                room -= count
            if count and not sequence.pending:
                self.ready.append(sequence.id)
        if not computed:
            raise CacheFull(0, len(self.live))
        self.batches.append(computed)
        start_ns, self.clock_ns = self.clock_ns, self.clock_ns + CLOCK_STEP_NS
        return Step(start_ns, self.clock_ns, computed, ())

    def logprobs(self, sequence: FakeSequence, tokens: Sequence[int]) -> list[float]:
        assert sequence.id in self.ready, "the logits of another batch"
        before = "".join(chr(t) for t in sequence.tokens if t < 0x110000)
        return [believed(before, token) for token in tokens]

    def close(self, sequence: FakeSequence, *, keep: bool = True) -> None:
        assert not keep
        self.live.pop(sequence.id, None)


def expected(text: str, ending: str) -> float:
    """What the model thinks of an ending behind a text."""
    return math.fsum(
        believed(text + ending[:index], ord(char)) for index, char in enumerate(ending)
    )

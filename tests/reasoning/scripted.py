"""A session without a model: it says what the test scripted, one character a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from etui.arm import Sampling
from etui.engine.session import ModelFacts, Sampled, Step
from etui.query import Message

END = -1


@dataclass
class FakeSequence:
    """Tokens are code points; ``computed`` of them went through the model."""

    id: int
    tokens: list[int]
    computed: int = 0
    cached: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def text(self) -> str:
        return "".join(map(chr, self.tokens))


@dataclass
class FakeSession:
    """Draws tokens from ``says``: the text so far -> the rest of what the model would write.

    The script sees the whole text of the sequence and returns what comes next; an empty string is
    the end token.
    """

    facts: ModelFacts
    says: Callable[[str], str]
    batch_tokens: int = 64
    closed: list[int] = field(default_factory=list)
    opened: list[FakeSequence] = field(default_factory=list)
    steps: int = 0
    clock_ns: int = 1_000

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        text = "".join(f"[{m.role}]{m.content}" for m in messages) + "[assistant]"
        if self.facts.thinking_switch and thinking is False:
            text += f"{self.facts.think_open}{self.facts.think_close}"
        return text

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        return [ord(c) for c in ("^" + text if bos else text)]

    def open(self, tokens: Sequence[int], sampling: Sampling) -> FakeSequence:
        sequence = FakeSequence(len(self.opened), list(tokens))
        self.opened.append(sequence)
        return sequence

    def fork(self, sequence: FakeSequence, sampling: Sampling) -> FakeSequence:
        copy = FakeSequence(len(self.opened), list(sequence.tokens), sequence.computed)
        self.opened.append(copy)
        return copy

    def extend(self, sequence: FakeSequence, tokens: Sequence[int]) -> None:
        sequence.tokens.extend(tokens)

    def rollback(self, sequence: FakeSequence, count: int) -> bool:
        del sequence.tokens[len(sequence.tokens) - count :]
        sequence.computed = min(sequence.computed, len(sequence.tokens))
        return True

    def step(self, sequences: Sequence[FakeSequence]) -> Step:
        self.steps += 1
        start_ns, self.clock_ns = self.clock_ns, self.clock_ns + 1_000_000
        computed, sampled = {}, []
        for sequence in sequences:
            count = min(self.batch_tokens, sequence.pending)
            sequence.computed += count
            computed[sequence.id] = count
            if sequence.pending == 0:
                sampled.append(self._draw(sequence))
        return Step(start_ns, self.clock_ns, computed, tuple(sampled))

    def _draw(self, sequence: FakeSequence) -> Sampled:
        following = self.says(sequence.text)
        if not following:
            return Sampled(sequence.id, END, b"", -0.5, True)
        sequence.tokens.append(ord(following[0]))
        return Sampled(sequence.id, ord(following[0]), following[0].encode(), -0.5, False)

    def logprobs(self, sequence: FakeSequence, tokens: Sequence[int]) -> list[float]:
        return [-1.0 for _ in tokens]

    def close(self, sequence: FakeSequence) -> None:
        self.closed.append(sequence.id)


def plain_facts(**changes: object) -> ModelFacts:
    """Facts of a model without think tags."""
    values: dict[str, object] = {
        "name": "fake",
        "context_tokens": 4096,
        "think_open": None,
        "think_close": None,
        "thinking_switch": None,
        "stop": (),
        "has_template": True,
    }
    return ModelFacts(**{**values, **changes})  # type: ignore[arg-type]


def script(after: str, text: str) -> Callable[[str], str]:
    """A model that writes ``text`` after the last ``after`` of its prompt, then ends."""

    def says(so_far: str) -> str:
        written = so_far[so_far.rindex(after) + len(after) :]
        return text[len(written) :] if text.startswith(written) else ""

    return says


@dataclass
class FakeControl:
    """Cancelled or spent from the moment its test says so."""

    cancelled_when: Callable[[], bool] = lambda: False
    spent_when: Callable[[], bool] = lambda: False

    def cancelled(self) -> bool:
        return self.cancelled_when()

    def spent(self) -> bool:
        return self.spent_when()


GO_ON = FakeControl()

"""A session without a model: it says what the test scripted, one character a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from etui.arm import Sampling
from etui.chat import Message
from etui.engine.chat_formats import ChatFormat, tag_thought
from etui.engine.session import (
    LikelyToken,
    ModelFacts,
    OutputGrammar,
    PromptScores,
    Sampled,
    Step,
)
from etui.errors import CacheFull
from etui.events import TokenLogprob

END = -1
GREEDY = Sampling()
LETTER_WITH_SPACE = 1_000_000
"""A letter behind a space is one token of its own, as in the vocabularies of real models."""


@dataclass
class FakeSequence:
    """Tokens are code points; ``computed`` of them went through the model."""

    id: int
    tokens: list[int]
    computed: int = 0
    cached: int = 0
    sampling: Sampling = GREEDY
    grammar: OutputGrammar | None = None
    constrained_at: int | None = None
    lost: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def text(self) -> str:
        return "".join(map(chr, self.tokens))


@dataclass
class FakeSession:
    """Draws tokens from ``says``: the text so far -> the rest of what the model would write.

    The script sees the whole text of the sequence (and with ``seeded`` its seed) and returns what
    comes next; an empty string is the end token. ``sees`` gives the log-probability of a next token
    after a text.
    """

    facts: ModelFacts
    says: Callable[..., str]
    batch_tokens: int = 64
    capacity: int = 1_000_000
    sequences: int = 16
    seeded: bool = False
    sees: Callable[[str, str], float] = lambda text, token: -1.0
    refuses_rollback: bool = False
    closed: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    opened: list[FakeSequence] = field(default_factory=list)
    steps: int = 0
    widest: int = 0
    computed: int = 0
    clock_ns: int = 1_000

    @property
    def live(self) -> list[FakeSequence]:
        return [s for s in self.opened if s.id not in self.closed]

    @property
    def free_tokens(self) -> int:
        return self.capacity - sum(s.computed - s.cached for s in self.live)

    @property
    def free_sequences(self) -> int:
        return self.sequences - len(self.live)

    def render(
        self, messages: Sequence[Message], *, think_tokens: int | None = None, tools: str = ""
    ) -> str:
        begun = messages[-1].content if messages[-1].role == "assistant" else ""
        shown = messages[:-1] if messages[-1].role == "assistant" else messages
        text = f"[tools]{tools}" if tools else ""
        text += "".join(f"[{m.role}]{m.content}{m.tool_calls}" for m in shown)
        text += "[assistant]"
        form = self.facts.format
        if form.thought is not None and form.switch and think_tokens == 0:
            text += f"{form.thought.open.strip()}{form.thought.close}"
        return text + begun

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        if len(text) == 2 and text[0] == " ":
            return [LETTER_WITH_SPACE + ord(text[1])]
        return [ord(c) for c in ("^" + text if bos else text)]

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        scores: PromptScores | None = None,
    ) -> FakeSequence:
        if scores is not None:
            for place, token in enumerate(scores.tokens):
                piece, logprob = tuple(chr(token).encode()), None if place == 0 else -float(place)
                scores.found.append(TokenLogprob(self.clock_ns, piece, logprob))
        return self._made(FakeSequence(len(self.opened), list(tokens), sampling=sampling))

    def fork(self, sequence: FakeSequence, sampling: Sampling) -> FakeSequence:
        shared = sequence.computed
        tokens = list(sequence.tokens)
        return self._made(FakeSequence(len(self.opened), tokens, shared, shared, sampling))

    def _made(self, sequence: FakeSequence) -> FakeSequence:
        assert self.free_sequences > 0
        self.opened.append(sequence)
        return sequence

    def extend(self, sequence: FakeSequence, tokens: Sequence[int]) -> None:
        self._check(sequence)
        sequence.tokens.extend(tokens)

    def rollback(self, sequence: FakeSequence, count: int) -> bool:
        self._check(sequence)
        if self.refuses_rollback and count > sequence.pending:
            return False
        del sequence.tokens[len(sequence.tokens) - count :]
        sequence.computed = min(sequence.computed, len(sequence.tokens))
        return True

    def step(self, sequences: Sequence[FakeSequence]) -> Step:
        counts = [min(self.batch_tokens, sequence.pending) for sequence in sequences]
        if sum(counts) > self.free_tokens:
            raise CacheFull(self.capacity, len(self.live))
        self.steps += 1
        self.widest = max(self.widest, len(sequences))
        start_ns, self.clock_ns = self.clock_ns, self.clock_ns + 1_000_000
        computed, sampled = {}, []
        for sequence, count in zip(sequences, counts, strict=True):
            self._check(sequence)
            sequence.computed += count
            self.computed += count
            computed[sequence.id] = count
            if sequence.pending == 0:
                sampled.append(self._draw(sequence))
        self._stepped = [s.id for s in sequences]
        return Step(start_ns, self.clock_ns, computed, tuple(sampled))

    def _draw(self, sequence: FakeSequence) -> Sampled:
        seed = (sequence.sampling.seed,) if self.seeded else ()
        following = self.says(sequence.text, *seed)
        if not following:
            return Sampled(sequence.id, END, b"", -0.5, True)
        sequence.tokens.append(ord(following[0]))
        return Sampled(sequence.id, ord(following[0]), following[0].encode(), -0.5, False)

    def constrain(self, sequence: FakeSequence, grammar: OutputGrammar) -> None:
        self._check(sequence)
        sequence.grammar, sequence.constrained_at = grammar, len(sequence.tokens)

    def top_logprobs(self, sequence: FakeSequence, count: int) -> tuple[LikelyToken, ...]:
        """The drawn token, then letters that are half as likely each."""
        assert sequence.id in self._stepped, "the logits of another batch"
        drawn = chr(sequence.tokens[-1])
        pieces = [drawn, *(c for c in "abcdefghijklmnopqrstuvwxyz" if c != drawn)][:count]
        return tuple(LikelyToken(ord(c), c.encode(), -0.5 - i) for i, c in enumerate(pieces))

    def speculate(self, sequence: FakeSequence, method: str) -> str:
        raise AssertionError("this answer must not speculate")

    def logprobs(self, sequence: FakeSequence, tokens: Sequence[int]) -> list[float]:
        assert sequence.id in self._stepped, "the logits of another batch"
        computed = "".join(map(chr, sequence.tokens[: sequence.computed]))
        return [
            self.sees(
                computed, chr(t) if t < LETTER_WITH_SPACE else f" {chr(t % LETTER_WITH_SPACE)}"
            )
            for t in tokens
        ]

    def close(self, sequence: FakeSequence, *, keep: bool = True) -> None:
        self._check(sequence)
        self.closed.append(sequence.id)
        if keep:
            self.kept.append(sequence.id)

    def _check(self, sequence: FakeSequence) -> None:
        assert sequence.id not in self.closed, "the sequence is closed"


def plain_facts(**changes: object) -> ModelFacts:
    """Facts of a model without think tags, unless the changes name some."""
    open_, close = changes.pop("think_open", None), changes.pop("think_close", None)
    switch, tools = changes.pop("thinking_switch", None), changes.pop("tool_format", "")
    thought = tag_thought(str(open_), str(close)) if open_ else None
    form = ChatFormat(thought, switch, tools)  # type: ignore[arg-type]
    values: dict[str, object] = {"name": "fake", "context_tokens": 4096, "stop": (), "format": form}
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

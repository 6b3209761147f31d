"""A session over a fake of llama.cpp: its logits are a function of the tokens before."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etui.engine.chat_formats import PLAIN_FORMAT, ChatFormat, tag_thought
from etui.engine.compute_thread import ComputeThread
from etui.engine.context import DECODED, NO_ROOM, ContextOptions
from etui.engine.llama_session import LlamaSession
from etui.engine.session import ModelFacts
from etui.engine.speculation.batch_cost import BatchCost

Logits = Callable[[tuple[int, ...]], Sequence[float]]


class FakeModel:
    """Tokens are characters; ``end`` is the end token."""

    recurrent = False
    sliding_window = 0
    offloaded = False
    size_bytes = 1

    def __init__(self, vocabulary: int, end: int | None = None) -> None:
        self.vocabulary = vocabulary
        self.end = end

    def special_tokens(self) -> list[Any]:
        return []

    def metadata(self, key: str) -> str | None:
        return None

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def with_bos(self, tokens: list[int]) -> list[int]:
        return tokens

    def piece(self, token: int) -> tuple[bytes, bool]:
        return (b"" if token == self.end else chr(token).encode()), token == self.end

    def is_control(self, token: int) -> bool:
        return False

    def free(self) -> None:
        pass


@dataclass
class FakeBatch:
    """Collects (slot, position, token) rows as the real batch does."""

    capacity: int
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    wanted: set[int] = field(default_factory=set)

    def clear(self) -> None:
        self.rows.clear()
        self.wanted.clear()

    def add(self, sequence: int, tokens: Sequence[int], position: int, *, with_logits: bool) -> int:
        self.rows += [(sequence, position + i, token) for i, token in enumerate(tokens)]
        assert len(self.rows) <= self.capacity
        if with_logits:
            self.wanted.add(len(self.rows) - 1)
        return len(self.rows) - 1

    def want_logits(self, rows: int) -> int:
        first = len(self.rows) - rows
        self.wanted.update(range(first, len(self.rows)))
        return first


class FakeContext:
    """A cache of tokens by slot and position; rows with no logits asked for have none."""

    api = threads = None
    compute = ComputeThread()  # of all fakes, as of all models of a process

    def __init__(self, options: ContextOptions, vocabulary: int, logits: Logits) -> None:
        self.options = options
        self.vocabulary = vocabulary
        self.capacity = options.context_tokens
        self.batch = FakeBatch(options.batch_tokens)
        self.slots: dict[int, list[int]] = {}
        self.refuses_removal = False
        self.fails_at: set[int] = set()
        self.decodes: list[int] = []
        self._logits_of = logits
        self._rows: dict[int, NDArray[np.float32]] = {}

    @property
    def handle(self) -> FakeContext:
        return self

    def decode(self) -> int:
        rows = self.batch.rows
        if sum(map(len, self.slots.values())) + len(rows) > self.capacity:
            return NO_ROOM
        self.decodes.append(len(rows))
        self._rows = {}
        for row, (slot, position, token) in enumerate(rows):
            cells = self.slots.setdefault(slot, [])
            assert position == len(cells), "a position is computed twice, or one is left out"
            cells.append(token)
            if row in self.batch.wanted:
                self._rows[row] = np.array(self._logits_of(tuple(cells)), dtype=np.float32)
        return -3 if len(self.decodes) in self.fails_at else DECODED

    def logits(self, row: int) -> NDArray[np.float32]:
        return self._rows[row]

    def remove(self, sequence: int, start: int) -> bool:
        cells = self.slots.setdefault(sequence, [])
        if self.refuses_removal and 0 < start < len(cells):
            return False
        del cells[start:]
        return True

    def copy(self, source: int, target: int, end: int = -1) -> None:
        cells = self.slots[source]
        self.slots[target] = cells[:] if end < 0 else cells[:end]

    def oldest(self, sequence: int) -> int:
        return 0 if self.slots.get(sequence) else -1

    def newest(self, sequence: int) -> int:
        return len(self.slots.get(sequence, [])) - 1

    def save_part(self, sequence: int) -> NDArray[np.uint8]:
        return np.array(self.slots[sequence], dtype=np.int32).view(np.uint8)

    def load_part(self, sequence: int, data: NDArray[np.uint8]) -> bool:
        self.slots[sequence] = [int(token) for token in data.view(np.int32)]
        return True

    def state_bytes(self, sequence: int) -> int:
        return 4 * len(self.slots[sequence])

    def save_state(self, sequence: int, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        state = np.array(self.slots[sequence], dtype=np.int32).view(np.uint8)
        buffer[: state.size] = state
        return buffer[: state.size]

    def load_state(self, sequence: int, state: NDArray[np.uint8], tokens: int) -> bool:
        cells = state.copy().view(np.int32).tolist()
        assert not self.slots.get(sequence), "a sequence is filled that is not empty"
        if sum(map(len, self.slots.values())) + len(cells) > self.capacity:
            return False
        self.slots[sequence] = cells
        return len(cells) == tokens

    def free(self) -> None:
        pass


class FakeSampler:
    """Draws with random numbers of its seed; a token that it accepted lately is less likely."""

    def __init__(self, api: object, sampling: Any, *_: object) -> None:
        self.greedy = sampling.temperature <= 0
        self._random = random.Random(sampling.seed)
        self._accepted: list[int] = []

    def draw(self, context: FakeContext, row: int, *_: object) -> int:
        logits = context.logits(row).astype(float)
        for token in self._accepted[-4:]:
            logits[token] -= 0.5
        weights = np.exp(logits - logits.max())
        token = self._random.choices(range(len(weights)), weights)[0]
        self._accepted.append(token)
        return token

    def free(self) -> None:
        pass


@dataclass
class FakeDrafter:
    """Drafts what a function of the tokens says, at no cost."""

    drafts: Callable[[Sequence[int], int], list[int]]
    method: str = "draft"
    freed: bool = False
    forgotten: int = 0

    def start_cost(self, tokens: Sequence[int], one_row_ns: float) -> float:
        return 0.0

    def token_cost(self, one_row_ns: float) -> float:
        return 0.0

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        return self.drafts(tokens, count)[:count]

    def forget(self) -> None:
        self.forgotten += 1

    def free(self) -> None:
        self.freed = True


def make_fake_session(
    logits: Logits,
    vocabulary: int,
    *,
    end: int | None = None,
    context_tokens: int = 512,
    capacity: int | None = None,
    stop: tuple[str, ...] = (),
    thinking: bool = False,
    sequences: int = 4,
    batch_tokens: int = 64,
    kind: type[Any] = FakeContext,
) -> tuple[LlamaSession, Any]:
    """Make a session whose batches all cost the same, so that drafts are as long as they may be."""
    options = ContextOptions(
        context_tokens, threads=1, sequences=sequences, batch_tokens=batch_tokens
    )
    context = kind(options, vocabulary, logits)
    context.capacity = capacity or sequences * context_tokens
    tags = ChatFormat(tag_thought("<think>", "</think>"), "enable_thinking")
    form = tags if thinking else PLAIN_FORMAT
    facts = ModelFacts("fake", context_tokens, stop, options.batch_tokens, format=form)
    template = SimpleNamespace(render=_render)
    session = LlamaSession(
        FakeModel(vocabulary, end),  # type: ignore[arg-type]
        context,  # type: ignore[arg-type]
        facts,
        template,  # type: ignore[arg-type]
    )
    session.speculator.cost = BatchCost({1: 1.0, 2: 1.0, 16: 1.0}, learns=False)
    return session, context


def _render(chat: list[dict[str, Any]], variables: dict[str, object]) -> str:
    return "".join(f"[{m['role']}]{m['content']}" for m in chat) + "[assistant]"


def written(after: str, text: str, end: int, vocabulary: int = 256) -> Logits:
    """Logits of a model that writes ``text`` after the last ``after``, then ends.

    What was put into the text instead of its own words (a tag, a bridge) counts as written.
    """

    def logits(tokens: tuple[int, ...]) -> list[float]:
        so_far = "".join(map(chr, tokens))
        _, _, done = so_far.rpartition(after)
        token = ord(text[len(done)]) if len(done) < len(text) else end
        return [8.0 if each == token else 0.0 for each in range(vocabulary)]

    return logits

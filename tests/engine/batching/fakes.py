"""Sessions over a fake of llama.cpp whose tokens are a function of the tokens before them."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etui.arm import Arm
from etui.chat import Message
from etui.engine.batching.shared_session import RequestSession
from etui.engine.context import DECODED, NO_ROOM
from etui.engine.llama_session import LlamaSession
from etui.engine.thread_count import ThreadControl, ThreadLimits
from etui.events import Event, Finished
from etui.reasoning.answer import answer
from tests.engine.speculation.fakes import FakeContext, make_fake_session

WAIT_SECONDS = 60.0
END = 3
VOCABULARY = 128
CHAT = "[user]{}[assistant]"
"""What the template of the fake makes of a question."""


def draw_token(tokens: tuple[int, ...]) -> int:
    """The token after others: a letter, or now and then the end."""
    digest = zlib.crc32(bytes(tokens))
    return END if digest % 31 == 0 else 97 + digest // 31 % 26


def find_text(least: int, form: str = "{}") -> str:
    """A text that is followed by at least so many tokens, when it is put into a form."""
    for number in range(1000):
        tokens = [ord(each) for each in form.format(f"text {number}")]
        for _ in range(least):
            tokens.append(draw_token(tuple(tokens)))
        if END not in tokens:
            return f"text {number}"
    raise AssertionError("no such text")


def _logits(tokens: tuple[int, ...]) -> list[float]:
    logits = [0.0] * VOCABULARY
    logits[draw_token(tokens)] = 8.0
    return logits


class SteppedContext(FakeContext):
    """A fake context whose sequences share cells; it can be held before a batch.

    Attributes:
        before_decode: Called before each decode, with the rows of the batch.
        computed: Slot and position of each computed token.
        cells: Numbers of the cells of each slot; a copied prefix has the same ones.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.before_decode: Callable[[Sequence[tuple[int, int, int]]], None] = lambda rows: None
        self.computed: list[tuple[int, int]] = []
        self.cells: dict[int, list[int]] = {}
        self.threads = ThreadControl(ThreadLimits(1, 1))
        self._cell = 0

    def decode(self) -> int:
        rows = self.batch.rows
        self.before_decode(rows)
        used = {cell for cells in self.cells.values() for cell in cells}
        if len(used) + len(rows) > self.capacity:
            return NO_ROOM
        room, self.capacity = self.capacity, 10**9  # the other check counts a shared cell twice
        code = super().decode()
        self.capacity = room
        for slot, position, _ in rows:
            self._cell += 1
            self.cells.setdefault(slot, []).append(self._cell)
            if code == DECODED:
                self.computed.append((slot, position))
        return code

    def remove(self, sequence: int, start: int) -> bool:
        removed = super().remove(sequence, start)
        if removed:
            del self.cells.setdefault(sequence, [])[start:]
        return removed

    def load_state(self, sequence: int, state: Any, tokens: int) -> bool:
        if not super().load_state(sequence, state, tokens):
            return False
        self.cells[sequence] = [self._cell + number for number in range(1, tokens + 1)]
        self._cell += tokens
        return True

    def copy(self, source: int, target: int, end: int = -1) -> None:
        super().copy(source, target, end)
        cells = self.cells[source]
        self.cells[target] = cells[:] if end < 0 else cells[:end]


def make_session(**options: Any) -> tuple[LlamaSession, SteppedContext]:
    """Make a session and its context, with cells for all sequences if no capacity is given."""
    usual = {"sequences": 16, "batch_tokens": 32, "kind": SteppedContext}
    return make_fake_session(_logits, VOCABULARY, end=END, **{**usual, **options})


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that no event announces."""
    never = threading.Event()
    for _ in range(int(WAIT_SECONDS * 1000)):
        if condition():
            return
        never.wait(0.001)
    raise AssertionError("the condition never holds")


class Held:
    """Hold the batch that a test names, until it is let go on."""

    def __init__(self, context: SteppedContext, at: int) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self._at, self._count = at, 0
        context.before_decode = self._hold

    def _hold(self, _: object) -> None:
        self._count += 1
        if self._count == self._at:
            self.reached.set()
            assert self.released.wait(WAIT_SECONDS)


class Flags:
    """A control whose flags a test sets."""

    def __init__(self) -> None:
        self.stopped = False
        self.hurried = False

    def cancelled(self) -> bool:
        return self.stopped

    def spent(self) -> bool:
        return self.hurried


def ask(
    session: RequestSession | LlamaSession, text: str, arm: Arm, control: Flags | None = None
) -> list[Event]:
    """The events of an answer, read to the end."""
    messages = (Message("user", text),)
    return list(answer(messages, arm, session, control or Flags()))


def outcome(events: Sequence[Event]) -> tuple[object, ...]:
    """What an answer says, without its times and the cells it reused."""
    last = events[-1]
    assert isinstance(last, Finished)
    return (
        last.status,
        last.answer,
        last.thinking,
        last.thinking_tokens,
        last.output_tokens,
        last.prompt_tokens,
    )


@contextmanager
def threads(*works: Callable[[], None]) -> Iterator[None]:
    """Run each in a thread of its own; at the end wait for all, and raise what one raised."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's thread
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in running:
        thread.start()
    yield
    for thread in running:
        thread.join(WAIT_SECONDS)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in running), "a thread hangs"

"""Keep the KV cache of sequences that have left their context: in memory, then on disk.

A tier that is full gives up first what saves the fewest joules per byte, halved for each half-life
in which it was not used. What leaves memory goes to disk, and so does all of it at the end. A
sequence is brought back by its tokens, into a context of the same model, build of llama.cpp and
settings only, and only for its owner.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.engine.sequence_cache import common_prefix
from etui.events import Reused, Tier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.engine.checkpoints import Checkpoint
    from etui.engine.context import Context
    from etui.engine.kv_folder import KvFolder
    from etui.engine.sequence_cache import LlamaSequence

LEAST_TOKENS = 64
"""A shorter sequence is computed again faster than it is worth the bookkeeping."""

_GAIN_SHARE = 8
"""A sequence is brought back for a gain of at least this part of its tokens: all of it is copied,
which takes a hundredth of the time of computing it."""

MEMORY_SHARE = 10
"""Memory and disk are used up to a tenth of what is free."""

_GROWTH_SHARE = 8
"""A state has room for an eighth more, for the next turn of its chat."""

_LEAST_KEEP_NS = 1_000_000

MEMORY_HALF_LIFE_S, DISK_HALF_LIFE_S = 3600.0, 7 * 86400.0

_JOULES_PER_WEIGHT_BYTE = 5e-10
"""Joules of a prompt token for each byte of the weights, where no curve is known: a small model on
a CPU. It only ranks sequences of different models."""


def new_buffer(size_bytes: int) -> NDArray[np.uint8]:
    """Return fresh memory in small pages.

    NumPy asks for huge ones, for which Linux may have to move the memory of others first: that
    took 50 ms of CPU for 46 MB, small pages take 20 ms.
    """
    import mmap

    import numpy as np

    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    flags = {"flags": private} if private else {}
    return np.frombuffer(mmap.mmap(-1, max(1, size_bytes), **flags), dtype=np.uint8)[:size_bytes]


@dataclass(slots=True, eq=False)
class SavedSequence:
    """A sequence that has left its context, in memory, on disk, or both."""

    key: str  # What its state fits: model file, build of llama.cpp, settings of the context
    owner: str
    label: str  # Id of the turn that computed it last
    tokens: array[int]
    rest: tuple[int, ...]  # Drawn after them, and not computed
    whole: bool  # Whether it goes on only with all of its tokens, or from a checkpoint
    joules: float  # Of computing it again
    size_bytes: int  # Of its state and its checkpoints
    used_seconds: float  # Time of its last use, as ``time.time``
    state: NDArray[np.uint8] | None = None  # What llama.cpp saved; None if only the disk has it
    path: Path | None = None  # Its file; None if only memory has it
    parts: tuple[Checkpoint, ...] = ()  # Shortest first; empty if only the disk has them
    lengths: tuple[int, ...] = ()  # Those of its checkpoints, wherever they are

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that its state takes, with room to grow."""
        if self.state is None:
            return 0
        whole = self.state if self.state.base is None else self.state.base
        return int(whole.nbytes) + sum(part.data.nbytes for part in self.parts)

    def worth(self, now_seconds: float, half_life_seconds: float) -> float:
        """Return the joules it saves per byte, less the longer it was not used."""
        age = max(0.0, now_seconds - self.used_seconds)
        return self.joules / max(1, self.size_bytes) * math.exp2(-age / half_life_seconds)

    def gives(self, tokens: array[int]) -> int:
        """Count the leading tokens that it saves a prompt, of which one is left to compute."""
        length = min(common_prefix(self.tokens, tokens), len(tokens) - 1)
        if not self.whole or length == len(self.tokens):
            return length
        return max((each for each in self.lengths if each <= length), default=0)

    def covers(self, other: SavedSequence) -> bool:
        """Return whether it makes another one superfluous."""
        return (
            (self.key, self.owner) == (other.key, other.owner)
            and common_prefix(self.tokens, other.tokens) == len(other.tokens)
            and (
                not other.whole  # or it can go back there, at the loss of a few tokens
                or any(0 <= len(other.tokens) - each < LEAST_TOKENS for each in self.lengths)
            )
        )


class KvStore:
    """The tiers below the contexts of all models of a process; safe from any thread.

    Args:
        budget_bytes: Returns the most bytes in memory, given those it holds already.
        folder: The tier on disk; None for none.
    """

    def __init__(
        self,
        budget_bytes: Callable[[int], int],
        folder: KvFolder | None = None,
        now_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._folder = folder
        self._now_seconds = now_seconds
        self._lock = threading.RLock()
        self._saved: list[SavedSequence] = []
        self._keep_ns = 0
        self._has_asked = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of the states in memory."""
        with self._lock:
            return sum(each.held_bytes for each in self._saved)

    def take_buffer(self, key: str, owner: str, tokens: array[int], size: int) -> NDArray[np.uint8]:
        """Return memory for a state, that of an earlier state of the same chat if it fits.

        Fresh memory takes up to ten times as long to fill as memory that was used before. The
        earlier state is lost at once, also for whoever has just found it.
        """
        import numpy as np

        with self._lock:
            for each in self._saved:
                buffer = None if each.state is None else each.state.base
                if (
                    (each.key, each.owner, each.whole) == (key, owner, False)
                    and buffer is not None
                    and buffer.dtype == np.uint8
                    and size <= buffer.size
                    and common_prefix(each.tokens, tokens) == len(each.tokens)
                ):
                    self._saved.remove(each)
                    each.state = None
                    return buffer
        return new_buffer(size + size // _GROWTH_SHARE)

    def find(
        self, key: str, owner: str, tokens: Sequence[int], longer_than: int
    ) -> SavedSequence | None:
        """Find what saves so much more than that length of a prompt that it is worth loading."""
        wanted = array("i", tokens)
        best, length = None, longer_than
        with self._lock:
            for each in self._list(key, owner):
                given = each.gives(wanted)
                least = max(LEAST_TOKENS, len(each.tokens) // _GAIN_SHARE)
                if given > length and given - longer_than >= least:
                    best, length = each, given
        return best

    def find_label(self, key: str, owner: str, label: str) -> SavedSequence | None:
        """Find the sequence of a turn."""
        with self._lock:
            return next((each for each in self._list(key, owner) if each.label == label), None)

    def _list(self, key: str, owner: str) -> list[SavedSequence]:
        """List the sequences of an owner that fit a context, those in memory first."""
        near = [each for each in self._saved if (each.key, each.owner) == (key, owner)]
        return near if self._folder is None else [*near, *self._folder.find(key, owner)]

    def load(self, saved: SavedSequence) -> tuple[NDArray[np.uint8], tuple[Checkpoint, ...]] | None:
        """Return a state and its checkpoints; None if its file is damaged or gone."""
        with self._lock:
            saved.used_seconds = self._now_seconds()
            if saved.state is not None:
                return saved.state, saved.parts
            return None if self._folder is None else self._folder.read(saved)

    def put(self, saved: SavedSequence) -> None:
        """Keep a state in memory, in place of those that it covers."""
        began_ns = time.monotonic_ns()
        with self._lock:
            if not any(each.covers(saved) for each in self._saved):
                self._saved = [each for each in self._saved if not saved.covers(each)]
                self._saved.append(saved)
                self._shrink()
        self.add_keep_ns(time.monotonic_ns() - began_ns)

    def drop(self, saved: SavedSequence) -> None:
        """Forget a sequence that llama.cpp refused."""
        with self._lock:
            self._saved = [each for each in self._saved if each is not saved]
            if self._folder is not None:
                self._folder.remove(saved)

    def _shrink(self) -> None:
        """Move what is worth least to disk, until the rest fits into memory."""
        now = self._now_seconds()
        self._saved.sort(key=lambda each: -each.worth(now, MEMORY_HALF_LIFE_S))
        budget = self._budget_bytes(self.memory_bytes)
        while self._saved and self.memory_bytes > budget:
            least = self._saved.pop()
            if self._folder is not None and least.path is None:
                self._folder.write(least)

    def spill(self, seconds: float) -> None:
        """Write what is only in memory to disk, the most worth first, for at most this time."""
        began_ns = time.monotonic_ns()
        with self._lock:
            if self._folder is None:
                return
            now = self._now_seconds()
            for each in sorted(self._saved, key=lambda each: -each.worth(now, DISK_HALF_LIFE_S)):
                if time.monotonic_ns() - began_ns > seconds * 1e9:
                    break
                if each.path is None:
                    self._folder.write(each)
            self._keep_ns += time.monotonic_ns() - began_ns
            if self._keep_ns >= _LEAST_KEEP_NS:
                self._folder.add_unreported(self._keep_ns)

    def add_keep_ns(self, keep_ns: int) -> None:
        """Note the time of saving a state."""
        with self._lock:
            self._keep_ns += keep_ns

    def take_keep_seconds(self) -> float:
        """Take the seconds spent on saving since the last call, by the last process at first.

        Less than a millisecond waits for the next call.
        """
        with self._lock:
            if not self._has_asked and self._folder is not None:
                self._keep_ns += self._folder.take_unreported()
            self._has_asked = True
            if self._keep_ns < _LEAST_KEEP_NS:
                return 0.0
            keep_ns, self._keep_ns = self._keep_ns, 0
        return keep_ns / 1e9


class SequenceKeeper:
    """Saves sequences of one context in a store, and brings them back.

    Attributes:
        store: Where they are kept.
        key: What the states of the context fit.
        joules_per_token: Joules of a prompt token by the model's curve; None if unknown.
    """

    def __init__(
        self,
        store: KvStore,
        key: str,
        context: Context,
        *,
        whole: bool,  # a sequence can only be continued with all of its tokens
        weight_bytes: int,
    ) -> None:
        self.joules_per_token: float | None = None
        self.store = store
        self.key = key
        self._context = context
        self._whole = whole
        self._weight_bytes = weight_bytes

    def save(self, sequence: LlamaSequence, parts: tuple[Checkpoint, ...] = ()) -> None:
        """Save a closed sequence that leaves the context, with its checkpoints."""
        slot, tokens, owner = sequence.slot, sequence.tokens, sequence.owner
        if len(tokens) < LEAST_TOKENS:
            return
        began_ns = time.monotonic_ns()
        kept = array("i", tokens)
        size = self._context.state_bytes(slot)
        buffer = self.store.take_buffer(self.key, owner, kept, size)
        state = self._context.save_state(slot, buffer)
        per_token = self.joules_per_token or _JOULES_PER_WEIGHT_BYTE * self._weight_bytes
        self.store.add_keep_ns(time.monotonic_ns() - began_ns)
        if not state.size:
            return
        self.store.put(
            SavedSequence(
                self.key,
                owner,
                sequence.label,
                kept,
                sequence.rest,
                self._whole,
                per_token * len(tokens),
                state.size + sum(part.data.nbytes for part in parts),
                time.time(),
                state,
                parts=parts,
                lengths=tuple(part.length for part in parts),
            )
        )

    def bring_back(
        self, saved: SavedSequence, slot: int, make_room: Callable[[], bool]
    ) -> tuple[Reused, tuple[Checkpoint, ...]] | None:
        """Load a state into an empty slot; return where it came from, with its checkpoints.

        None if that failed, and the slot is still empty; ``make_room`` evicts something from the
        context, False if there is nothing left.
        """
        start_ns = time.monotonic_ns()
        tier: Tier = "disk" if saved.state is None else "memory"
        # It is read again after each eviction, which may have taken the memory of the state.
        while (loaded := self.store.load(saved)) is not None:
            state, parts = loaded
            if self._context.load_state(slot, state, len(saved.tokens)):
                end_ns = time.monotonic_ns()
                count, size = len(saved.tokens), saved.size_bytes
                return Reused(start_ns, end_ns, tier, count, size, 0.0), parts
            if not make_room():
                self.store.drop(saved)
                break
        return None

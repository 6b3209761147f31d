"""Decide how often the app draws, to leave the cores to the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

SAMPLE_SECONDS = 0.25  # Time covered by one graph sample, however often the meter is read


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals between redraws."""

    tick_seconds: float
    """Between two reads of the meter, which records on its own thread regardless."""
    flush_ns: int  # Between two batches of prose
    fence_flush_ns: int
    """Between two batches inside an open code fence, which is highlighted again on each append."""

    def eased(self, factor: float, *, typing: bool = False) -> Pace:
        """Return the pace with longer intervals; few keys arrive while something is drawn then."""
        flush_ns, fence_ns = int(self.flush_ns * factor), int(self.fence_flush_ns * factor)
        if typing:
            flush_ns = max(flush_ns, TYPING_FLUSH_NS)
            fence_ns = max(fence_ns, TYPING_FENCE_FLUSH_NS)
        return Pace(self.tick_seconds, flush_ns, fence_ns)


SPARE_CORE_SHARE = 0.15
"""Largest share of a core for drawing an answer: keys wait while something is drawn."""

NO_SPARE_CORE_SHARE = 0.015
"""The same if every core decodes: time spent drawing is then time without tokens. Together with the
rest of the app it is to stay below 2 %."""

MOST_EASED = 4.0
TYPING_SECONDS = 1.0  # How long after a key the user counts as typing
TYPING_FLUSH_NS, TYPING_FENCE_FLUSH_NS = 800_000_000, 2_000_000_000
"""Least time between two batches while the user types: a key waits for the draw in progress, and
the answer is not being read meanwhile."""

MIDDLE_COLLECTIONS_DUE = 10
"""Collections of the middle generation of objects after which a full one is due, as in Python."""

BUSY_MIDDLE_COLLECTIONS_DUE = 60
"""The same while an answer runs: a collection may take a quarter of what drawing takes."""

MOST_MIDDLE_COLLECTIONS = 100
"""The same where Python collects by itself, while someone types without a break."""


def drawing_share(threads: int, cores: int) -> float:
    """Return the largest share of a core for drawing while ``threads`` decode on ``cores``."""
    return SPARE_CORE_SHARE if threads < cores else NO_SPARE_CORE_SHARE


def next_easing(factor: float, share: float, most_share: float) -> float:
    """Compute by what factor to lengthen the time between two batches, 1 to ``MOST_EASED``."""
    return min(MOST_EASED, max(1.0, factor * share / most_share))


USUAL = Pace(SAMPLE_SECONDS, 100_000_000, 250_000_000)
QUIET = Pace(4 * SAMPLE_SECONDS, 500_000_000, 1_000_000_000)


class Drawing:
    """Current pace of the screen; only ``pace`` is called from the turn's thread."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        thread_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.usual = USUAL
        self._clock, self._thread_clock = clock, thread_clock
        self._most_share = SPARE_CORE_SHARE
        self._easing = 1.0
        self._spent = self._looked = 0.0
        self._typed = -math.inf

    def decode_with(self, threads: int, cores: int) -> None:
        self._most_share = drawing_share(threads, cores)

    def key_typed(self) -> None:
        self._typed = self._clock()

    def may_collect(self, middle_collections: int, *, busy: bool) -> bool:
        """Return whether to look for unused objects in all generations now.

        A full collection stops everything for 30 to 60 ms behind a long chat, so a key is not to
        meet it; what an answer leaves is collected once it has ended.
        """
        due = BUSY_MIDDLE_COLLECTIONS_DUE if busy else MIDDLE_COLLECTIONS_DUE
        return middle_collections >= due and not self._is_typing()

    def _is_typing(self) -> bool:
        return self._clock() - self._typed < TYPING_SECONDS

    def look(self, *, busy: bool) -> None:
        """Measure what drawing took since the last call, and ease the pace while ``busy``."""
        spent, now = self._thread_clock(), self._clock()
        share = (spent - self._spent) / max(now - self._looked, 1e-3)
        self._spent, self._looked = spent, now
        self._easing = next_easing(self._easing, share, self._most_share) if busy else 1.0

    def pace(self) -> Pace:
        return self.usual.eased(self._easing, typing=self._is_typing())

"""Decide how often the app draws, to leave the cores to the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

SAMPLE_SECONDS = 0.25
"""What one sample of the graph stands for, at whatever pace the meter is looked at."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is redrawn.

    Attributes:
        tick_seconds: Between two looks at the meter; it records on its own thread all the same.
        flush_ns: Between two batches of prose.
        fence_flush_ns: Between two batches inside an open code fence, which is highlighted anew at
            each append.
    """

    tick_seconds: float
    flush_ns: int
    fence_flush_ns: int

    @property
    def samples(self) -> int:
        """Samples of the graph that one look stands for."""
        return round(self.tick_seconds / SAMPLE_SECONDS)

    def eased(self, factor: float) -> Pace:
        """The same with so many times as long between two batches."""
        return replace(
            self,
            flush_ns=int(self.flush_ns * factor),
            fence_flush_ns=int(self.fence_flush_ns * factor),
        )

    def while_typing(self) -> Pace:
        """The same, slow enough that few keys come while something is drawn."""
        return replace(
            self,
            flush_ns=max(self.flush_ns, TYPING_FLUSH_NS),
            fence_flush_ns=max(self.fence_flush_ns, TYPING_FENCE_FLUSH_NS),
        )


SPARE_CORE_SHARE = 0.15
"""Most of a core that drawing an answer is to take: a key waits while something is drawn."""


NO_SPARE_CORE_SHARE = 0.04
"""The same where every core decodes: there each moment of drawing is one without tokens."""


MOST_EASED = 4.0


TYPING_SECONDS = 1.0
"""How long after a key the reader counts as typing."""


TYPING_FLUSH_NS, TYPING_FENCE_FLUSH_NS = 800_000_000, 2_000_000_000
"""Least time between two batches while the reader types: a key waits for what is drawn just then,
and who types does not read along."""


def drawing_share(threads: int, cores: int) -> float:
    """Most of a core for drawing, where so many threads decode on so many cores."""
    return SPARE_CORE_SHARE if threads < cores else NO_SPARE_CORE_SHARE


def next_easing(factor: float, share: float, most_share: float) -> float:
    """How many times as long to wait between two batches, by what drawing took with ``factor``."""
    return min(MOST_EASED, max(1.0, factor * share / most_share))


USUAL = Pace(SAMPLE_SECONDS, 100_000_000, 250_000_000)


QUIET = Pace(4 * SAMPLE_SECONDS, 500_000_000, 1_000_000_000)


class Drawing:
    """The pace of the screen; asked for from the thread of the turn, told of the rest on its own.

    Args:
        clock: Monotonic seconds.
        thread_clock: CPU seconds of the thread that draws.
    """

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
        """Take into account how many threads decode, on how many cores."""
        self._most_share = drawing_share(threads, cores)

    def key_typed(self) -> None:
        """The reader types: answers wait a little."""
        self._typed = self._clock()

    def look(self, *, busy: bool) -> None:
        """Look at what drawing took since the last look; it counts while an answer runs."""
        spent, now = self._thread_clock(), self._clock()
        share = (spent - self._spent) / max(now - self._looked, 1e-3)
        self._spent, self._looked = spent, now
        self._easing = next_easing(self._easing, share, self._most_share) if busy else 1.0

    def pace(self) -> Pace:
        """How often to draw now."""
        eased = self.usual.eased(self._easing)
        return eased.while_typing() if self._clock() - self._typed < TYPING_SECONDS else eased

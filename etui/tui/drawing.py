"""How often the running answer is drawn, by what drawing costs and whether someone types."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from etui.tui.pace import (
    SPARE_CORE_SHARE,
    TYPING_SECONDS,
    USUAL,
    Pace,
    drawing_share,
    next_easing,
)


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

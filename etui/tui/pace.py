"""How often the screen is drawn: as usual, or in quiet mode."""

from __future__ import annotations

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


DRAWING_SHARE = 0.15
"""Most of a core that drawing an answer is to take: a key waits while something is drawn."""

MOST_EASED = 4.0


def next_easing(factor: float, share: float) -> float:
    """How many times as long to wait between two batches, by what drawing took with ``factor``."""
    return min(MOST_EASED, max(1.0, factor * share / DRAWING_SHARE))


USUAL = Pace(SAMPLE_SECONDS, 100_000_000, 250_000_000)
QUIET = Pace(4 * SAMPLE_SECONDS, 500_000_000, 1_000_000_000)

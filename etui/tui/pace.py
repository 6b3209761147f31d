"""How often the screen is drawn: as usual, or in quiet mode."""

from __future__ import annotations

from dataclasses import dataclass

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


USUAL = Pace(SAMPLE_SECONDS, 100_000_000, 250_000_000)
QUIET = Pace(4 * SAMPLE_SECONDS, 500_000_000, 1_000_000_000)

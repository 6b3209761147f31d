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

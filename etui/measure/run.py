"""The loop of every experiment: measure cell after cell, until all are done or a limit is reached.

A *cell* is one thing to measure: questions for an arm, a text under a setting, a turn of a given
length. Cells of one *block* are measured close together and compared with each other, so that a
drift of the machine favours none of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from random import Random
from typing import Literal, TypeVar

from etui.errors import Stopped

C = TypeVar("C")
R = TypeVar("R")
Ending = Literal["complete", "precise", "stopped", "joules", "time"]
"""All cells are measured, the results are as precise as asked for, the user stopped the
experiment, or the joules or the time are used up."""
ATTEMPTS = 5  # How often cells are begun before the machine counts as busy
WAIT_S = 30.0
"""Seconds to wait before cells are begun again: most disturbances (an update, a build) are short,
and four such waits outlast them."""


class StopRequested(Exception):
    """The user stopped the experiment; the current cell is discarded."""


class Disturbed(Exception):
    """A measurement that cannot be used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What an experiment may use; None is no limit."""

    joules: float | None = None  # Most joules, those before a resume included
    seconds: float | None = None  # Most seconds of this process, loads excluded

    def start(
        self, stopped: Callable[[], bool], now: Callable[[], float] = time.monotonic
    ) -> Callable[[float], Ending | None]:
        """Start the clock; the result takes the joules so far and returns why to end, or None."""
        begun = now()

        def check(joules: float) -> Ending | None:
            if stopped():
                return "stopped"
            if self.joules is not None and joules >= self.joules:
                return "joules"
            if self.seconds is not None and now() - begun >= self.seconds:
                return "time"
            return None

        return check


NO_LIMITS = RunLimits()


@dataclass(slots=True)
class WholeBlocks:
    """Ends an experiment before a block that would not end within its time.

    Cells of a block are compared with each other, so those of a block that is cut are lost.
    """

    seconds: float | None  # Most seconds of the experiment; None is no limit
    now: Callable[[], float] = time.monotonic
    over: bool = False  # Whether the block that is about to begin would be cut
    _lengths: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    def follow(self, cells: Iterable[C], block_of: Callable[[C], int]) -> Iterator[C]:
        """Yield cells, and look before each block whether it has the time of the last ones."""
        begun = self.now()
        block, start = None, begun
        for cell in cells:
            if block_of(cell) != block:
                at = self.now()
                if block is not None:
                    self._lengths.append(at - start)
                block, start = block_of(cell), at
                longest = max(self._lengths, default=0.0)
                self.over = self.seconds is not None and at - begun + longest > self.seconds
            yield cell


def measure_cells(
    cells: Iterable[C],
    measure: Callable[[C], Iterable[R]],
    keep: Callable[[R], object],
    check: Callable[[], Ending | None],
) -> Ending:
    """Measure cells in their order, and keep each result as soon as it is there.

    EtuiError if the engine failed, or a result cannot be written.

    Args:
        cells: Cells that are left; an iterator may choose the next ones by the results so far.
        check: Returns why the experiment ends now, or None.
    """
    for cell in cells:
        if ending := check():
            return ending
        try:
            for result in measure(cell):
                keep(result)
                if ending := check():
                    return ending
        except StopRequested:
            return "stopped"
    return "complete"


def measure_undisturbed(
    measure: Callable[[], R],
    *,
    attempts: int = ATTEMPTS,
    wait_s: float = WAIT_S,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[R, tuple[str, ...]]:
    """Measure again, from the beginning, what was disturbed.

    Also returns why the attempts before the result were discarded. Stopped if all attempts were
    disturbed; the experiment can be resumed.
    """
    reasons: list[str] = []
    while True:
        try:
            return measure(), tuple(reasons)
        except Disturbed as disturbed:
            reasons.append(str(disturbed))
            if len(reasons) >= attempts:
                raise Stopped(
                    f"a block was disturbed in all of {attempts} attempts: {disturbed}",
                    "end what disturbs it (other programs, a meter that fails), then run the same "
                    "command again to resume",
                ) from None
            sleep(wait_s)


def shuffle_grouped(items: Sequence[C], group_of: Callable[[C], str], random: Random) -> list[C]:
    """Shuffle groups, and the items of each group, so that a group stays together.

    ``group_of``: names the group of an item: its model, which is not loaded again within a group.
    """
    groups = [list(inside) for _, inside in groupby(sorted(items, key=group_of), key=group_of)]
    random.shuffle(groups)
    for group in groups:
        random.shuffle(group)
    return [item for group in groups for item in group]


def work_between_blocks(
    cells: Iterable[C], block_of: Callable[[C], int], work: Callable[[], object]
) -> Iterator[C]:
    """Yield cells, and work after each block before the first cell of the next one is asked for."""
    block: int | None = None
    for cell in cells:
        if block is not None and block_of(cell) != block:
            work()
        block = block_of(cell)
        yield cell
    if block is not None:
        work()

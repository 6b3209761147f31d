"""The lengths that a calibration measures, their order, and the time that they take."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from etui.curves.operating_curve import Speed
from etui.errors import UsageError

_GRID = re.compile(r"(\d{1,6}(?:,\d{1,6})*)x(\d{1,6}(?:,\d{1,6})*)")
_SETTLE_S = 0.2
"""Seconds per visit to wait for the meter and to tokenize."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Prompt and output lengths, measured in every combination."""

    computed: tuple[int, ...] = (32, 128, 512, 1024)  # Prompt lengths
    output: tuple[int, ...] = (16, 64, 192)
    """Output lengths, at least 2: the first token is drawn by the prefill alone."""
    repeats: int = 3  # Number of measurements of each combination
    window_s: float = 2.0
    """Least seconds of a phase. A shorter phase is repeated back to back until it has lasted as
    long, because meters are refreshed ten times a second at best."""
    cool_down_s: float = 1.0  # Seconds of idle time before each visit

    @property
    def points(self) -> int:
        """Measurements that a curve is fitted to."""
        return len(self.computed) * len(self.output) * self.repeats

    @property
    def least_seconds(self) -> float:
        """Time of the measurements at least, where no phase takes longer than its window."""
        return self.points * (2 * self.window_s + self.cool_down_s + _SETTLE_S)

    def __str__(self) -> str:
        return "x".join(",".join(map(str, lengths)) for lengths in (self.computed, self.output))


QUICK = Grid((32, 128, 384), (8, 32, 96), repeats=2, window_s=0.5, cool_down_s=0.3)
"""A grid for a rough curve within a minute or two."""


class CurveVisit(NamedTuple):
    """One measurement of a turn; a held-out one tests the fit and is not part of it."""

    computed: int  # Prompt tokens to compute
    output: int
    held_out: bool = False


def parse_grid(text: str, base: Grid) -> Grid:
    """Parse ``32,128,512x16,64``: prompt lengths, and output lengths after the ``x``.

    The other settings are those of ``base``. UsageError if the text is not a grid, or the grid is
    too small to fit a curve to.
    """
    found = _GRID.fullmatch(text.replace(" ", ""))
    if found is None:
        raise UsageError(
            f"--grid {text!r} is not a grid",
            "write prompt lengths, an x and output lengths: 32,128,512x16,64,192",
        )
    computed, output = (tuple(sorted({int(n) for n in part.split(",")})) for part in found.groups())
    if len(computed) < 2 or len(output) < 2:
        raise UsageError(
            f"--grid {text!r} has too few lengths to fit a curve",
            "give at least two prompt lengths and two output lengths",
        )
    if computed[0] < 1 or output[0] < 2:
        raise UsageError(
            f"--grid {text!r} has a length that is too short",
            "use prompts of at least 1 token and outputs of at least 2 tokens",
        )
    return replace(base, computed=computed, output=output)


def fit_into_context(grid: Grid, context_tokens: int) -> Grid:
    """Return the grid without the lengths that do not fit into a context; UsageError if few fit."""
    output = tuple(n for n in grid.output if n <= context_tokens // 2)
    room = context_tokens - max(output, default=0)
    computed = tuple(n for n in grid.computed if n <= room)
    if len(computed) < 2 or len(output) < 2:
        raise UsageError(
            f"too few lengths of the grid {grid} fit into a context of {context_tokens} tokens",
            "give shorter lengths with --grid, or raise `context` of the model in models.yaml",
        )
    return replace(grid, computed=computed, output=output)


def list_visits(grid: Grid, seed: int) -> tuple[CurveVisit, ...]:
    """List every combination and its repeats, and held-out lengths between them, shuffled.

    The order is random, so that a machine that warms up or slows down does not distort the curve.
    """
    on_grid = [
        CurveVisit(computed, output)
        for computed in grid.computed
        for output in grid.output
        for _ in range(grid.repeats)
    ]
    off_grid = [
        CurveVisit(computed, output, held_out=True)
        for computed in between(grid.computed)
        for output in between(grid.output)
    ]
    order = [*on_grid, *off_grid]
    random.Random(seed).shuffle(order)
    return tuple(order)


def between(lengths: Sequence[int]) -> list[int]:
    """Return the geometric mean of each two neighbours; none where no length is between them."""
    pairs = itertools.pairwise(lengths)
    middles = [round(math.sqrt(low * high)) for low, high in pairs]
    return [middle for middle in middles if middle not in lengths]


def expected_seconds(left: Sequence[CurveVisit], grid: Grid, speed: Speed) -> float | None:
    """Predict the seconds of the remaining visits; None while the speed is not known."""
    prefill, decode = speed.prefill_tokens_per_second, speed.decode_tokens_per_second
    if not prefill or not decode:
        return None
    return math.fsum(
        max(grid.window_s, visit.computed / prefill)
        + max(grid.window_s, visit.output / decode)
        + grid.cool_down_s
        + _SETTLE_S
        for visit in left
    )


def seconds_left(
    order: Sequence[CurveVisit], begun: int, done: int, elapsed_s: float, grid: Grid, speed: Speed
) -> float | None:
    """Predict the remaining seconds, scaled by how long the visits so far took.

    None while the speed is not known. Of the visits, ``begun`` were done at the start and ``done``
    are now, after ``elapsed_s``.
    """
    left = expected_seconds(order[done:], grid, speed)
    behind = expected_seconds(order[begun:done], grid, speed)
    return left * elapsed_s / behind if left is not None and behind else left

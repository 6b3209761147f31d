"""Which lengths a calibration measures, in which order, and how long that takes."""

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
"""Waiting for the meter and tokenizing, per visit."""


class Length(NamedTuple):
    """Prompt tokens to compute and tokens to put out."""

    computed: int
    output: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Lengths that are combined with each other.

    Attributes:
        computed: Prompt lengths.
        output: Output lengths, at least 2: one token is drawn by the prefill alone.
        repeats: How often each combination is measured.
        window_s: A phase shorter than this is done again, back to back, until it has lasted as
            long: meters are refreshed ten times a second at best.
        cool_down_s: Rest before each visit.
    """

    computed: tuple[int, ...] = (32, 128, 512, 1024)
    output: tuple[int, ...] = (16, 64, 192)
    repeats: int = 3
    window_s: float = 2.0
    cool_down_s: float = 1.0

    @property
    def points(self) -> int:
        """Measurements that a curve is fitted to."""
        return len(self.computed) * len(self.output) * self.repeats

    def __str__(self) -> str:
        return f"{_listed(self.computed)}x{_listed(self.output)}"


QUICK = Grid((32, 128, 384), (8, 32, 96), repeats=2, window_s=0.5, cool_down_s=0.3)
"""A rough curve within a minute or two."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One measurement of one length; a held-out one judges the fit and is no part of it."""

    length: Length
    held_out: bool = False


def parse_grid(text: str, base: Grid) -> Grid:
    """``32,128,512x16,64``: prompt lengths, and output lengths behind the ``x``.

    Raises:
        UsageError: It is no such grid, or too small to fit a curve to.
    """
    found = _GRID.fullmatch(text.replace(" ", ""))
    if found is None:
        raise UsageError(
            f"--grid {text!r} is no grid",
            "write prompt lengths, an x and output lengths: 32,128,512x16,64,192",
        )
    computed, output = (tuple(sorted({int(n) for n in part.split(",")})) for part in found.groups())
    if len(computed) < 2 or len(output) < 2:
        raise UsageError(
            f"--grid {text!r} has one length where a curve needs several",
            "give at least two prompt lengths and two output lengths",
        )
    if computed[0] < 1 or output[0] < 2:
        raise UsageError(
            f"--grid {text!r} holds a length that costs nothing",
            "prompts have at least 1 token, and outputs at least 2",
        )
    return replace(base, computed=computed, output=output)


def fitted_into(grid: Grid, context_tokens: int) -> Grid:
    """The grid without the lengths that a context cannot hold.

    Raises:
        UsageError: Too little of it is left.
    """
    output = tuple(n for n in grid.output if n <= context_tokens // 2)
    room = context_tokens - max(output, default=0)
    computed = tuple(n for n in grid.computed if n <= room)
    if len(computed) < 2 or len(output) < 2:
        raise UsageError(
            f"a context of {context_tokens} tokens holds too little of the grid {grid}",
            "give shorter lengths with --grid, or raise `context` of the model in models.yaml",
        )
    return replace(grid, computed=computed, output=output)


def visits(grid: Grid, seed: int) -> tuple[Visit, ...]:
    """Every combination, as often as asked, and one off the grid between each two; shuffled.

    The order is random so that a machine that warms up or slows down does not bend the curve.
    """
    on_grid = [
        Visit(Length(computed, output))
        for computed in grid.computed
        for output in grid.output
        for _ in range(grid.repeats)
    ]
    off_grid = [
        Visit(Length(computed, output), held_out=True)
        for computed in between(grid.computed)
        for output in between(grid.output)
    ]
    order = [*on_grid, *off_grid]
    random.Random(seed).shuffle(order)
    return tuple(order)


def between(lengths: Sequence[int]) -> list[int]:
    """A length between each two neighbours, their geometric mean; none where they touch."""
    pairs = itertools.pairwise(lengths)
    middles = [round(math.sqrt(low * high)) for low, high in pairs]
    return [middle for middle in middles if middle not in lengths]


def expected_seconds(left: Sequence[Visit], grid: Grid, speed: Speed) -> float | None:
    """How long the visits that are left will take; None where the speed is not known yet."""
    prefill, decode = speed.prefill_tokens_per_second, speed.decode_tokens_per_second
    if not prefill or not decode:
        return None
    return math.fsum(
        max(grid.window_s, visit.length.computed / prefill)
        + max(grid.window_s, visit.length.output / decode)
        + grid.cool_down_s
        + _SETTLE_S
        for visit in left
    )


def seconds_left(
    order: Sequence[Visit], begun: int, done: int, elapsed_s: float, grid: Grid, speed: Speed
) -> float | None:
    """The rest of the expected time, stretched by how the visits so far kept to theirs.

    Args:
        order: Every visit.
        begun, done: How many were there at the start, and are there now.
        elapsed_s: Seconds since the start.
    """
    left = expected_seconds(order[done:], grid, speed)
    behind = expected_seconds(order[begun:done], grid, speed)
    return left * elapsed_s / behind if left is not None and behind else left


def _listed(lengths: Sequence[int]) -> str:
    return ",".join(map(str, lengths))

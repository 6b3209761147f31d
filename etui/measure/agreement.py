"""How far channels that cover the same hardware agree: bias, scatter, and how late one follows.

Each channel's joules are cut into equal slices, the second one's shifted by the lag at which both
correlate best, so that a wall meter that shows the power two seconds later does not count as noise.
The lag can only be seen while the power changes; at even power it is unknown, and not assumed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from etui.energy.lags import correlate
from etui.energy.recorder import Recorder
from etui.energy.scopes import WALL, family, select_disjoint
from etui.energy.types import Channel, Kind
from etui.stats.arrays import Floats, Whole
from etui.stats.small_samples import estimate_means

_WHOLE = (WALL, "system", "battery", "psys")  # Scopes of the whole machine, from the outside in
_LATEST_S, _EARLIEST_S = 15.0, -3.0
"""Lags that are tried: how late, and how early, the second channel may be."""
_LEAST_SLICE_S, _MOST_SLICES = 0.25, 2000
_SLICE_PERIODS = 4.0
"""A slice has at least so many refreshes of the slower channel: its edges blur by about one."""
_LEAST_STEP_S, _STEP_PERIODS = 0.05, 0.25  # Between two lags that are tried
_CLEAR = 0.8  # Correlation from which the lag and the line through both are believed
_LEAST_SLICES = 12
_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: the sum of some channels."""

    channels: tuple[str, ...]
    by_power: bool = False  # By the power readings of a channel that has a counter too

    @property
    def name(self) -> str:
        """``package:0 + gpu:GPU-1``; ``gpu:GPU-1 (power)``."""
        return " + ".join(self.channels) + (" (power)" if self.by_power else "")


@dataclass(frozen=True, slots=True)
class ChannelPair:
    """Two ways to measure the same hardware."""

    first: Side
    second: Side
    second_covers_more: bool = False
    """Whether the second covers hardware that the first does not: a bias is then no error, but
    what only the second sees (the loss of the power supply, memory, fans)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the second side of a pair compares with the first; None where it is not known."""

    first: str
    second: str
    second_covers_more: bool
    seconds: float  # Time that was compared
    slice_seconds: float
    slices: int
    first_watts: float | None = None  # Mean power; None if there is too little to compare
    bias_watts: float | None = None  # Second less first
    bias_half_watts: float | None = None  # Its half width at 95 %, from the scatter over time
    bias_percent: float | None = None  # Of the first
    scatter_watts: float | None = None
    """Standard deviation of the difference of slices, after the shift by the lag."""
    lag_seconds: float | None = None  # How late the second follows; None: the power was too even
    correlation: float | None = None
    slope: float | None = None  # Watts of the second for each watt of the first, if that is clear
    offset_watts: float | None = None  # Second where the first would be 0, by the same line


def find_pairs(channels: Sequence[Channel], doubled: Collection[str] = ()) -> list[ChannelPair]:
    """Find the pairs of measurements that cover the same hardware.

    ``doubled`` are ids of channels with a counter and power readings.
    """
    real = [c for c in channels if c.kind is not Kind.ESTIMATE]
    pairs = [
        ChannelPair(Side((c.id,)), Side((c.id,), by_power=True)) for c in real if c.id in doubled
    ]
    pairs += [
        ChannelPair(Side((a.id,)), Side((b.id,)))
        for a, b in combinations(real, 2)
        if a.scope == b.scope and family(a.scope) not in _WHOLE
    ]
    inner = [c for c in real if family(c.scope) not in _WHOLE]
    parts = Side(tuple(c.id for c in select_disjoint(inner, "never").summed))
    whole = sorted(
        (c for c in real if family(c.scope) in _WHOLE), key=lambda c: _WHOLE.index(family(c.scope))
    )
    pairs += [
        ChannelPair(Side((inside.id,)), Side((outside.id,)), second_covers_more=True)
        for outside, inside in combinations(whole, 2)
        if {family(outside.scope), family(inside.scope)} != {WALL, "battery"}
    ]
    if parts.channels:
        pairs += [
            ChannelPair(parts, Side((c.id,)), second_covers_more=True) for c in reversed(whole)
        ]
    return pairs


def compare_channels(
    recorder: Recorder, pair: ChannelPair, start_ns: int, end_ns: int
) -> Agreement:
    """Compare both sides of a pair over an interval that was recorded."""
    ids = (*pair.first.channels, *pair.second.channels)
    period_s = max(recorder.period_s(id_) or 0.0 for id_ in ids)
    seconds = (end_ns - start_ns) / 1e9
    slice_s = max(_LEAST_SLICE_S, _SLICE_PERIODS * period_s, seconds / _MOST_SLICES)
    slice_ns = int(slice_s * 1e9)
    marks = np.arange(start_ns, end_ns + 1, slice_ns, dtype=np.int64)
    nothing = Agreement(
        pair.first.name, pair.second.name, pair.second_covers_more, seconds, slice_s, 0
    )
    if len(marks) <= _LEAST_SLICES:
        return nothing
    first = _read_watts(recorder, pair.first, marks)
    step_s = max(_LEAST_STEP_S, _STEP_PERIODS * period_s)
    lags = np.arange(round(_EARLIEST_S / step_s), round(_LATEST_S / step_s) + 1) * step_s
    lags = lags[np.abs(lags) <= seconds / 3]
    lag_s, correlation = None, None
    for lag in lags.tolist():
        second = _read_watts(recorder, pair.second, marks + int(lag * 1e9), (start_ns, end_ns))
        found = correlate(first, second, _LEAST_SLICES)
        if found is not None and (correlation is None or found > correlation):
            lag_s, correlation = lag, found
    if correlation is None or correlation < _CLEAR:
        lag_s = None
    shifted = marks + int((lag_s or 0.0) * 1e9)
    second = _read_watts(recorder, pair.second, shifted, (start_ns, end_ns))
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < _LEAST_SLICES:
        return nothing
    if lag_s is not None:  # the recorder has shifted a wall meter by what it has learned itself
        walls = [channel.id for channel in recorder.wall_channels if channel.id in ids]
        lag_s += sum(recorder.wall_lag(id_).seconds for id_ in walls)
    return _describe(nothing, first[known], second[known], lag_s, correlation)


def _describe(
    about: Agreement, first: Floats, second: Floats, lag_s: float | None, correlation: float | None
) -> Agreement:
    difference = second - first
    blocks = np.array([block.mean() for block in np.array_split(difference, _BLOCKS)])
    (estimate,) = estimate_means([np.sort(blocks)], seed=0)
    mean, bias = float(first.mean()), float(difference.mean())
    half = None if estimate.high is None else (estimate.high - (estimate.low or 0.0)) / 2
    slope = offset = None
    if lag_s is not None and float(first.var()) > 0:
        slope = float(np.cov(first, second, bias=True)[0, 1] / first.var())
        offset = float(second.mean()) - slope * mean
    return replace(
        about,
        seconds=len(first) * about.slice_seconds,
        slices=len(first),
        first_watts=mean,
        bias_watts=bias,
        bias_half_watts=half,
        bias_percent=100 * bias / mean if mean else None,
        scatter_watts=float(difference.std(ddof=1)),
        lag_seconds=lag_s,
        correlation=correlation,
        slope=slope,
        offset_watts=offset,
    )


def _read_watts(
    recorder: Recorder, side: Side, marks: Whole, within: tuple[int, int] | None = None
) -> Floats:
    """Read the mean watts between adjacent marks; NaN where a channel was not recorded."""
    total = np.zeros(len(marks) - 1)
    for id_ in side.channels:
        joules = recorder.joules_of_channel(id_, marks[:-1], marks[1:], by_power=side.by_power)
        total += joules / (marks[1:] - marks[:-1]) * 1e9
    if within is not None:
        total[(marks[:-1] < within[0]) | (marks[1:] > within[1])] = np.nan
    return total

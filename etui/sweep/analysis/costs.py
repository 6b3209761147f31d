"""Figures of visits as arrays of logs: blocks, settings and copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.sweep.blocks import Block, Figure, PhaseCost, Visit

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

_LARGEST_LOG = 500.0
"""Log of the largest factor: 1e217."""


def joules(visit: Visit) -> float | None:
    """Return the joules of one answer; None if a phase is unmeasured."""
    return visit.joules


def seconds(visit: Visit) -> float | None:
    """Return the seconds of one answer."""
    return visit.seconds


def prefill_joules_per_token(visit: Visit) -> float | None:
    """Return joules per computed prompt token; None if unmeasured."""
    return _per_token(visit.prefill)


def decode_joules_per_token(visit: Visit) -> float | None:
    """Return joules per drawn token; None if unmeasured."""
    return _per_token(visit.decode)


def read_logs(blocks: Sequence[Block], keys: Sequence[str], figure: Figure) -> Floats:
    """Take the logs of a figure.

    A visit that was disturbed, or whose figure is unmeasured or not above 0, is missing.

    Args:
        keys: Keys of the settings; visits of others are left out.

    Returns:
        Shape (blocks, settings, 2 copies), NaN where a visit is missing.
    """
    import numpy as np

    place = {key: at for at, key in enumerate(keys)}
    logs = np.full((len(blocks), len(keys), 2), np.nan)
    for row, block in enumerate(blocks):
        for visit in block.visits:
            value = None if visit.disturbed else figure(visit)
            if visit.setting in place and value is not None and value > 0:
                logs[row, place[visit.setting], visit.copy] = math.log(value)
    return logs


def average_copies(logs: Floats) -> Floats:
    """Average the copies that are there.

    Args:
        logs: Shape (blocks, settings, 2).

    Returns:
        Shape (blocks, settings); NaN where both are missing.
    """
    import numpy as np

    there = np.isfinite(logs)
    count = there.sum(axis=-1)
    total = np.where(there, logs, 0.0).sum(axis=-1)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(mean)


def drop_missing(column: Floats) -> Floats:
    """Return the values of a column that are not NaN."""
    import numpy as np

    return np.asarray(column[np.isfinite(column)])


def to_factor(log: float) -> float:
    """Return e to the power of a log, which is finite for the interval of two wild visits too."""
    return math.exp(min(log, _LARGEST_LOG))


def to_percent(log_ratio: float) -> float:
    """Turn a log ratio into percent of the reference."""
    return 100 * math.expm1(min(log_ratio, _LARGEST_LOG))


def _per_token(phase: PhaseCost) -> float | None:
    if phase.joules is None or phase.tokens <= 0:
        return None
    return phase.joules / phase.tokens

"""Energy and levels around marks of power steps, by least squares.

An engine's events say when its power steps: where an answer begins, where its first token comes,
where it ends. Between two marks the power near them is taken as level. The levels follow from the
edges of a counter (:func:`fit_steps`) or from power readings (:func:`fit_levels`); a weak prior
draws those that the readings do not determine to the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_ROUNDS = 3
_MOST_ROUNDS = 6
_STEADY_JOULES = 0.01
"""Rounds end when the energy at the mark moves by less."""
_WANDER = 0.04
"""Relative scatter of the power of one tick around its level, at least."""
_VARIES = 0.1
"""Relative scatter of the level of a phase from turn to turn."""
_LEAST_VARIES = 0.06
"""The same scatter in shares of the largest power: a rest differs more than its few watts say."""
_RAMP_S = 0.06
_RAMP_SIGMA = 0.5
"""Time in which a step may rise or fall in truth, and the deviation of its share that it does."""
_LATE_S = {"prefill": 0.001, "decode": 0.001, "idle": -0.001}
"""Time from a mark to its step: work begins after the event that says so, and ends before it."""
_LEAST_EDGE_S = 0.0002
_RELATIVE_NOISE = 0.02
_LEAST_NOISE_WATTS = 0.5


@dataclass(frozen=True, slots=True)
class MarkFit:
    """The fit at one mark, with the standard deviations of its joules by what they come from."""

    joules: float  # Energy up to it, from the origin of the edges
    own_joules: float  # From the times of the edges, which are each channel's own
    shared_joules: float  # From what the power did, as all channels under one load do
    step_watts: float  # Level after it minus level before it
    misfit_joules: float
    """Energy of its tick that the levels do not explain, and that may be before or after it."""


def fit_steps(
    marks_s: Sequence[float],
    edges: Sequence[tuple[float, float, float]],
    phases: Sequence[str] = (),
    at: int = 0,
) -> tuple[MarkFit, ...]:
    """Fit the energy at marks, and the levels between them, to edges of a counter.

    The energy at a time is linear in the energy at a mark and the levels between marks, and every
    edge is an observation of it, off by the level at the edge times the error of the edge's time,
    and by what the power wandered since the mark. So the energy at a step follows mostly from the
    edge on its low side, where a late edge costs the least. Levels of the same phase are nearly
    equal: of turns that follow each other, a tick holds parts of several phases, which only many
    ticks tell apart. A share of all steps may be ramps of 60 ms; the fit finds it with the levels.

    Args:
        marks_s: Times of the marks in seconds, in order, at least one.
        edges: Edges around them in order of time, at least two: seconds, joules up to it from any
            origin, and the standard deviation of the seconds.
        phases: Those before, between and after the marks; an empty one is like no other.
        at: Index of the mark whose fit comes first; those before it only give the phases.
    """
    import numpy as np

    count = len(marks_s) + 1
    times, joules, sigma_s = np.array(edges).T
    names = tuple(phases) or ("",) * count
    marks = np.array(marks_s) + [_LATE_S.get(name, 0.0) for name in names[1:]]
    marks = np.maximum.accumulate(marks)
    spans = np.diff(times)
    tick_s = float(np.median(spans))
    mean = float((joules[-1] - joules[0]) / (times[-1] - times[0]))
    # Two reads in quick succession say nothing about the power between them.
    watts = np.where(spans > 0.1 * tick_s, np.diff(joules) / spans, mean)
    most = max(float(watts.max()), 1.0)
    origin = marks_s[at]
    targets = np.array(marks_s[at:])
    tick = np.clip(times.searchsorted(targets, side="right"), 1, len(times) - 1)
    rows = _spend(np.concatenate((times, targets)), origin, marks)
    ramps = np.concatenate((times, targets))[:, None] - marks
    ramps = np.where(
        ramps < _RAMP_S, np.maximum(ramps, 0.0) * (1 - ramps / (2 * _RAMP_S)), _RAMP_S / 2
    )
    wandered = np.concatenate(([0.0], np.cumsum((_WANDER * watts) ** 2 * spans * tick_s)))
    wandered -= np.interp(origin, times, wandered)
    together = np.minimum.outer(abs(wandered), abs(wandered))
    together *= np.multiply.outer(wandered, wandered) > 0
    sigma_s = np.maximum(sigma_s, _LEAST_EDGE_S)
    level = marks.searchsorted(times, side="right")
    slowly = np.minimum(np.append(watts, watts[-1]), np.insert(watts, 0, watts[0]))
    across = np.diff(np.eye(count), axis=0)
    center = float(joules[0])
    prior = np.zeros((count + 2, count + 2))
    prior[-1, -1] = 1 / _RAMP_SIGMA**2
    fits = []
    for ramped in (0.0, 1.0):  # the fit is not linear: from either start it may stay there
        levels, steps, share, at_edge = np.full(count, mean), np.zeros(count - 1), ramped, slowly
        before = math.inf
        for _ in range(_MOST_ROUNDS):
            prior[1:-1, 1:-1] = np.linalg.inv(_relate(names, levels, most))
            late = rows - share * ramps @ across  # Seconds of each level behind its ramp
            design = np.column_stack((np.ones(len(rows)), late, -(ramps @ steps)))
            seen, wanted = design[: len(times)], design[len(times) :]
            timing = (at_edge * sigma_s) ** 2
            weights = np.linalg.inv(together + np.diag(timing + 1e-6))
            weighted = seen.T @ weights
            covariance = np.linalg.inv(weighted @ seen + prior)
            expected = np.array([0.0, *[mean] * count, -share])
            found = covariance @ (weighted @ (joules - center) + prior @ expected)
            levels = np.maximum(found[1:-1], 0.0)
            steps = np.diff(levels)
            at_edge = np.maximum(levels[level], 0.02 * most)
            share += float(found[-1])
            if abs(found[0] - before) < _STEADY_JOULES:
                break
            before = found[0]
        off, pulled = joules - center - seen @ found, found - expected
        misfit = float(off @ weights @ off + pulled @ prior @ pulled)
        for known in (covariance, weights, prior[1:, 1:]):
            misfit -= float(np.linalg.slogdet(known)[1])
        own = ((wanted @ covariance @ weighted) ** 2 * timing).sum(axis=1)
        whole = np.einsum("ij,jk,ik->i", wanted, covariance, wanted)
        fits.append(
            (misfit, wanted @ found, own, whole, steps[at:], abs(off[tick] - off[tick - 1]))
        )
    misfits, energies, own, whole, found_steps, unexplained = (
        np.array(part) for part in zip(*fits, strict=True)
    )
    odds = np.exp((misfits.min() - misfits) / 2)
    odds /= odds.sum()
    energy, own, whole, step, left = (
        odds @ part for part in (energies, own, whole, found_steps, unexplained)
    )
    whole += odds @ (energies - energy) ** 2
    return tuple(
        MarkFit(center + float(e), math.sqrt(float(o)), math.sqrt(max(float(w - o), 0.0)), p, m)
        for e, o, w, p, m in zip(*(energy, own, whole, step.tolist(), left.tolist()), strict=True)
    )


def _spend(
    times_s: np.ndarray[Any, Any], origin_s: float, marks_s: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return the seconds of each level from an origin to each time; negative before it."""
    import numpy as np

    bounds = np.concatenate(([-np.inf], marks_s, [np.inf]))
    low = np.minimum(times_s, origin_s)[:, None]
    high = np.maximum(times_s, origin_s)[:, None]
    spent = np.clip(np.minimum(high, bounds[1:]) - np.maximum(low, bounds[:-1]), 0.0, None)
    signed: np.ndarray[Any, Any] = spent * np.where(times_s < origin_s, -1.0, 1.0)[:, None]
    return signed


def _relate(
    phases: Sequence[str], levels: np.ndarray[Any, Any], most: float
) -> np.ndarray[Any, Any]:
    """Return the covariance of levels before any reading: large, and common to a phase."""
    import numpy as np

    names = np.array(phases)
    known = names != ""
    varies = _VARIES * levels + _LEAST_VARIES * most
    alike: np.ndarray[Any, Any] = (names[:, None] == names) & known
    related: np.ndarray[Any, Any] = alike * most**2 + np.diag(np.where(known, varies, most) ** 2)
    return related


@dataclass(frozen=True, slots=True)
class LevelFit:
    """Levels between marks."""

    marks_s: tuple[float, ...]  # Times of the marks, seconds
    watts: np.ndarray[Any, Any]  # Levels before, between and after them, one more than marks
    covariance: np.ndarray[Any, Any]  # Covariance of the levels, watts squared

    def joules(
        self, times_s: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the energy from the first of these times to each, and its deviation, joules."""
        import numpy as np

        bounds = np.array([-np.inf, *self.marks_s, np.inf])
        low, high = bounds[:-1], bounds[1:]
        spent = np.minimum(times_s[:, None], high) - np.maximum(times_s[0], low)
        spent = np.clip(spent, 0.0, None)
        variance = np.einsum("ij,jk,ik->i", spent, self.covariance, spent)
        return spent @ self.watts, np.sqrt(np.maximum(variance, 0.0))


def fit_levels(
    marks_s: Sequence[float],
    times_s: np.ndarray[Any, Any],
    watts: np.ndarray[Any, Any],
    average_s: float,
    refresh_s: float,
    phases: Sequence[str] = (),
) -> LevelFit:
    """Fit the levels around marks to power readings that follow a step late.

    A reading is the mean of the time before it, and up to a refresh old. Dated to the middle of
    that time, it follows a step at m along a ramp centred at m: the averaging time, blurred by the
    age. The readings are then linear in the levels, and the energy of the levels replaces that of
    the readings. Marks and phases are as of :func:`fit_steps`; the readings are dated to the middle
    of what they average, for ``average_s`` (0 if they are instant).
    """
    import numpy as np

    count = len(marks_s) + 1
    along = follow_step(times_s[:, None] - np.array(marks_s), average_s, refresh_s)
    before = np.hstack([np.ones((len(times_s), 1)), along])
    after = np.hstack([along, np.zeros((len(times_s), 1))])
    shares = before - after
    mean, most = float(watts.mean()), max(float(watts.max()), 1.0)
    names = tuple(phases) or ("",) * count
    levels = np.full(count, mean)
    moving = (along > 1e-6) & (along < 1 - 1e-6)
    swing = float(watts.max() - watts.min())
    steps = np.full(len(marks_s), swing)
    # Reads within one refresh repeat it, and are wrong together.
    spacing = np.gradient(times_s) if len(times_s) > 1 else np.array([refresh_s])
    repeated = np.maximum(refresh_s / np.maximum(spacing, 1e-4), 1.0)
    late = refresh_s / max(average_s, refresh_s) / math.sqrt(12)
    for _ in range(_ROUNDS):
        aged = moving.any(axis=1) * max(float(np.abs(steps).max()), swing) * late
        noise = np.maximum(_RELATIVE_NOISE * watts, _LEAST_NOISE_WATTS)
        prior = np.linalg.inv(_relate(names, levels, most))
        weighted = shares / ((noise**2 + aged**2) * repeated)[:, None]
        covariance = np.linalg.inv(shares.T @ weighted + prior)
        pull = prior @ np.full(count, mean)
        levels = np.maximum(covariance @ (weighted.T @ watts + pull), 0.0)
        steps = np.diff(levels)
    return LevelFit(tuple(marks_s), levels, covariance)


def follow_step(
    after_s: np.ndarray[Any, Any], average_s: float, refresh_s: float
) -> np.ndarray[Any, Any]:
    """Return how much of a step a reading shows that is dated this long after it, 0 to 1.

    The mean over the age of a reading of a running average: a step through two boxes, of the
    averaging time and of the refresh.
    """
    import numpy as np

    if average_s < refresh_s:
        ramp: np.ndarray[Any, Any] = np.clip(after_s / refresh_s + 0.5, 0.0, 1.0)
        return ramp
    half, inner = (average_s + refresh_s) / 2, (average_s - refresh_s) / 2
    area = sum(
        sign * np.maximum(after_s + shift, 0.0) ** 2 / 2
        for sign, shift in ((1, half), (-1, inner), (-1, -inner), (1, -half))
    )
    shown: np.ndarray[Any, Any] = np.clip(area / (average_s * refresh_s), 0.0, 1.0)
    return shown

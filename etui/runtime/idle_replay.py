"""Replay the gaps between questions under several keep-warm times: joules of idling and loads.

A gap is the time from the end of an answer to the next question to the same model. The app is
assumed to run during all of them, and each model is counted as if it were the only one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

from etui.energy.keep_warm import (
    LEAST_SECONDS,
    Measured,
    choose_keep_warm,
    compute_break_even,
    compute_gap_joules,
)
from etui.log.gaps import Gap, compute_gaps, read_uses
from etui.runtime.keep_warm import ModelIdle, read_all_idle

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue

MOST_TURNS = 100_000
"""Number of the last turns of chats that are read."""


@dataclass(frozen=True, slots=True)
class IdleDay:
    """The gaps that begin on one day, in local time."""

    date: str  # `2026-11-25`
    replay: IdleReplay
    """The times over these gaps; ``auto`` has learned from all gaps before each one."""


@dataclass(frozen=True, slots=True)
class ModelReplay:
    """The replay of one model."""

    idle: ModelIdle  # What is known of keeping it warm
    cost: IdleCost | None  # The numbers of the replay; None if one is unknown
    whole: IdleReplay | None  # All gaps of the window; None without a cost or a gap
    days: tuple[IdleDay, ...]
    missing: str = ""  # What is missing for a replay; empty if nothing is


def replay_idle_log(
    log: LogReader, config: Config, catalogue: Catalogue, since_seconds: float
) -> list[ModelReplay]:
    """Replay the gaps of each model that was used in chats.

    Args:
        since_seconds: Beginning of the window, in seconds since 1970; ``auto`` learns from earlier
            gaps too.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    uses = read_uses(log, MOST_TURNS)
    used = {name for use in uses if use.end_seconds >= since_seconds for name in use.models}
    return [
        replay_model(idle, compute_gaps(uses, idle.model), since_seconds)
        for idle in read_all_idle(log, config, catalogue)
        if idle.model in used
    ]


def replay_model(idle: ModelIdle, gaps: Sequence[Gap], since_seconds: float) -> ModelReplay:
    """Replay the gaps of one model that begin in the window."""
    before = [gap.seconds for gap in gaps if gap.start_seconds < since_seconds]
    inside = [gap for gap in gaps if gap.start_seconds >= since_seconds]
    load, extra, cold = idle.load, idle.extra_watts, idle.cold_watts
    cost = None
    if load is not None and extra is not None and cold is not None:
        cost = IdleCost(load.joules, extra, cold)
    missing = _name_missing(idle, cost, inside)
    if cost is None or missing:
        return ModelReplay(idle, cost, None, (), missing)
    seconds = [gap.seconds for gap in inside]
    chosen = choose_times(seconds, cost, before)
    days: list[IdleDay] = []
    at = 0
    for date, group in groupby(inside, _find_date):
        end = at + len(list(group))
        days.append(IdleDay(date, replay_gaps(seconds[at:end], cost, chosen=chosen[at:end])))
        at = end
    return ModelReplay(idle, cost, replay_gaps(seconds, cost, chosen=chosen), tuple(days))


NOT_MEASURED = "not measured yet: "
"""Begins ``ModelReplay.missing`` where a measurement would enable the replay."""


def _name_missing(idle: ModelIdle, cost: IdleCost | None, gaps: Sequence[Gap]) -> str:
    if cost is None:
        wanted = (
            ("the joules of a load", idle.load is None),
            ("its idle power", idle.loaded_watts is None),
            ("the cold idle power", idle.cold_watts is None),
        )
        names = [name for name, is_missing in wanted if is_missing]
        return f"{NOT_MEASURED}{', '.join(names) or 'the idle power over the same channels'}"
    if cost.load_joules.value <= 0:
        return "its loads have no joules"
    if cost.extra_watts.value <= 0:
        return "idling costs nothing: with the model in memory the machine draws no more than cold"
    return "" if gaps else "no two questions in this time"


def _find_date(gap: Gap) -> str:
    return datetime.fromtimestamp(gap.start_seconds).astimezone().date().isoformat()


FIXED_SECONDS: Mapping[str, float] = {
    "1 min": 60.0,
    "5 min": 300.0,
    "15 min": 900.0,
    "60 min": 3600.0,
    "never": math.inf,
}
"""Name -> keep-warm time that is compared with the others."""


@dataclass(frozen=True, slots=True)
class IdleCost:
    """What a model costs on this machine while it answers nothing."""

    load_joules: Measured
    extra_watts: Measured  # Idle watts with it in memory minus those without
    cold_watts: Measured  # Idle watts without it


@dataclass(frozen=True, slots=True)
class ReplayedTime:
    """The gaps under one keep-warm time."""

    name: str  # Name of the time: a fixed one, `T*`, `auto`, `best fixed`
    seconds: float | None
    """The time; infinite for never, None if it changed from gap to gap (``auto``)."""
    loads: int  # Number of loads at the end of a gap
    warm_seconds: float  # Seconds for which the model idled in memory
    extra: Measured  # Joules above cold idle: idling with the model, and the loads
    joules: Measured  # The same with the cold idle power of all gaps


@dataclass(frozen=True, slots=True)
class IdleReplay:
    """All times over the same gaps."""

    gaps: int
    gap_seconds: float
    times: tuple[ReplayedTime, ...]
    """The fixed times, ``T*``, ``auto`` and ``best fixed``, in this order."""

    def get(self, name: str) -> ReplayedTime:
        """Return the time of a name."""
        return next(time for time in self.times if time.name == name)


def replay_gaps(
    gaps: Sequence[float],
    cost: IdleCost,
    before: Sequence[float] = (),
    chosen: Sequence[float] | None = None,
) -> IdleReplay:
    """Replay gaps under the fixed times, under T*, under ``auto``, and the best fixed time.

    Args:
        gaps: The replayed gaps in seconds, oldest first.
        before: Gaps before them, from which ``auto`` has learned.
        chosen: The times of ``auto``, if they were computed already.
    """
    load, watts = cost.load_joules.value, cost.extra_watts.value
    even = max(compute_break_even(cost.load_joules, cost.extra_watts).seconds, LEAST_SECONDS)
    fixed = {**FIXED_SECONDS, "T*": even}
    chosen = choose_times(gaps, cost, before) if chosen is None else chosen
    best = find_best_fixed(gaps, load, watts)
    times = [
        *((name, seconds, [seconds] * len(gaps)) for name, seconds in fixed.items()),
        ("auto", None, chosen),
        ("best fixed", best, [best] * len(gaps)),
    ]
    return IdleReplay(
        len(gaps),
        math.fsum(gaps),
        tuple(_replay(name, seconds, gaps, keeps, cost) for name, seconds, keeps in times),
    )


def choose_times(
    gaps: Sequence[float], cost: IdleCost, before: Sequence[float] = ()
) -> list[float]:
    """Choose the time of each gap as ``auto`` would: from earlier gaps only.

    Returns:
        Seconds, one for each gap; infinite where the model is kept.
    """
    known = list(before)
    chosen: list[float] = []
    for gap in gaps:
        keep = choose_keep_warm(known, cost.load_joules, cost.extra_watts).seconds
        chosen.append(math.inf if keep is None else keep)
        known.append(gap)
    return chosen


def find_best_fixed(gaps: Sequence[float], load_joules: float, extra_watts: float) -> float:
    """Find the fixed time with the least joules, knowing all gaps.

    The best time is the shortest one or ends with a gap: any time between two gaps only adds
    idling, and one beyond the longest gap equals never.
    """
    best = LEAST_SECONDS
    best_joules = math.fsum(compute_gap_joules(gap, best, load_joules, extra_watts) for gap in gaps)
    shorter_joules, ordered = 0.0, sorted(gaps)
    for index, gap in enumerate(ordered):
        shorter_joules += gap * extra_watts
        longer = len(ordered) - index - 1
        joules = shorter_joules + longer * (gap * extra_watts + load_joules)
        if gap > LEAST_SECONDS and joules < best_joules:
            best, best_joules = gap, joules
    return best


def _replay(
    name: str, seconds: float | None, gaps: Sequence[float], keeps: Sequence[float], cost: IdleCost
) -> ReplayedTime:
    pairs = list(zip(gaps, keeps, strict=True))
    loads = sum(gap > keep for gap, keep in pairs)
    warm = math.fsum(min(gap, keep) for gap, keep in pairs)
    parts = (loads, cost.load_joules), (warm, cost.extra_watts)
    joules = _sum(*parts, (math.fsum(gaps), cost.cold_watts))
    return ReplayedTime(name, seconds, loads, warm, _sum(*parts), joules)


def _sum(*parts: tuple[float, Measured]) -> Measured:
    """Add up measured numbers times counts or seconds; their errors are independent."""
    value = math.fsum(count * part.value for count, part in parts)
    errors = [part.uncertainty for _, part in parts]
    if any(error is None for error in errors):
        return Measured(value)
    spread = [count * (part.uncertainty or 0.0) for count, part in parts]
    return Measured(value, math.hypot(*spread))

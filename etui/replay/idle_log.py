"""Replay the days of the log under several keep-warm times, for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

from etui.log.gaps import Gap, compute_gaps, read_uses
from etui.replay.idle_replay import IdleCost, IdleReplay, choose_times, replay_gaps
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


def replay_log(
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
    cost = _build_cost(idle)
    missing = _name_missing(idle, cost, inside)
    if cost is None or missing:
        return ModelReplay(idle, cost, None, (), missing)
    seconds = [gap.seconds for gap in inside]
    chosen = choose_times(seconds, cost, before)
    days: list[IdleDay] = []
    at = 0
    for date, group in groupby(inside, lambda gap: _format_date(gap.start_seconds)):
        end = at + len(list(group))
        days.append(IdleDay(date, replay_gaps(seconds[at:end], cost, chosen=chosen[at:end])))
        at = end
    return ModelReplay(idle, cost, replay_gaps(seconds, cost, chosen=chosen), tuple(days))


NOT_MEASURED = "not measured yet: "
"""Begins ``ModelReplay.missing`` where a measurement would enable the replay."""


def _build_cost(idle: ModelIdle) -> IdleCost | None:
    if idle.load is None or idle.extra_watts is None or idle.cold_watts is None:
        return None
    return IdleCost(idle.load.joules, idle.extra_watts, idle.cold_watts)


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


def _format_date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().date().isoformat()

"""Sum the joules of recent turns and loads, for the budgets of an hour, a day, and a key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from etui.energy.types import Kind
from etui.log.queries import LogReader
from etui.text.timestamps import format_utc

_SUMS = """
    SELECT total({joules}), coalesce(sum({joules} IS NULL), 0),
        coalesce(max({kind} IS '{estimate}'), 0)
    FROM {table} WHERE created_at >= ?
"""
_TURNS_SQL = _SUMS.format(
    joules="energy_joules",
    kind="energy_kind",
    table="turns INDEXED BY turns_history",
    estimate=Kind.ESTIMATE.value,
)
_LOADS_SQL = _SUMS.format(joules="joules", kind="kind", table="loads", estimate=Kind.ESTIMATE.value)
_KEY_SQL = (
    _SUMS.format(
        joules="energy_joules",
        kind="energy_kind",
        table="turns INDEXED BY turns_by_key",
        estimate=Kind.ESTIMATE.value,
    )
    + "AND client_key = ?"
)


@dataclass(frozen=True, slots=True)
class Spending:
    """The joules spent since a point in time."""

    joules: float  # Gross joules, estimates included
    estimated: bool
    unmeasured_turns: int  # Turns that are missing in the sum, because their joules are unknown


def sum_joules_since(log: LogReader, moment: datetime) -> Spending:
    """Sum the joules of turns and loads since an aware time.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    since = (format_utc(moment),)
    turns, loads = log.select(_TURNS_SQL, since), log.select(_LOADS_SQL, since)
    if not turns or not loads:
        return Spending(0.0, False, 0)
    (joules, unmeasured, estimated), (load_joules, _, load_estimated) = turns[0], loads[0]
    return Spending(joules + load_joules, bool(estimated or load_estimated), unmeasured)


def sum_key_joules_since(log: LogReader, key: str, moment: datetime) -> Spending:
    """Sum the joules of the turns of a client's key since an aware time; loads belong to none.

    Args:
        key: Name of the key, as in the turns' ``ClientRecord``; empty for clients without one.
        moment: The time from which turns count, by their start.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    rows = log.select(_KEY_SQL, (format_utc(moment), key))
    if not rows:
        return Spending(0.0, False, 0)
    joules, unmeasured, estimated = rows[0]
    return Spending(joules, bool(estimated), unmeasured)

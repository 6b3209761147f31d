"""Sum all joules that etui spent by local day, model and part, and find the peak watts of each day.

Everything that says "today" reads it here. The parts are answers, titles of chats, loads of models,
audits, and idling with a model in memory. A turn with hops was answered by several models, and each
hop is charged to its own. A day is a day of the local calendar, so one with a change of the clocks
has 23 or 25 hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

from etui.energy.types import Kind
from etui.log.filters import AT_WALL, HAS_HOPS, HOPPED, SPAN, START
from etui.text import format_utc
from etui.turn.record import NAMES

if TYPE_CHECKING:
    from etui.log.queries import LogReader

_Key = TypeVar("_Key", bound=Hashable)
Part = Literal["answers", "titles", "loads", "audits", "idle"]
PARTS: tuple[Part, ...] = ("answers", "titles", "loads", "audits", "idle")
"""What joules were spent on. Idling is what the machine drew above its idle power without a model,
from a load to an unload and between the answers; it counts on the day of the unload, and not for a
model that was in memory until the app ended."""
Period = Literal["day", "week", "month", "year"]
PERIODS: tuple[Period, ...] = ("day", "week", "month", "year")
"""Calendar periods for which money is summed; a week begins on Monday."""
ENERGY_INDEX = "turns_energy"
"""The index that has every column that is summed here."""
_DAYS = "json_each(?) AS day CROSS JOIN"
_IN_DAY = (
    "created_at >= json_extract(day.value, '$[0]') AND created_at < json_extract(day.value, '$[1]')"
)
_ESTIMATED = f"coalesce(max(joules IS NOT NULL AND kind IS '{Kind.ESTIMATE}'), 0) AS estimated"
_TITLE_DAYS = 8
"""Days, up to the last one, whose titles are kept apart from answers: that reads wide rows."""
_TITLES_SQL = f"""
    SELECT turns.id FROM {_DAYS} turns INDEXED BY turns_history ON {_IN_DAY}
    WHERE chat_id IS NULL AND rule IS NULL AND json_extract(settings, '$.{NAMES}') IS NOT NULL
"""
_TURNS_SQL = f"""
    SELECT day.key AS day, model, count(*) AS items, sum(energy_joules) AS joules,
        count(*) - count(energy_joules) AS unmeasured, max(energy_peak_watts) AS peak_watts,
        coalesce(max(energy_joules IS NOT NULL AND energy_kind IS '{Kind.ESTIMATE}'), 0)
            AS estimated
    FROM {_DAYS} turns INDEXED BY {ENERGY_INDEX} ON {_IN_DAY}
    WHERE +turns.id NOT IN ({HOPPED}) AND +turns.id {{}} (SELECT value FROM json_each(?))
    GROUP BY 1, 2
"""
# As in etui.log.totals: where one hop of a model is unknown, so is that model's part of the turn.
_HOPS_SQL = f"""
    SELECT day, model, count(*) AS items, sum(joules) AS joules,
        count(*) - count(joules) AS unmeasured, max(peak_watts) AS peak_watts, {_ESTIMATED}
    FROM (
        SELECT day, turn, model, kind, peak_watts,
            CASE WHEN count(joules) = count(*) THEN sum(joules) END AS joules
        FROM (
            SELECT day.key AS day, turns.id AS turn, energy_kind AS kind,
                energy_peak_watts AS peak_watts,
                json_extract(hop.value, '$.model') AS model,
                CASE WHEN energy_joules IS NOT NULL
                    THEN json_extract(hop.value, '$.joules') END AS joules
            FROM {_DAYS} turns INDEXED BY turns_with_hops ON {_IN_DAY} AND {HAS_HOPS},
                json_each(turns.hops) AS hop
        ) GROUP BY day, turn, model
    ) GROUP BY day, model
"""
_LOADS_SQL = f"""
    SELECT day.key AS day, model, 0 AS items, sum(joules) AS joules,
        count(*) - count(joules) AS unmeasured, NULL AS peak_watts, {_ESTIMATED}
    FROM {_DAYS} loads ON {_IN_DAY} GROUP BY 1, 2
"""
_AUDITS_SQL = f"""
    SELECT day.key AS day, model, 0 AS items, sum(joules IS NULL OR load_joules IS NULL)
        AS unmeasured, NULL AS peak_watts, {_ESTIMATED}, CASE WHEN count(joules) +
        count(load_joules) > 0 THEN total(joules) + total(load_joules) END AS joules
    FROM {_DAYS} audits ON {_IN_DAY} GROUP BY 1, 2
"""
_IDLE_SPANS = f"""
    SELECT day, model, loaded_at, unloaded_at, extra_watts * max(0,
        86400 * (julianday(unloaded_at) - julianday(loaded_at)) - (
            SELECT total(seconds_total) FROM turns INDEXED BY turns_history
            WHERE turns.created_at BETWEEN loaded_at AND unloaded_at
        )) AS joules
    FROM (
        SELECT day.key AS day, model, created_at AS unloaded_at,
            max(0, idle_before_watts - idle_cold_watts) AS extra_watts, (
                SELECT loads.created_at FROM loads WHERE loads.model = unloads.model
                    AND loads.created_at <= unloads.created_at ORDER BY 1 DESC LIMIT 1
            ) AS loaded_at
        FROM {_DAYS} unloads ON {_IN_DAY}
    ) WHERE loaded_at IS NOT NULL AND extra_watts IS NOT NULL
"""
_IDLE_SQL = f"""
    SELECT day, model, 0 AS items, 0 AS unmeasured, NULL AS peak_watts, 1 AS estimated,
        sum(joules) AS joules
    FROM ({_IDLE_SPANS}) GROUP BY 1, 2
"""
SPANS_SQL = f"""
    WITH day AS MATERIALIZED (SELECT key, value FROM json_each(?)),
    spans AS (
        SELECT day.key AS day, {START} AS start_s, seconds_total AS seconds,
            energy_joules AS joules, 0 AS wall
        FROM day CROSS JOIN turns INDEXED BY turns_history
            ON {_IN_DAY} AND +turns.id NOT IN ({AT_WALL})
        UNION ALL
        SELECT day.key, {START}, seconds_total, energy_wall_joules, 1
        FROM day CROSS JOIN turns INDEXED BY turns_at_the_wall
            ON {_IN_DAY} AND energy_wall_joules IS NOT NULL
        UNION ALL
        SELECT day.key, {START}, seconds, joules, 0 FROM day CROSS JOIN loads ON {_IN_DAY}
        UNION ALL
        SELECT day.key, {START}, seconds, coalesce(joules + load_joules, joules, load_joules), 0
        FROM day CROSS JOIN audits ON {_IN_DAY}
        UNION ALL
        SELECT day, CAST(strftime('%s', loaded_at) AS INTEGER),
            86400 * (julianday(unloaded_at) - julianday(loaded_at)), joules, 0
        FROM ({_IDLE_SPANS.replace(_DAYS, "day CROSS JOIN")})
    )
    SELECT day, {SPAN}, wall, sum(joules) AS joules FROM spans
    WHERE joules IS NOT NULL GROUP BY 1, 2, 3, 4
"""
"""The joules of everything above by day and time, to price them."""


@dataclass(frozen=True, slots=True)
class EnergySum:
    """The joules of a group of turns and loads."""

    turns: int = 0  # Number of turns; one that several models answered counts for each
    joules: float | None = None
    """Gross joules of those that were measured or estimated; None when none was."""
    estimated: bool = False
    unmeasured: int = 0
    """Turns and loads that are missing in the sum, because their joules are unknown."""
    peak_watts: float | None = None
    """Highest watts of the machine during these turns; None when unknown."""

    @property
    def kind(self) -> str | None:
        """``estimate`` if some joules are only estimated, for :mod:`etui.units`."""
        return Kind.ESTIMATE.value if self.estimated else None

    def to_json(self) -> dict[str, int | float | str | None]:
        """Build the document of a sum."""
        names = ("turns", "joules", "kind", "unmeasured", "peak_watts")
        return {name: getattr(self, name) for name in names}

    def __add__(self, other: EnergySum) -> EnergySum:
        """Return the sum of both groups; unknown joules are counted as missing, never as 0."""
        known = [joules for joules in (self.joules, other.joules) if joules is not None]
        peaks = [watts for watts in (self.peak_watts, other.peak_watts) if watts is not None]
        return EnergySum(
            self.turns + other.turns,
            sum(known) if known else None,
            self.estimated or other.estimated,
            self.unmeasured + other.unmeasured,
            max(peaks, default=None),
        )


@dataclass(frozen=True, slots=True)
class ModelDay:
    """The joules that one model took on one local day for one purpose."""

    day: date
    model: str
    spent: EnergySum
    part: Part = "answers"


@dataclass(frozen=True, slots=True)
class DailyEnergy:
    """What the log has of a row of days."""

    days: tuple[date, ...] = ()  # The days, oldest first, also those without a turn
    parts: tuple[ModelDay, ...] = ()  # One entry per day, model and purpose


def day_start(day: date, zone: tzinfo | None = None) -> datetime:
    """Return the first moment of a local day, in UTC; without a zone, in that of this machine."""
    return datetime.combine(day, time.min, zone).astimezone(UTC)


def period_start(day: date, period: Period) -> date:
    """Return the first day of the period that a day is in."""
    match period:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)


def list_days(today: date, period: Period) -> list[date]:
    """List the days of the period that ``today`` is in, up to and with it."""
    first = period_start(today, period)
    return [first + timedelta(days=n) for n in range((today - first).days + 1)]


def read_daily_energy(
    log: LogReader, first: date, last: date, zone: tzinfo | None = None
) -> DailyEnergy:
    """Read the joules of every day from ``first`` to ``last``, both included."""
    days = tuple(first + timedelta(days=n) for n in range((last - first).days + 1))
    starts = [format_utc(day_start(day, zone)) for day in (*days, last + timedelta(days=1))]
    spans = list(pairwise(starts))
    found_titles = log.select(_TITLES_SQL, (json.dumps(spans[-_TITLE_DAYS:]),))
    every, titles = json.dumps(spans), json.dumps([row["id"] for row in found_titles])
    sums: dict[tuple[int, str, Part], EnergySum] = {}
    statements: tuple[tuple[Part, str, tuple[str, ...]], ...] = (
        ("answers", _TURNS_SQL.format("NOT IN"), (every, titles)),
        ("answers", _HOPS_SQL, (every,)),
        ("titles", _TURNS_SQL.format("IN"), (every, titles)),
        ("loads", _LOADS_SQL, (every,)),
        ("audits", _AUDITS_SQL, (every,)),
        ("idle", _IDLE_SQL, (every,)),
    )
    for part, sql, values in statements:
        for row in log.select(sql, values):
            found = EnergySum(
                0 if part == "titles" else row["items"],
                row["joules"],
                bool(row["estimated"]),
                row["unmeasured"],
                row["peak_watts"],
            )
            key = (int(row["day"]), row["model"] or "", part)
            sums[key] = sums.get(key, EnergySum()) + found
    parts = [
        ModelDay(days[day], model, spent, part)
        for (day, model, part), spent in sorted(sums.items(), key=lambda item: item[0])
    ]
    return DailyEnergy(days, tuple(parts))


def read_day(log: LogReader, day: date) -> tuple[EnergySum, dict[Part, EnergySum]]:
    """Read the joules of one day, and what they were spent on; parts without any are missing."""
    daily = read_daily_energy(log, day, day)
    return sum_parts(daily.parts), sum_by_part(daily, day)


def sum_parts(parts: Iterable[ModelDay]) -> EnergySum:
    """Add up entries."""
    return sum((part.spent for part in parts), EnergySum())


def sum_by_day(daily: DailyEnergy, last_days: int) -> list[tuple[date, EnergySum]]:
    """Sum the last days, oldest first; a day without a turn has no joules."""
    by_day = _group(daily.parts, lambda part: part.day)
    return [(day, by_day.get(day, EnergySum())) for day in daily.days[-last_days:]]


def sum_by_model(daily: DailyEnergy, since: date | None = None) -> list[tuple[str, EnergySum]]:
    """Sum per model from a day on (None: all days), the most expensive first, unknown last."""
    parts = [part for part in daily.parts if since is None or part.day >= since]
    by_model = _group(parts, lambda part: part.model)
    return sorted(by_model.items(), key=lambda item: (-(item[1].joules or -1.0), item[0]))


def sum_by_part(daily: DailyEnergy, day: date) -> dict[Part, EnergySum]:
    """Sum what a day was spent on; parts without anything are missing."""
    sums = _group([each for each in daily.parts if each.day == day], lambda each: each.part)
    return {part: sums[part] for part in PARTS if part in sums}


def sum_by_period(daily: DailyEnergy, today: date) -> dict[Period, EnergySum]:
    """Sum the day, week, month and year that ``today`` is in, up to and with that day."""
    return {
        period: sum_parts(
            part for part in daily.parts if period_start(today, period) <= part.day <= today
        )
        for period in PERIODS
    }


def first_day_shown(today: date, last_days: int) -> date:
    """Return the first day to read for a year of money, and for bars over the last days."""
    week, year = period_start(today, "week"), period_start(today, "year")
    return min(week, year, today - timedelta(days=last_days - 1))


def _group(parts: Sequence[ModelDay], key: Callable[[ModelDay], _Key]) -> dict[_Key, EnergySum]:
    sums: dict[_Key, EnergySum] = {}
    for part in parts:
        sums[key(part)] = sums.get(key(part), EnergySum()) + part.spent
    return sums

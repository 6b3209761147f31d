"""Format what ``etui power top`` prints: a table, or a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from etui import units
from etui.energy.devices import ChannelState
from etui.log.daily_energy import EnergySum, sum_by_day, sum_by_model
from etui.text import format_table, utc_now
from etui.tui.power.channel_rows import Row, build_rows, column_texts, own_text
from etui.tui.power.spent_text import (
    DAYS_SHOWN,
    Spent,
    day_lines,
    list_money,
    model_lines,
    money_lines,
)

_WIDTH = 72
_DAYS_PRINTED = 7
NOTHING_READ = "no power sensor can be read; `etui doctor` shows why"


@dataclass(frozen=True, slots=True)
class TopReading:
    """Everything that is printed once."""

    states: Sequence[ChannelState]
    peak_watts: float | None  # Highest watts of the total in the last hour, or since the start
    spent: Spent


def format_top(reading: TopReading) -> Iterator[str]:
    """Format a table of the channels, then what was spent."""
    rows = build_rows(reading.states)
    if rows:
        titles = ("channel", *column_texts(None), "etui, others")
        cells = [(row.name, *column_texts(row).values(), own_text(row, 99)) for row in rows]
        yield from format_table(cells, header=titles, align="<>>>>>>><")
        yield f"peak {units.watts_text(reading.peak_watts, rows[0].kind)}"
    else:
        yield f"{units.UNMEASURED}: {NOTHING_READ}"
    spent = reading.spent
    if spent.problem:
        yield f"the log: {spent.problem}"
        return
    yield ""
    yield from money_lines(spent, _WIDTH)
    if spent.daily.parts:
        yield ""
        yield f"joules by model, {DAYS_SHOWN} days"
        yield from model_lines(spent, _WIDTH)
        yield ""
        yield "joules by day"
        yield from day_lines(spent, _WIDTH)[:_DAYS_PRINTED]


def build_document(reading: TopReading) -> dict[str, Any]:
    """Build the JSON document of a reading; unknown values are null."""
    rows = build_rows(reading.states)
    total = next((row for row in rows if row.state is None), rows[0] if rows else None)
    return {
        "time": utc_now(),
        "total_watts": total.watts if total else None,
        "peak_watts": reading.peak_watts,
        "channels": [_build_channel(row) for row in rows if row.state is not None],
        "spent": None if reading.spent.problem else _build_spent(reading.spent),
        "problem": reading.spent.problem,
    }


def _build_channel(row: Row) -> dict[str, Any]:
    assert row.state is not None
    device = row.state.device
    return {
        "id": row.key,
        "name": row.name,
        "label": row.label,
        "kind": row.state.power.channel.kind.value,
        "in_total": row.state.power.in_total,
        "watts": row.watts,
        "limit_watts": row.limit_watts,
        "idle_watts": row.idle_watts,
        "utilisation": device.utilisation,
        "clock_mhz": device.clock_mhz,
        "memory_mhz": device.memory_mhz,
        "temperature_celsius": device.temperature_celsius,
        "memory_used_bytes": device.memory_used_bytes,
        "memory_total_bytes": device.memory_total_bytes,
        "own_watts": row.own_watts,
        "others_watts": row.others_watts,
    }


def _build_spent(spent: Spent) -> dict[str, Any]:
    currency = spent.factors.currency if spent.factors is not None else ""
    periods: dict[str, Any] = {}
    for period, found, price in list_money(spent):
        periods[period] = _build_sum(found)
        if price is not None:
            periods[period] |= {"price": price, "currency": currency}
    return {
        "periods": periods,
        "models": [
            {"model": model, **_build_sum(found)}
            for model, found in sum_by_model(spent.daily, spent.first_day)
        ],
        "days": [
            {"day": day.isoformat(), **_build_sum(found)}
            for day, found in sum_by_day(spent.daily, DAYS_SHOWN)
        ],
    }


def _build_sum(found: EnergySum) -> dict[str, Any]:
    return {
        "turns": found.turns,
        "joules": found.joules,
        "kind": found.kind,
        "unmeasured": found.unmeasured,
        "peak_watts": found.peak_watts,
    }

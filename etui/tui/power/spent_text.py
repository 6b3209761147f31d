"""What has been spent, as lines: joules by model and by day, and money by period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import dropwhile
from textwrap import wrap

from etui import units
from etui.config.config import Config
from etui.energy.tariff import Cost
from etui.energy.wall_model import describe_wall_drift
from etui.log import daily_energy
from etui.log.daily_energy import DailyEnergy, EnergySum
from etui.log.filters import Sort, TurnFilter
from etui.log.prices import read_prices, sum_daily_costs
from etui.log.queries import LogReader, TurnSummary
from etui.plots.braille import sparkline
from etui.plots.terminal import bar
from etui.text import count_cells, cut_name, fit_cells, format_table, one_line
from etui.tui.power.energy_text import sum_lines


def read_spent(config: Config, today: date) -> Spent:
    """Read the sums of this year and of the last days."""
    since = today - timedelta(days=DAYS_SHOWN - 1)
    with LogReader(config) as log:
        first = daily_energy.first_day_shown(today, DAYS_SHOWN)
        daily = daily_energy.read_daily_energy(log, first, today)
        prices = read_prices(log, config, strict=False)
        costs = None if prices is None else sum_daily_costs(log, prices, first, today)
        most, _ = log.list_page(
            TurnFilter(since=datetime.combine(since, time()).astimezone()),
            sort=Sort.JOULES, descending=True, limit=_MOST_ANSWERS, offset=0,
        )  # fmt: skip
    no_price = NO_PRICE if prices is None else prices.problem
    return Spent(daily, today, costs, no_price, most, wall_drift=describe_wall_drift(config))


DAYS_SHOWN = 30  # Days with a bar, and the time over which models are compared
NO_TURN = "no answer in the log yet: ask one in `etui`, or with `etui ask`"
NO_PRICE = "set price_per_kwh or a tariff to see the cost"
_LEAST_BAR, _MOST_NAME, _MOST_ANSWERS = 6, 20, 20
_TRENDS_FROM = 60  # Width from which a model has its joules by day

_DAY_PARTS = {"titles": "chat titles", "audits": "answer checks", "idle": "model idling"}
"""What a part of a day is called, where its name is not enough."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the log has, and the price of it."""

    daily: DailyEnergy  # Sums by day and model, up to today
    today: date  # The local day
    costs: Mapping[date, Cost] | None = None
    """What each day cost, at the price of its time; None where no price is stated."""
    no_price: str = NO_PRICE  # Why there are no costs, with what to do; empty if there are
    most: Sequence[TurnSummary] = ()  # The answers of the last days with the most joules
    problem: str = ""  # Why the log cannot be read, with what to do; empty if it can
    wall_drift: str = ""  # Why the calibration of the wall no longer holds; empty while it does

    @property
    def first_day(self) -> date | None:
        days = self.daily.days[-DAYS_SHOWN:]
        return days[0] if days else None

    @property
    def empty_text(self) -> str:
        """What to say in place of bars; empty if there are some."""
        return self.problem or ("" if self.daily.parts else NO_TURN)


def model_lines(spent: Spent, width: int) -> list[str]:
    """Return a bar per model of the last days, the most expensive first."""
    bars = model_bars(spent.daily, spent.first_day, width)
    return bars or [spent.empty_text or f"no answer in the last {DAYS_SHOWN} days"]


def model_and_answer_lines(spent: Spent, width: int) -> list[str]:
    """Return the bars per model, and below them the answers of the last days that took most."""
    found = [turn for turn in spent.most if turn.joules]
    kinds = [turn.kind if turn.kind == units.ESTIMATE else None for turn in found]
    most = [
        (units.short_energy_text(turn.joules, kind), one_line(turn.query))
        for turn, kind in zip(found, kinds, strict=True)
    ]
    rows = [
        fit_cells(row, width - 1) for row in format_table(most, align="><", measure=count_cells)
    ]
    lines = model_lines(spent, width)
    if _has_trends(spent.daily, width):
        lines.append("dots: joules of each day")
    return [*lines, "", "answers with the most joules", *rows] if rows else lines


def _has_trends(daily: DailyEnergy, width: int) -> bool:
    return width >= _TRENDS_FROM and len(daily.days) >= DAYS_SHOWN


def model_bars(daily: DailyEnergy, since: date | None, width: int) -> list[str]:
    """Return a bar per model from a day on (None: all days); none without an entry.

    Where there is room, its joules by day follow as a small graph.
    """
    rows, trends = [], _has_trends(daily, width)
    for model, found in daily_energy.sum_by_model(daily, since):
        remark = _count(found)
        if trends:
            parts = DailyEnergy(daily.days, tuple(p for p in daily.parts if p.model == model))
            days = [each.joules for _, each in daily_energy.sum_by_day(parts, DAYS_SHOWN)]
            most = max((joules or 0.0 for joules in days), default=0.0)
            remark += f"  {sparkline(days, most or 1.0, DAYS_SHOWN // 2)}"
        rows.append((one_line(model) or "unknown", found, remark))
    return _bar_lines(rows, width) if rows else []


def day_lines(spent: Spent, width: int) -> list[str]:
    """Return a bar per day since the first one, with the peak watts, the newest first."""
    if spent.empty_text:
        return [spent.empty_text]
    days = list(
        dropwhile(
            lambda of_day: of_day[1] == EnergySum(),
            daily_energy.sum_by_day(spent.daily, DAYS_SHOWN),
        )
    )
    rows = [
        ("today" if day == spent.today else f"{day:%a} {day.day:>2} {day:%b}", found, _peak(found))
        for day, found in reversed(days)
    ]
    return _bar_lines(rows, width) if rows else [f"nothing in the last {DAYS_SHOWN} days"]


def money_lines(spent: Spent, width: int) -> list[str]:
    """Return a table of what today, its parts, and longer periods took and cost."""
    if spent.problem:
        return [spent.problem]
    names = {"day": "today", "week": "since Mon", "month": f"{spent.today:%B}",
             "year": f"{spent.today:%Y}"}  # fmt: skip
    rows = []
    money = list_money(spent)
    for period, found, cost in money:
        price = None if cost is None else cost.price
        text = "" if cost is None or price is None else units.price_text(price, cost.currency)
        rows.append((names[period], found, text))
        if period == "day":
            rows += [(name, each, "") for name, each in part_rows(spent.daily, spent.today)]
    lines = sum_lines("", rows, width)
    missing = daily_energy.sum_by_period(spent.daily, spent.today)["year"].unmeasured
    if missing:
        lines.append(f"{missing:,} unmeasured, not counted")
    _, _, year = money[-1]
    if year is not None and year.price is not None and year.unpriced_kwh:
        share = units.percent_text(year.unpriced_kwh / year.kilowatt_hours)
        lines.append(f"no price known for {share} of the year")
    if spent.no_price:
        lines.append(spent.no_price)
    return lines + wrap(spent.wall_drift, width)


def part_rows(daily: DailyEnergy, day: date) -> list[tuple[str, EnergySum]]:
    """Name what the joules of a day went into, each with its sum."""
    parts = daily_energy.sum_by_part(daily, day).items()
    return [(f"  {_DAY_PARTS.get(part, part)}", found) for part, found in parts]


def list_money(spent: Spent) -> list[tuple[daily_energy.Period, EnergySum, Cost | None]]:
    """Return the sums of every period, each with its cost; None without joules or a tariff."""
    sums, costs = daily_energy.sum_by_period(spent.daily, spent.today), spent.costs
    found: list[tuple[daily_energy.Period, EnergySum, Cost | None]] = []
    for period in daily_energy.PERIODS:
        days = () if costs is None else daily_energy.list_days(spent.today, period)
        parts = [costs[day] for day in days if costs is not None and day in costs]
        found.append((period, sums[period], sum(parts, Cost()) if parts else None))
    return found


def _bar_lines(rows: Sequence[tuple[str, EnergySum, str]], width: int) -> list[str]:
    """Draw names, bars on one scale, joules, and a remark where there is room for it."""
    joules = [_joules_text(found) for _, found, _ in rows]
    numbers = max(len(text) for text in joules)
    remarks = max(len(remark) for _, _, remark in rows)
    names = max(len(name) for name, _, _ in rows)
    if width < min(names, _MOST_NAME) + numbers + remarks + 3 + _LEAST_BAR:
        remarks = 0
    names = min(names, max(8, width - numbers - remarks - 3 - _LEAST_BAR))
    room = max(0, width - names - numbers - remarks - 2 - (2 if remarks else 0))
    most = max((found.joules or 0.0 for _, found, _ in rows), default=0.0)
    lines = []
    for (name, found, remark), number in zip(rows, joules, strict=True):
        line = f"{cut_name(name, names):<{names}} {bar(found.joules, most, room):<{room}} "
        line += f"{number:>{numbers}}"
        lines.append(f"{line}  {remark:>{remarks}}".rstrip() if remarks else line.rstrip())
    return lines


def _joules_text(found: EnergySum) -> str:
    if found.joules is None:
        return units.UNMEASURED if found.unmeasured else "–"
    return f"{units.cell_text(found.joules, found.kind)} J"


def _count(found: EnergySum) -> str:
    return units.count_text(found.turns, "answer") if found.turns else "only loaded"


def _peak(found: EnergySum) -> str:
    if found.peak_watts is None:
        return ""
    return units.short_watts_text(found.peak_watts, found.kind)

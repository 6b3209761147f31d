"""The joules of the last days as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from textual.widgets import Static

from etui import units
from etui.log.totals import Total
from etui.plots.terminal import bar_rows

_BAR_CELLS = 2
_STEP_CELLS = _BAR_CELLS + 1
"""Cells from one bar to the next."""

_ROWS = 3
_HEIGHT_FROM = 20
"""Rows of the screen from which the bars leave enough of them to the table."""


@dataclass(frozen=True, slots=True)
class DayEnergy:
    """What the turns of one day cost."""

    day: date
    joules: float | None  # Read and estimated joules together; None if nothing was measured
    estimated: bool


def list_days(totals: Sequence[Total], most: int) -> tuple[DayEnergy, ...]:
    """Return the last days up to the newest with a turn, oldest first; days without turns too.

    Args:
        most: Largest number of days.
    """
    by_day = {date.fromisoformat(total.key): total for total in totals if total.key}
    if not by_day or most <= 0:
        return ()
    newest = max(by_day)
    count = min(most, (newest - min(by_day)).days + 1)
    days = (newest - timedelta(days=back) for back in reversed(range(count)))
    return tuple(_day_energy(day, by_day.get(day)) for day in days)


def _day_energy(day: date, total: Total | None) -> DayEnergy:
    parts = [] if total is None else [total.joules, total.estimated_joules]
    known = [part for part in parts if part is not None]
    estimated = total is not None and total.estimated_joules is not None
    return DayEnergy(day, sum(known) if known else None, estimated)


def day_bar_lines(totals: Sequence[Total], width: int) -> list[str]:
    """Draw one bar for each of the last days, on a scale from 0 to the highest one.

    Returns:
        The sum and the highest day, the rows of the bars, and the dates below them.
    """
    days = list_days(totals, width // _STEP_CELLS)
    known = [(day.joules, day.day) for day in days if day.joules is not None]
    if not known:
        return []
    highest, highest_day = max(known)
    kind = units.ESTIMATE if any(day.estimated for day in days) else None
    head = f"{units.short_energy_text(sum(joules for joules, _ in known), kind)} in "
    head += units.count_text(len(days), "day")
    if len(known) > 1:
        head += f" · most {units.short_energy_text(highest, kind)} on {highest_day:%m-%d}"
    joules = [day.joules or None for day in days]
    columns = [each for each in joules for each in (*[each] * _BAR_CELLS, None)]
    rows = bar_rows(columns, highest or 1.0, len(columns), _ROWS)
    return [head, *rows, _date_line([day.day for day in days])]


def _date_line(days: Sequence[date]) -> str:
    """Write a date at the start of its bar wherever the one before it leaves room."""
    line = ""
    for number, day in enumerate(days):
        start, text = number * _STEP_CELLS, f"{day:%m-%d}"
        fits = start + len(text) <= len(days) * _STEP_CELLS or not line
        if fits and (not line or start >= len(line) + _STEP_CELLS):
            line = line.ljust(start) + text
    return line


class DayBars(Static):
    """The bars, drawn again at each width; hidden without anything to draw or room for it."""

    def __init__(self) -> None:
        super().__init__("", markup=False, id="days")
        self._totals: tuple[Total, ...] = ()
        self.folded = False
        self.display = False

    def show(self, totals: Sequence[Total]) -> None:
        """Show the totals of these days."""
        self._totals = tuple(totals)
        self.draw()

    def draw(self) -> None:
        """Draw at the width of the screen."""
        width = self.app.size.width - 2
        low = self.app.size.height < _HEIGHT_FROM
        lines = [] if self.folded or low else day_bar_lines(self._totals, width)
        self.display = bool(lines)
        self.update("\n".join(lines))

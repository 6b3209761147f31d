"""Read what has been spent from the log, in a thread."""

from __future__ import annotations

from datetime import date

from etui.config.config import Config
from etui.energy.documents import read_factors
from etui.log.daily_energy import first_day_shown, read_daily_energy
from etui.log.queries import LogReader
from etui.tui.power_screen.spent_text import DAYS_SHOWN, Spent


def read_spent(config: Config, today: date) -> Spent:
    """Read the sums of this year and of the last days.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    with LogReader(config) as log:
        daily = read_daily_energy(log, first_day_shown(today, DAYS_SHOWN), today)
    return Spent(daily, today, read_factors(config))

"""Limit the joules that the clients of a key may take within an hour."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from etui.errors import EnergyBudgetSpent, LogUnavailable
from etui.text.timestamps import format_utc
from etui.units import energy_text, seconds_text

if TYPE_CHECKING:
    from etui.config.config import Config

HOUR_SECONDS = 3600.0

_SPENT_SQL = """
    SELECT created_at, seconds_total, energy_joules FROM turns
    WHERE client_key = ? AND created_at >= ? AND energy_joules IS NOT NULL
    ORDER BY created_at
"""


class KeyBudgets:
    """The joules of each key in the last hour; safe to use from several threads.

    A turn counts when it has ended, so turns that run at the same time may together take more than
    what is left. Unmeasured turns cannot be counted. Loads belong to no key.

    Args:
        limits: Joules within an hour, by the name of the key; other keys have no limit.
        config: Names the log, from which the turns before the start are read.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        config: Config,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = dict(limits)
        self._clock = clock
        self._lock = threading.Lock()
        self._spent: dict[str, deque[tuple[float, float]]] = {key: deque() for key in limits}
        if limits:
            with suppress(LogUnavailable):  # the writer of the log reports it
                self._read_log(config)

    def check(self, key: str) -> None:
        """Check that a key has joules left.

        Raises:
            EnergyBudgetSpent: It has not; the error says when some are free again.
        """
        limit = self._limits.get(key)
        if limit is None:
            return
        with self._lock:
            now = self._forget_old(key)
            spent = list(self._spent[key])
        total = sum(joules for _, joules in spent)
        if total < limit:
            return
        seconds = find_wait(spent, limit, now)
        raise EnergyBudgetSpent(
            f"the hourly budget of key {key!r} is spent: its turns of the last hour took "
            f"{energy_text(total)}, and {energy_text(limit)} are allowed",
            f"wait {seconds_text(seconds)}, or raise the key's joules per hour",
            retry_seconds=seconds,
        )

    def add(self, key: str, joules: float | None) -> None:
        """Count a turn that has ended."""
        if key not in self._limits or joules is None:
            return
        with self._lock:
            now = self._forget_old(key)
            self._append(key, now, joules)

    def _append(self, key: str, at: float, joules: float) -> None:
        """Add joules; those of one second are kept as one entry."""
        spent = self._spent[key]
        if spent and at - spent[-1][0] < 1.0:
            spent[-1] = spent[-1][0], spent[-1][1] + joules
        else:
            spent.append((at, joules))

    def _forget_old(self, key: str) -> float:
        now, spent = self._clock(), self._spent[key]
        while spent and spent[0][0] <= now - HOUR_SECONDS:
            spent.popleft()
        return now

    def _read_log(self, config: Config) -> None:
        from etui.log.queries import LogReader

        now = datetime.fromtimestamp(self._clock()).astimezone()
        since = format_utc(now - timedelta(seconds=HOUR_SECONDS))
        with LogReader(config) as log:
            for key in self._limits:
                for created_at, seconds, joules in log.select(_SPENT_SQL, (key, since)):
                    at = datetime.fromisoformat(created_at).timestamp() + (seconds or 0.0)
                    self._append(key, at, joules)


def find_wait(spent: list[tuple[float, float]], limit: float, now: float) -> float:
    """Find how long a spent budget has to wait until the window has moved far enough.

    Args:
        spent: Times in seconds and joules of the window, oldest first.
        now: The time now, seconds.
    """
    left = sum(joules for _, joules in spent)
    for at, joules in spent:
        left -= joules
        if left < limit:
            return max(0.0, at + HOUR_SECONDS - now)
    return HOUR_SECONDS

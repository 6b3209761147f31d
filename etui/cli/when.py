"""``--when cheap|clean [--by TIME]``: begin a run when electricity is cheapest or cleanest."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import click

from etui.cli.output import print_lines, stop_signals
from etui.cli.param_types import choice_option, join_options, text_option
from etui.config.config import Config
from etui.energy.tariff import JOULES_PER_KWH, Goal, Window, find_window
from etui.errors import Stopped, UsageError
from etui.units import energy_text, price_text, seconds_text, significant

Estimate = Callable[[], tuple[float | None, float | None]]
"""Returns the expected seconds and joules of a run; None where they are not known."""
_AHEAD = re.compile(r"(\d{1,4})\s*(m|h|d)")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_STEPS = {"m": 60, "h": 3600, "d": 86_400}
_ASSUMED_SECONDS = 3600.0
_LOOK_SECONDS = 1.0
"""Longest sleep: the clock may be set, or the machine may have slept, meanwhile; and a signal that
comes just before a sleep does not end it."""


when_options = join_options(
    choice_option(
        ["cheap", "clean"],
        "--when",
        help="Wait for the time at which electricity is cheapest, or has the least carbon, for as "
        "long as the run is expected to take. Needs a tariff in config.yaml.",
    ),
    text_option(
        "--by",
        metavar="TIME",
        help="With --when: be done by this time (06:00, 12h, or a date and time; default: as far "
        "as prices are known).",
    ),
)
"""``--when`` and ``--by``, which :func:`wait_for_price` takes from the options."""


def wait_for_price(
    options: Mapping[str, Any],
    config: Config,
    estimate: Estimate,
    *,
    dry_run: bool = False,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until it is the time to begin, if ``--when`` is given; a dry run only says when."""
    goal: Goal | None = options["when"]
    if goal is None:
        if options["by"] is not None:
            raise UsageError("--by needs --when", "add --when cheap, or remove it")
        return
    by = None if options["by"] is None else parse_by(options["by"], datetime.fromtimestamp(now()))
    window, joules = _choose(goal, by, config, estimate, now())
    stopped = Event()
    # A flag, since an exception raised by a signal is lost where Python frees an object.
    with suppress(KeyboardInterrupt), stop_signals(stopped, lambda: None):
        print_lines(describe(window, goal, joules, now()), err=True)
        if dry_run or _wait_until(window.start_s, now, sleep, stopped):
            return
    raise Stopped("stopped while waiting: nothing was begun", "run the same command again")


def parse_by(text: str, now: datetime) -> float:
    """Parse a local time to come, into seconds since 1970."""
    word = text.strip().lower()
    ahead, clock = _AHEAD.fullmatch(word), _CLOCK.fullmatch(word)
    try:
        if ahead:  # of real time, also when the clocks change meanwhile
            moment = datetime.fromtimestamp(now.timestamp() + int(ahead[1]) * _STEPS[ahead[2]])
        elif clock:
            moment = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            moment += timedelta(days=moment <= now)
        else:
            moment = datetime.fromisoformat(text.strip())
        found = moment.timestamp()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--by {text!r} is not a time", "write 06:00, 12h, or a date such as 2026-11-24T06:00"
        ) from error
    if found <= now.timestamp():
        raise UsageError(f"--by {text} is over", "name a time to come")
    return found


def _choose(
    goal: Goal, by: float | None, config: Config, estimate: Estimate, now_s: float
) -> tuple[Window, float | None]:
    from etui.energy.tariff_files import read_tariff

    tariff, what = read_tariff(config), "prices" if goal == "cheap" else "carbon"
    known = None if tariff is None else tariff.known_until(goal, now_s)
    if tariff is None or known is None:
        raise UsageError(
            f"--when {goal} needs {what} that differ by time, and config.yaml states none",
            f"add a tariff: {{{what}: FILE.csv}}, see docs/config.md, or remove --when",
        )
    seconds, joules = estimate()
    if seconds is None:
        seconds = _ASSUMED_SECONDS
        click.echo("how long the run takes is not known: one hour is assumed", err=True)
    elif joules is None and (watts := _read_watts(config)) is not None:
        joules = seconds * watts
    until = known if by is None else min(by, known)
    window = find_window(tariff.rate, goal, seconds, now_s, until)
    if window is None:
        raise UsageError(
            f"{what} are not known for {seconds_text(seconds)} without a gap until "
            f"{format_moment(until, now_s)}",
            "bring the file of the tariff up to date, name a later --by, or remove --when",
        )
    return window, joules


def _read_watts(config: Config) -> float | None:
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        rows = log.select(
            "SELECT avg(energy_mean_watts) FROM (SELECT energy_mean_watts FROM turns "
            "WHERE energy_mean_watts IS NOT NULL ORDER BY created_at DESC LIMIT 100)"
        )
    return rows[0][0] if rows else None


def describe(window: Window, goal: Goal, joules: float | None, now_s: float) -> list[str]:
    """Say when the run begins, what a kilowatt-hour costs then, and what the wait saves."""
    length = seconds_text(window.end_s - window.start_s)
    then, now = window.rate.text(goal), window.now.text(goal)
    if window.start_s <= now_s:
        return [f"now is the {goal}est time for about {length}: {then}"]
    start, end = (format_moment(at, now_s) for at in (window.start_s, window.end_s))
    lines = [f"the {goal}est time for about {length} is {start} until {end}: {then}, now {now}"]
    saved = window.saved(goal, JOULES_PER_KWH if joules is None else joules)
    if saved is not None:
        of = "a kilowatt-hour" if joules is None else f"an estimated {energy_text(joules)}"
        cheap = goal == "cheap"
        what = (
            price_text(saved, window.rate.currency) if cheap else f"{significant(saved, 2)} g CO2e"
        )
        lines.append(f"it saves about {what} of {of}")
    lines.append("once begun, the run goes on when that time is over; Ctrl-C leaves now")
    return lines


def format_moment(at_s: float, now_s: float) -> str:
    """Format a local time: ``02:15``, with its weekday or date if that is not today's."""
    at, now = datetime.fromtimestamp(at_s), datetime.fromtimestamp(now_s)
    days = (at.date() - now.date()).days
    return f"{at:%H:%M}" if not days else f"{at:%a %H:%M}" if days < 7 else f"{at:%Y-%m-%d %H:%M}"


def _wait_until(
    start_s: float, now: Callable[[], float], sleep: Callable[[float], object], stopped: Event
) -> bool:
    """Sleep until a time of the clock, and return whether it has come before ``stopped``.

    In a terminal the time that is left is shown.
    """
    shown = sys.stderr.isatty()
    while (left := start_s - now()) > 0 and not stopped.is_set():
        if shown:
            text = f"begins at {format_moment(start_s, now())}, in {seconds_text(left)}"
            click.echo(f"\r{text:<60}", nl=False, err=True)
        sleep(min(left, _LOOK_SECONDS))
    if shown:
        click.echo(f"\r{'':<60}\r", nl=False, err=True)
    return not stopped.is_set()

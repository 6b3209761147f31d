"""Options and types of values on the command line: finite numbers in bounds, and Unicode text.

click's own types accept ``nan`` in any range, numbers of any size in a half-open range, and bytes
that are no text. Every number and every text of the command line has one of these types instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, TypeVar

import click

from etui.errors import UsageError

FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)
_AGO = re.compile(r"(\d{1,6})\s*(m|h|d|w)", re.IGNORECASE)
_STEPS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST_CHARACTERS = 40
"""Length of the longest text that is parsed as a number."""
MOST_JOULES = 10**12
"""Upper limit of joules: what a machine of 10 kW draws in three years."""
LARGE = 1_000_000_000
"""Upper limit of counts that have no natural one; SQLite and llama.cpp can hold it."""


class _Number(click.ParamType[Any]):
    """A number; a text that is too long for one is refused, so that no message repeats it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a number, which has to be finite and in range."""
        if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
            what = f"{value[:20]!r}... ({len(value):,} characters) is too long for a number."
            self.fail(what, param, ctx)
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # no comparison with it is true, so the range accepts it
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class WholeNumber(_Number, click.IntRange):
    """A whole number from ``low`` to ``high``, both included."""

    def __init__(self, low: int, high: int = LARGE) -> None:
        super().__init__(low, high)


class FiniteNumber(_Number, click.FloatRange):
    """A number from ``low`` to ``high``, both included unless ``open_low`` or ``open_high``."""

    def __init__(
        self, low: float, high: float, *, open_low: bool = False, open_high: bool = False
    ) -> None:
        super().__init__(low, high, min_open=open_low, max_open=open_high)


class Text(click.types.StringParamType):
    """Any text; bytes that are not UTF-8 (lone surrogates in Python) are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that the value is text."""
        text = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self.fail(f"character {error.start + 1} is not UTF-8 text.", param, ctx)
        return text


TEXT = Text()


def text_option(*names: str, **facts: Any) -> Callable[[FC], FC]:
    """Declare an option whose value is text."""
    return click.option(*names, type=TEXT, **facts)


def number_option(
    type_: WholeNumber | FiniteNumber, *names: str, metavar: str | None = "N", **facts: Any
) -> Callable[[FC], FC]:
    """Declare an option whose value is a number."""
    return click.option(*names, type=type_, metavar=metavar, **facts)


def choice_option(choices: Sequence[str], *names: str, **facts: Any) -> Callable[[FC], FC]:
    """Declare an option whose value is one of a few words."""
    return click.option(*names, type=click.Choice(choices), **facts)


def path_option(
    *names: str,
    exists: bool = False,
    file_okay: bool = True,
    dir_okay: bool = True,
    **facts: Any,
) -> Callable[[FC], FC]:
    """Declare an option whose value is the path of a file or folder."""
    from pathlib import Path  # not loaded for `etui --help`

    place = click.Path(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)
    return click.option(*names, type=place, **facts)


def flag(*names: str, **facts: Any) -> Callable[[FC], FC]:
    """Declare an option without a value."""
    return click.option(*names, is_flag=True, **facts)


def join_options(*options: Callable[[Any], Any]) -> Callable[[FC], FC]:
    """Make one decorator of several options, which the help lists in this order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


def parse_since(text: str, now: datetime) -> datetime:
    """Parse a point in time.

    It is ``today``, ``yesterday``, ``30m``, ``12h``, ``7d``, ``2w``, or an ISO 8601 date or time.

    Args:
        text: User input; a date or time without a zone is in the zone of ``now``.
    """
    word = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if word == "today":
        return midnight
    if word == "yesterday":
        return midnight - timedelta(days=1)
    ago = _AGO.fullmatch(word)
    try:
        if ago:
            return now - timedelta(**{_STEPS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
        moment.astimezone(UTC)  # which the years 1 and 9999 may not have
        return moment
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"not a time: {text!r}",
            "write today, yesterday, 30m, 12h, 7d, 2w or a date such as 2026-11-24",
        ) from error

"""Types of command-line values: numbers that are finite and bounded, and text that is Unicode.

click's own types accept ``nan`` in any range, numbers of any size in a half-open range, and bytes
that are no text. Every number and every text of the command line has one of these types instead.
"""

from __future__ import annotations

import math
from typing import Any

import click

_MOST_CHARACTERS = 40
"""Length of the longest text that is parsed as a number."""

MOST_JOULES = 10**12
"""Upper limit of joules: what a machine of 10 kW draws in three years."""

LARGE = 1_000_000_000
"""Upper limit of counts that have no natural one; SQLite and llama.cpp can hold it."""


class WholeNumber(click.IntRange):
    """A whole number from ``low`` to ``high``, both included."""

    def __init__(self, low: int, high: int = LARGE) -> None:
        super().__init__(low, high)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a whole number.

        Raises:
            click.BadParameter: It is not a whole number, or out of range.
        """
        _check_length(self, value, param, ctx)
        return super().convert(value, param, ctx)


class FiniteNumber(click.FloatRange):
    """A number from ``low`` to ``high``, both included unless ``open_low`` or ``open_high``."""

    def __init__(
        self, low: float, high: float, *, open_low: bool = False, open_high: bool = False
    ) -> None:
        super().__init__(low, high, min_open=open_low, max_open=open_high)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a number.

        Raises:
            click.BadParameter: It is not a number, not finite, or out of range.
        """
        _check_length(self, value, param, ctx)
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # no comparison with it is true, so the range accepts it
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """Any text; bytes that are not UTF-8 (lone surrogates in Python) are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that the value is text.

        Raises:
            click.BadParameter: It contains bytes that are not UTF-8.
        """
        text = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self.fail(f"character {error.start + 1} is not UTF-8 text.", param, ctx)
        return text


TEXT = Text()


def _check_length(
    type_: WholeNumber | FiniteNumber,
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> None:
    """Refuse text that is too long to be a number, so that no message repeats all of it."""
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        type_.fail(
            f"{value[:20]!r}... ({len(value):,} characters) is too long for a number.", param, ctx
        )

"""Ask the user of a sweep for power limits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from etui.cli.output import print_event
from etui.errors import Stopped, UsageError
from etui.units import watts_text

if TYPE_CHECKING:
    from etui.energy.power_limits.limit import CapRequest


def open_question(*, jsonl: bool) -> Callable[[CapRequest], None]:
    """Return a function that asks for a power limit and returns once the user says it is set.

    With ``jsonl`` the question is a line on stdout, and the answer a line on stdin, so that a
    program can pass it on.

    Raises:
        UsageError: There is no terminal to ask in.
    """
    if jsonl:
        return _ask_by_line
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "--cap user asks you to set power limits, which needs a terminal",
            "run it in one, or use --cap set as root or with zeusd",
        )
    return _ask_in_terminal


def format_request(asked: CapRequest) -> str:
    """Format the question: ``set the power limit of GPU 0 to 200 W (now 250 W): COMMAND``."""
    now = "" if asked.current_watts is None else f" (now {watts_text(asked.current_watts)})"
    problem = f"{asked.problem}; " if asked.problem else ""
    text = f"{problem}set the power limit of {asked.label} to {asked.watts:g} W{now}"
    return f"{text}: {asked.command}" if asked.command else text


def _ask_in_terminal(asked: CapRequest) -> None:
    click.echo(format_request(asked), err=True)
    # A whole line: a progress bar keeps an unfinished one back.
    click.echo("press Enter when it is set, or Ctrl-C to stop", err=True)
    _read_line()


def _ask_by_line(asked: CapRequest) -> None:
    print_event(
        "ask_cap",
        watts=asked.watts,
        device=asked.label,
        scope=asked.scope,
        current_watts=asked.current_watts,
        command=asked.command,
        problem=asked.problem,
    )
    _read_line()


def _read_line() -> None:
    """Wait for a line."""
    if not sys.stdin.readline():
        raise Stopped("the input ended before the power limit was set", "resume the sweep to go on")

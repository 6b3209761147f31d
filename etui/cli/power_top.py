"""``etui power top``: the power screen without the chat, as a screen, a table or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING

import click

from etui.cli.common import print_json, print_json_line, stop_signals
from etui.cli.param_types import FiniteNumber
from etui.errors import EtuiError, ExitCode, UsageError

if TYPE_CHECKING:
    from etui.cli.power_top_text import TopReading
    from etui.config.config import Config
    from etui.energy.recorder import Recorder

_LOOK_SECONDS = 2.0
"""How long the channels are watched before a table: a slow counter advances a few times."""


@click.command()
@click.option("--once", is_flag=True, help="Print one table and exit, as in a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and exit.")
@click.option("--jsonl", "as_lines", is_flag=True, help="Print one JSON document per interval.")
@click.option(
    "-n",
    "--interval",
    type=FiniteNumber(0.1, 86_400),
    metavar="N",
    default=1.0,
    help="Seconds between two updates (1).",
)
def top(once: bool, as_json: bool, as_lines: bool, interval: float) -> int:
    """Show every power channel and what was spent, without the chat.

    The screen of F10: watts over the last hour, use, clocks, temperature and limit of every
    channel, etui's watts and those of others, joules by model and by day, and money where
    price_per_kwh is set. No model is loaded. q or Ctrl-C leaves it.

    Prints one table where the output is no terminal.
    """
    from etui.config.config import load_config
    from etui.energy.discovery import open_recorder

    given = [f"--{name}" for name, on in
             (("once", once), ("json", as_json), ("jsonl", as_lines)) if on]  # fmt: skip
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be combined", "pass only one of them")
    config = load_config()
    with closing(open_recorder(config)) as recorder:
        recorder.start()
        if not given and sys.stdout.isatty() and sys.stdin.isatty():
            return _show_screen(config, recorder, interval)
        try:
            if as_json:
                _print_document(config, recorder)
            elif as_lines:
                _print_lines(config, recorder, interval)
            else:
                _print_table(config, recorder)
        except KeyboardInterrupt:  # the usual way out of a live view
            click.echo(err=True)
    return ExitCode.DONE


def _show_screen(config: Config, recorder: Recorder, interval: float) -> int:
    from etui.tui.open_services import LiveMeter
    from etui.tui.power.screen import PowerTopApp

    app = PowerTopApp(config, LiveMeter(recorder, config), interval)
    app.run_until_left()
    if isinstance(app.fault, EtuiError):
        raise app.fault
    if app.fault is not None:
        raise EtuiError(
            f"internal error in the screen: {type(app.fault).__name__}: {app.fault}",
            "use `etui power top --once`; `etui --debug` shows the traceback",
        ) from app.fault
    return ExitCode.DONE


def _print_table(config: Config, recorder: Recorder) -> None:
    from etui.cli.power_top_text import format_top

    read = _open_reader(config, recorder)
    time.sleep(_LOOK_SECONDS)
    for line in format_top(read()):
        click.echo(line)


def _print_document(config: Config, recorder: Recorder) -> None:
    from etui.cli.power_top_text import build_document

    read = _open_reader(config, recorder)
    time.sleep(_LOOK_SECONDS)
    print_json(build_document(read()))


def _print_lines(config: Config, recorder: Recorder, interval: float) -> None:
    """Print lines until a signal: between two readings it ends the pause, in one it waits."""
    from etui.cli.power_top_text import build_document

    read = _open_reader(config, recorder)
    stopped, is_pausing = Event(), False

    def end_pause() -> None:
        # Raised within a reading, it could get lost in a callback of a driver.
        if is_pausing:
            raise KeyboardInterrupt

    with stop_signals(stopped, end_pause):
        pause_s = min(interval, _LOOK_SECONDS)
        while True:
            is_pausing = True
            if stopped.is_set():
                return
            time.sleep(pause_s)
            is_pausing = False
            start_s = time.monotonic()
            print_json_line(build_document(read()))
            pause_s = max(0.0, interval - (time.monotonic() - start_s))


def _open_reader(config: Config, recorder: Recorder) -> Callable[[], TopReading]:
    """Return a function that reads the channels and the log; the first reading is not used."""
    from datetime import date

    from etui.cli.power_top_text import TopReading
    from etui.energy.devices import DeviceReader, join_states
    from etui.log.daily_energy import DailyEnergy
    from etui.tui.power.spent_text import Spent, read_spent

    devices = DeviceReader(recorder, config.sysfs_dir, time.monotonic_ns)
    start_ns = time.monotonic_ns()
    devices.read()

    def read() -> TopReading:
        today = date.today()
        try:
            spent = read_spent(config, today)
        except EtuiError as error:
            spent = Spent(DailyEnergy(), today, problem=f"{error.what}; {error.fix}")
        end_ns = time.monotonic_ns()
        states = join_states(recorder.latest(), devices.read(), recorder.idle_by_channel)
        first_ns = max(start_ns, end_ns - 3_600_000_000_000)
        return TopReading(states, recorder.energy(first_ns, end_ns).peak_watts, spent)

    return read

"""``etui power top``: the power screen without the chat, as a screen, a table or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import print_json_line, print_result, stop_signals
from etui.cli.param_types import flag, number_option
from etui.cli.power import Seconds, until_stopped
from etui.codec import pick
from etui.config.config import Config, load_config
from etui.errors import EtuiError, UsageError
from etui.text import format_table, utc_now
from etui.units import UNMEASURED, watts_text

if TYPE_CHECKING:
    from etui.energy.devices import ChannelState
    from etui.energy.recorder import Recorder
    from etui.tui.power.channel_rows import Row
    from etui.tui.power.spent_text import Spent

_LOOK_SECONDS = 2.0
"""How long the channels are watched before a table: a slow counter advances a few times."""
_WIDTH = 72
_DAYS_PRINTED = 7


@dataclass(frozen=True, slots=True)
class TopReading:
    """Everything that is printed once."""

    states: Sequence[ChannelState]
    peak_watts: float | None  # Highest watts of the total in the last hour, or since the start
    spent: Spent


@click.command()
@flag("--once", help="Print one table and exit, as in a pipe.")
@flag("--json", "as_json", help="Print one JSON document and exit.")
@flag("--jsonl", "as_lines", help="Print one JSON document per interval.")
@number_option(Seconds, "-n", "--interval", default=1.0, help="Seconds between two updates (1).")
def top(once: bool, as_json: bool, as_lines: bool, interval: float) -> None:
    """Show every power channel and what was spent, without the chat.

    The screen of F10: watts over the last hour, use, clocks, temperature and limit of every
    channel, etui's watts and those of others, joules by model and by day, and money where
    config.yaml states prices. No model is loaded. q or Ctrl-C leaves it.

    Prints one table where the output is no terminal.
    """
    from etui.energy.discovery import open_recorder

    given = [f"--{name}" for name, on in
             (("once", once), ("json", as_json), ("jsonl", as_lines)) if on]  # fmt: skip
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be combined", "pass only one of them")
    config = load_config()
    with open_recorder(config) as recorder:
        if not given and sys.stdout.isatty() and sys.stdin.isatty():
            _show_screen(config, recorder, interval)
            return
        with until_stopped():
            if as_lines:
                _print_lines(config, recorder, interval)
            else:
                _print_reading(config, recorder, as_json)


def _show_screen(config: Config, recorder: Recorder, interval: float) -> None:
    from etui.tui.open_services import LiveMeter
    from etui.tui.power.screen import PowerTopApp

    app = PowerTopApp(config, LiveMeter(recorder, config), interval)
    app.run_until_left()
    fix = "use `etui power top --once`; `etui --debug` shows the traceback"
    app.raise_fault("screen", fix)


def _print_reading(config: Config, recorder: Recorder, as_json: bool) -> None:
    read = _open_reader(config, recorder)
    time.sleep(_LOOK_SECONDS)
    reading = read()
    print_result(_build_document(reading), _format_top(reading), as_json)


def _print_lines(config: Config, recorder: Recorder, interval: float) -> None:
    """Print lines until a signal: between two readings it ends the pause, in one it waits."""
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
            print_json_line(_build_document(read()))
            pause_s = max(0.0, interval - (time.monotonic() - start_s))


def _open_reader(config: Config, recorder: Recorder) -> Callable[[], TopReading]:
    """Return a function that reads the channels and the log; the first reading is not used."""
    from datetime import date

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


def _format_top(reading: TopReading) -> Iterator[str]:
    from etui.tui.power.channel_rows import build_rows, column_texts, own_text
    from etui.tui.power.spent_text import DAYS_SHOWN, day_lines, model_lines, money_lines

    rows = build_rows(reading.states)
    if rows:
        titles = ("channel", *column_texts(None), "etui, others")
        cells = [(row.name, *column_texts(row).values(), own_text(row, 99)) for row in rows]
        yield from format_table(cells, header=titles, align="<>>>>>>><")
        yield f"peak {watts_text(reading.peak_watts, rows[0].kind)}"
    else:
        yield f"{UNMEASURED}: no power sensor can be read; `etui doctor` shows why"
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


def _build_document(reading: TopReading) -> dict[str, Any]:
    from etui.tui.power.channel_rows import build_rows

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
        **pick(row, "name", "label"),
        "kind": row.state.power.channel.kind.value,
        "in_total": row.state.power.in_total,
        **pick(row, "watts", "limit_watts", "idle_watts"),
        **pick(device, "utilisation", "clock_mhz", "memory_mhz", "temperature_celsius"),
        **pick(device, "memory_used_bytes", "memory_total_bytes"),
        **pick(row, "own_watts", "others_watts"),
    }


def _build_spent(spent: Spent) -> dict[str, Any]:
    from etui.log.daily_energy import sum_by_day, sum_by_model, sum_by_part
    from etui.tui.power.spent_text import DAYS_SHOWN, list_money

    periods: dict[str, Any] = {}
    for period, found, cost in list_money(spent):
        periods[period] = found.to_json()
        if cost is not None:
            periods[period] |= {
                name: value for name, value in cost.to_json().items() if name != "kilowatt_hours"
            }
    parts = sum_by_part(spent.daily, spent.today)
    return {
        "periods": periods,
        "today": {part: found.to_json() for part, found in parts.items()},
        "models": [
            {"model": model, **found.to_json()}
            for model, found in sum_by_model(spent.daily, spent.first_day)
        ],
        "days": [
            {"day": day.isoformat(), **found.to_json()}
            for day, found in sum_by_day(spent.daily, DAYS_SHOWN)
        ],
    }

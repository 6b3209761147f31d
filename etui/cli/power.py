"""``etui power``: show watts and joules of every channel; its commands share how they measure."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import click

from etui.cli.lazy_group import LazyGroup
from etui.cli.output import json_option, print_json_line, print_result
from etui.cli.param_types import FiniteNumber, flag, number_option
from etui.cli.streams import control_stream
from etui.config.config import load_config
from etui.errors import UsageError
from etui.text import format_table, one_line
from etui.units import cost_text, energy_text, net_text, percent_text, seconds_text, watts_text

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder

WARM_UP_S = 0.3
Seconds = FiniteNumber(0.1, 86_400)


class PowerGroup(LazyGroup):
    """A group that shows the channels without a subcommand; ``run`` starts in little time."""

    commands_of: ClassVar = {
        "calibrate": "Fit the CPU power estimate to real readings of the CPU package.",
        "calibrate-wall": "Fit the power at the wall to the channels inside the machine.",
        "compare": "Compare channels that cover the same hardware.",
        "export": "Export metrics to Prometheus and Grafana.",
        "idle": "Measure the idle power of the machine, the baseline of net joules.",
        "record": "Write every reading to FILE, for `power replay` or a bug report.",
        "replay": "Compute the energy of the readings in FILE, as if they were live.",
        "run": "Run a command and report its joules.",
        "selftest": "Check the meter on this machine; exit with code 4 if a check fails.",
        "serve": "Give other machines the meter of this one, over HTTP and without a model.",
        "top": "Show every power channel and what was spent, without the chat.",
    }
    modules_of: ClassVar = {
        **dict.fromkeys(("calibrate-wall", "idle"), "calibrate"),
        **dict.fromkeys(("compare", "record", "replay", "selftest"), "check"),
        "export": "serve",
    }
    place = "etui.cli.power_"


@click.group(cls=PowerGroup, invoke_without_command=True)
@json_option
@flag("--jsonl", "as_lines", help="Print one JSON document per interval.")
@number_option(
    Seconds,
    "--seconds",
    help="Duration in seconds (default: 2, or until Ctrl-C for the live table and --jsonl).",
)
@number_option(Seconds, "--interval", default=1.0, help="Seconds between two updates (1).")
@click.pass_context
def power(
    ctx: click.Context, as_json: bool, as_lines: bool, seconds: float | None, interval: float
) -> None:
    """Show the watts and joules of every channel.

    Without options, prints a live table in a terminal, and a single table in a pipe.
    """
    if ctx.invoked_subcommand is not None:
        return
    from etui.energy.wall_model import save_checks

    if as_json and as_lines:
        raise UsageError("--json and --jsonl cannot be combined", "pass only one of them")
    live = sys.stdout.isatty() and seconds is None and not as_json
    with open_meter() as recorder:
        if as_lines:
            _print_lines(recorder, seconds, interval)
        elif live:
            _watch(recorder, interval)
        else:
            print_interval(recorder, *measure(recorder, seconds or 2.0), as_json)
        if drift := save_checks(load_config(), recorder, time.monotonic_ns()):
            click.echo(drift, err=True)


def open_meter(*, doubled: bool = False) -> Recorder:
    """Open a recorder of this machine, without starting it; ``doubled`` as in its discovery."""
    from etui.energy.discovery import open_recorder

    return open_recorder(load_config(), doubled=doubled)


@contextmanager
def until_stopped() -> Iterator[None]:
    """Let Ctrl-C end the body, and nothing else: it is the normal way out of a live view."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)


def measure(recorder: Recorder, seconds: float) -> tuple[int, int]:
    """Measure for a while, which Ctrl-C shortens; return its start and end."""
    time.sleep(WARM_UP_S)
    start_ns = time.monotonic_ns()
    with until_stopped():
        time.sleep(seconds)
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    return start_ns, end_ns


def print_interval(recorder: Recorder, start_ns: int, end_ns: int, as_json: bool) -> None:
    """Print what every channel used in an interval, as JSON or as a table."""
    document = _build_document(recorder, start_ns, end_ns)
    print_result(document, format_power(document), as_json)


def _build_document(recorder: Recorder, start_ns: int, end_ns: int) -> dict[str, Any]:
    from etui.energy.documents import power_document
    from etui.energy.tariff_files import read_tariff

    tariff = read_tariff(load_config())
    return power_document(recorder, start_ns, end_ns, None if tariff is None else tariff.rate)


def _print_lines(recorder: Recorder, seconds: float | None, interval: float) -> None:
    """Print a JSON line per interval; intervals have no gaps, so their joules sum to the whole."""
    time.sleep(WARM_UP_S)
    begin_ns = start_ns = time.monotonic_ns()
    with until_stopped():
        while seconds is None or (start_ns - begin_ns) / 1e9 < seconds - 1e-3:
            left = interval if seconds is None else seconds - (start_ns - begin_ns) / 1e9
            end_ns = start_ns + int(min(interval, left) * 1e9)
            time.sleep(max((end_ns - time.monotonic_ns()) / 1e9, 0.0))
            recorder.settle(end_ns)
            print_json_line(_build_document(recorder, start_ns, end_ns))
            start_ns = end_ns


def _watch(recorder: Recorder, interval: float) -> None:
    time.sleep(WARM_UP_S)
    begin_ns = time.monotonic_ns()
    drawn = 0
    with until_stopped():
        while True:
            time.sleep(interval)
            end_ns = time.monotonic_ns()
            recorder.settle(end_ns)
            lines = list(format_power(_build_document(recorder, begin_ns, end_ns)))
            if drawn:
                click.echo(f"\x1b[{drawn}F\x1b[J", file=control_stream(), nl=False)
            click.echo("\n".join(lines))
            drawn = len(lines)


_HEAD = ("channel", "now", "mean", "energy", "since start", "period", "coverage", "notes")


def format_power(document: dict[str, Any], *, live: bool = True) -> Iterator[str]:
    """Format a power document as lines of text: every channel, then the total.

    Without ``live``, the watts now and the joules since the start are left out.
    """
    from etui.energy.types import WallEnergy
    from etui.energy.wall_model import wall_text

    rows = [_HEAD, *(_format_row(channel) for channel in document["channels"])]
    head, *rows = rows if live else [(row[0], *row[2:4], *row[5:]) for row in rows]
    yield from format_table(rows, header=head)
    energy = document["energy"]
    total = energy_text(energy["joules"], energy["uncertainty"], energy["kind"], spread=True)
    if energy["net_joules"] is not None and not live:
        net = net_text(energy["net_joules"], energy["uncertainty"], energy["kind"])
        total += f", {net} above idle"
    yield f"total over {seconds_text(document['seconds'])}: {total}"
    if wall := energy.get("wall"):
        yield f"at the wall: {wall_text(WallEnergy(**{k: wall[k] for k in wall if k != 'kind'}))}"
    mean = watts_text(energy["mean_watts"], energy["kind"])
    peak = watts_text(energy["peak_watts"], energy["kind"])
    yield f"mean {mean}, peak {peak}, coverage {percent_text(energy['coverage'])}"
    if energy["unmeasured"]:
        from etui.energy.scopes import describe_unread

        yield f"{describe_unread(energy['unmeasured'])} (see `etui doctor`)"
    if cost := document.get("cost"):
        text = cost_text(cost.get("grams_co2e"), cost.get("price"), cost.get("currency", ""))
        wall = ", at the wall" if text and "joules_of" in cost else ""
        yield f"by your tariff: {text or 'no price known for this time'}{wall}"


def _format_row(channel: dict[str, Any]) -> tuple[str, ...]:
    kind = channel["kind"]
    notes = [] if channel["in_total"] else ["cross-check"]
    notes += [flag for flag in channel["flags"] if flag != "extrapolated"]
    wall = channel["wall"] or {}
    notes += [one_line(wall["problem"])] if wall.get("problem") else []
    period = channel["period_seconds"]
    return (
        channel["id"],
        watts_text(channel["watts"], kind),
        watts_text(channel.get("mean_watts"), kind),
        energy_text(channel["joules"], channel["uncertainty"], kind),
        energy_text(channel["joules_since_start"], None, kind),
        seconds_text(period) if period else "-",
        percent_text(channel["coverage"]),
        ", ".join(notes),
    )

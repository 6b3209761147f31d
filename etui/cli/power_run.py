"""``etui power run``: what a command costs in joules, and which of two commands costs fewer."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import (
    format_json,
    json_option,
    print_lines,
    require_writable,
    table_lines,
    write_output,
)
from etui.cli.param_types import WholeNumber, flag, number_option, path_option, text_option
from etui.cli.power import format_power
from etui.config.config import Config, load_config
from etui.errors import EtuiError, UsageError
from etui.text import one_line
from etui.units import (
    ABOUT,
    ESTIMATE,
    MULTIPLE_ABOVE_PERCENT,
    UNMEASURED,
    change_text,
    count_text,
    energy_text,
    percent_text,
    seconds_text,
    size_text,
)

if TYPE_CHECKING:
    from etui.energy.command import CommandRun, Foreground
    from etui.energy.recorder import Recorder
    from etui.energy.tariff import RateAt
    from etui.measure.commands import Comparison
    from etui.stats.differences import Difference
    from etui.stats.tests import Interval

_PAIRS = 10
_KEEP_SECONDS = 86_400.0
_MOST_CHARACTERS = 60
_FIX = "name another file with --output"


@dataclass(slots=True)
class _Results:
    """The runs so far of one command or of two."""

    commands: list[Sequence[str]]
    runs: list[list[CommandRun]] = field(default_factory=list)
    stopped: str = ""  # Why not all runs were made; empty if they were
    exit_code: int = 0


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@number_option(
    WholeNumber(1, 100_000),
    "--repeat",
    help="Run the command N times (1), or N pairs with --against (10).",
)
@text_option(
    "--against",
    metavar="COMMAND",
    help="Compare with another command, quoted as one word, in pairs of random order.",
)
@number_option(
    WholeNumber(0, 1000),
    "--warm-up",
    help="Runs of each command before, which are not counted (1 with --repeat or --against).",
)
@flag("--ignore-failure", help="Go on after a run that ends with another exit code than 0.")
@path_option("--output", metavar="FILE", help="Write the report to FILE, not to standard error.")
@json_option
def run(
    command: tuple[str, ...],
    repeat: int | None,
    against: str | None,
    warm_up: int | None,
    ignore_failure: bool,
    output: Path | None,
    as_json: bool,
) -> int:
    """Run a command and report its joules.

    The command has this terminal, its input and output and its signals; the report follows on
    standard error, and the exit code is the command's (128 and the number of the signal that ended
    it, 126 if it cannot be executed, 127 if it is not found). All programs of the machine draw
    power: where others ran too, the report estimates the command's own part.

    \b
    etui power run -- make -j4
    etui power run --repeat 10 --warm-up 2 -- ./train.py
    etui power run --against 'zstd -k -f big' --repeat 30 -- gzip -k -f big
    """  # noqa: D301
    other = None if against is None else _split(against)
    if output is not None:
        require_writable(output, _FIX)
    if repeat is None:
        repeat = 1 if other is None else _PAIRS
    if warm_up is None:
        warm_up = int(repeat > 1 or other is not None)
    from etui.energy.command import CommandFailed, Foreground
    from etui.energy.discovery import open_recorder

    results = _Results([command] if other is None else [command, other])
    results.runs = [[] for _ in results.commands]
    config = load_config()
    with Foreground() as foreground:
        with open_recorder(config, light=True, keep_seconds=_KEEP_SECONDS) as recorder:
            try:
                _make_runs(results, recorder, foreground, (repeat, warm_up), ignore_failure)
            except CommandFailed as error:
                results.exit_code, results.stopped = error.exit_code, f"cannot run {error}"
        if any(results.runs) or as_json:
            _write_report(results, recorder, config, output, as_json)
        else:
            click.echo(f"etui: {results.stopped}", err=True)
    return results.exit_code


def _split(text: str) -> Sequence[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--against: {error}", "quote it as for a shell") from error
    if not words:
        raise UsageError("--against names no command", "for example --against 'gzip -9 -k file'")
    return words


def _make_runs(
    results: _Results,
    recorder: Recorder,
    foreground: Foreground,
    counts: tuple[int, int],
    ignore_failure: bool,
) -> None:
    """Make all runs, until one fails or a signal asks to end."""
    from etui.energy.command import OF_SIGNAL, measure_command

    repeat, warm_up = counts
    names = [_name(words) for words in results.commands]
    several = len(names) > 1 or repeat + warm_up > 1
    rounds: list[tuple[int, ...]] = [tuple(range(len(names)))] * warm_up
    if len(names) == 1:
        rounds += [(0,)] * repeat
    else:
        import random

        from etui.measure.commands import plan_pairs  # loads the statistics

        rounds += plan_pairs(repeat, random.Random())
    for number, order in enumerate(rounds):
        made: dict[int, CommandRun] = {}
        for at in order:
            if foreground.interrupted and not results.exit_code:
                results.exit_code = OF_SIGNAL + foreground.interrupted
            if not foreground.interrupted:
                made[at] = measure_command(results.commands[at], recorder, foreground)
                if not several or not ignore_failure or foreground.interrupted:
                    results.exit_code = made[at].exit_code
            if foreground.interrupted and number + 1 < len(rounds):
                what = signal.Signals(foreground.interrupted).name
                results.stopped = f"stopped by {what}"
                break
            if results.exit_code and several:
                what = f"{names[at]} ended with exit code {results.exit_code}"
                results.stopped = f"stopped: {what} (--ignore-failure goes on)"
                break
        if number >= warm_up and not results.stopped:
            for at, found in made.items():
                results.runs[at].append(found)
        if results.stopped:
            return


def _name(words: Sequence[str]) -> str:
    text = one_line(shlex.join(words))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _write_report(
    results: _Results, recorder: Recorder, config: Config, output: Path | None, as_json: bool
) -> None:
    """Write the report of the runs; to standard error, as the output is the command's."""
    is_one = len(results.runs) == 1 and len(results.runs[0]) == 1 and not results.stopped
    tariff = None
    if is_one and config.has_rates:
        from etui.energy.tariff_files import read_tariff

        tariff = read_tariff(config)
    build = partial(_build_run, recorder=recorder, rate_at=None if tariff is None else tariff.rate)
    comparison = None
    if len(results.runs) == 2:
        from etui.measure.commands import Cost, compare_pairs

        costs = [[Cost(r.energy.joules, r.energy.seconds) for r in runs] for runs in results.runs]
        comparison = compare_pairs(list(zip(*costs, strict=True)))
    if as_json:
        lines = [format_json(_build_document(results, comparison, build))]
    elif is_one:
        lines = list(_format_run(results.runs[0][0], build(results.runs[0][0])))
    else:
        lines = list(_format_runs(results, comparison))
    try:
        if output is not None:
            write_output(output, "\n".join(lines) + "\n", _FIX)
            return
    except EtuiError as error:  # the command has run: its figures and exit code must not be lost
        click.echo(f"etui: {error.what}", err=True)
    with suppress(OSError):  # its reader is gone
        print_lines(lines, err=True)


def _build_document(
    results: _Results,
    comparison: Comparison | None,
    build: Callable[[CommandRun], dict[str, Any]],
) -> dict[str, Any]:
    commands = []
    for words, runs in zip(results.commands, results.runs, strict=True):
        figures = {name: _estimate(runs, name) for name in ("joules", "net_joules", "seconds")}
        documents = [build(one) for one in runs]
        commands.append({"command": list(words), **figures, "runs": documents})
    return {
        "commands": commands,
        "comparison": comparison,
        "stopped": results.stopped or None,
        "meter_cpu_seconds": time.process_time(),
    }


def _build_run(run: CommandRun, recorder: Recorder, rate_at: RateAt | None) -> dict[str, Any]:
    from etui.energy.documents import power_document

    document = power_document(recorder, run.energy.start_ns, run.energy.end_ns, rate_at)
    document["energy"] |= {"shared": run.shared, "own_joules": run.own_joules}
    names = ("exit_code", "cpu_seconds", "cpu_share", "left_running")
    return {name: getattr(run, name) for name in names} | document


def _estimate(runs: Sequence[CommandRun], name: str) -> Interval | None:
    from etui.measure.commands import estimate_mean

    values = [getattr(one.energy, name) for one in runs]
    if not values or None in values:
        return None
    widths = [one.energy.uncertainty or 0.0 for one in runs] if name != "seconds" else []
    return estimate_mean(values, widths)


def _format_run(run: CommandRun, document: dict[str, Any]) -> Iterator[str]:
    yield from format_power(document, live=False)
    if run.energy.joules is not None and run.energy.net_joules is None:
        yield "what is above idle is unknown until `etui power idle` has measured it"
    if run.cpu_seconds is not None:
        yield f"CPU time {seconds_text(run.cpu_seconds)}"
    if run.shared:
        own = energy_text(run.own_joules, None, run.energy.kind)
        share = percent_text(run.cpu_share)
        yield f"other programs ran: the command had {share} of the CPU time in use, its own: {own}"
    if run.left_running:
        yield f"{count_text(run.left_running, 'process', 'processes')} of the command still running"


def _format_runs(results: _Results, comparison: Comparison | None) -> Iterator[str]:
    from etui.sweep.verdict import joules_text, spread_seconds_text

    names, rows, kind = [_name(words) for words in results.commands], [], None
    for name, runs in zip(names, results.runs, strict=True):
        kinds = {one.energy.kind for one in runs} - {None}
        kind = max((one.value for one in kinds if one), default=None) if len(kinds) == 1 else None
        net = _estimate(runs, "net_joules")
        rows.append(
            (
                name,
                str(len(runs)),
                joules_text(_estimate(runs, "joules"), kind),
                "–" if net is None else joules_text(net, kind),
                spread_seconds_text(_estimate(runs, "seconds")),
                str(sum(one.shared for one in runs) or "–"),
            )
        )
    mark = " (estimate)" if kind == ESTIMATE else ""
    head = ("command", "runs", f"joules{mark}", "above idle", "time", "shared")
    yield from table_lines(head, rows)
    if comparison is not None:
        yield from _format_comparison(names, comparison, kind)
    failed = sum(one.exit_code != 0 for runs in results.runs for one in runs)
    if failed:
        yield f"{count_text(failed, 'run')} ended with another exit code than 0"
    if results.stopped:
        yield results.stopped


def _format_comparison(
    names: Sequence[str], comparison: Comparison, kind: str | None
) -> Iterator[str]:
    from etui.sweep.verdict import no_difference_text

    first, second = names
    found: list[tuple[str, Difference | None, float | None]] = [
        ("joules", comparison.joules, comparison.joules_floor_percent),
        ("time", comparison.seconds, comparison.seconds_floor_percent),
    ]
    multiples, sizes, open_ = [], [], []
    for what, change, floor in found:
        if change is None:
            open_.append(f"{what} {UNMEASURED}")
        elif change.is_claimed:
            about = ABOUT if what == "joules" and kind == ESTIMATE else ""
            size = about + size_text(change.percent, change.low, change.high)
            less = "fewer" if what == "joules" else "less"
            if change.percent > MULTIPLE_ABOVE_PERCENT:
                multiples.append(f"{size} the {what}")
            else:
                sizes.append(f"{size} {less if change.percent < 0 else 'more'} {what}")
        else:
            open_.append(no_difference_text(what, change, floor))
    links = (multiples, "of"), (sizes, "than")
    claims = [f"{' and '.join(texts)} {link} {first}" for texts, link in links if texts]
    parts = [f"{second} takes {' and '.join(claims)}"] if claims else []
    yield "; ".join([*parts, *open_])
    floors = [f"{change_text(p, signed=False)} in {what}" for what, _, p in found if p is not None]
    pairs = count_text(comparison.pairs, "pair")
    if floors:
        yield f"{pairs} in random order find a difference of {' or '.join(floors)} in 80 % of cases"

"""Run the short form of every benchmark and print one table: ``python -m benchmarks``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.history import FILE, append, before, read, record_of
from benchmarks.machine import commit_of, this_machine
from benchmarks.report import history_text, list_text, outcomes_text
from benchmarks.runner import FOLDER, Benchmark, own_folders, run, shipped
from etui.errors import EtuiError
from etui.text import did_you_mean

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""


def command(benchmarks: Sequence[Benchmark], file: Path) -> click.Command:
    """Build the command line.

    Args:
        benchmarks: What can be run.
        file: The history.
    """

    @click.command("benchmarks", context_settings={"help_option_names": ["-h", "--help"]})
    @click.option("--only", multiple=True, metavar="NAME,...", help="Run or show only these.")
    @click.option("--list", "listing", is_flag=True, help="List the benchmarks and run none.")
    @click.option("--record", is_flag=True, help=f"Append the figures to {file.name}.")
    @click.option("--history", "showing", is_flag=True, help="Show the recorded runs and run none.")
    def benchmarks_command(
        only: tuple[str, ...], listing: bool, record: bool, showing: bool
    ) -> None:
        """Run the short form of each benchmark and print one table of ratios.

        Exit code 1 says that a benchmark failed, 130 that Ctrl-C ended the run.
        """
        if listing + record + showing > 1:
            raise click.UsageError("pass only one of --list, --record and --history")
        chosen = choose(benchmarks, only)
        if listing:
            click.echo(list_text(chosen))
            return
        try:
            records = read(file)
        except EtuiError as error:
            raise click.ClickException(f"{error.what}\n{error.fix}") from error
        if showing:
            shown = history_text(records, [one.name for one in chosen])
            click.echo(shown or f"nothing is recorded in {file}")
            return
        try:
            with own_folders():
                machine = this_machine()
                outcomes = run(chosen, lambda name: click.echo(f"{name} ...", err=True))
        except EtuiError as error:
            raise click.ClickException(f"{error.what}\n{error.fix}") from error
        click.echo(outcomes_text(outcomes, before(records, machine)))
        statuses = {one.status for one in outcomes}
        if "interrupted" in statuses:
            if record:
                click.echo("nothing is recorded of a run that was stopped", err=True)
            sys.exit(INTERRUPTED)
        if record:
            date = datetime.now(UTC).isoformat(timespec="seconds")
            append(record_of(outcomes, *commit_of(FOLDER), date, machine), file)
            click.echo(f"recorded in {file}", err=True)
        if "failed" in statuses:
            sys.exit(1)

    return benchmarks_command


def choose(benchmarks: Sequence[Benchmark], only: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks that ``--only`` names, in their own order; all without names.

    Raises:
        click.BadParameter: There is no such benchmark; the nearest names are offered.
    """
    names = [name.strip() for part in only for name in part.split(",") if name.strip()]
    known = [one.name for one in benchmarks]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"there is no benchmark '{name}'{did_you_mean(name, known, listed=20)}",
                param_hint="--only",
            )
    if only and not names:
        raise click.BadParameter("it names no benchmark", param_hint="--only")
    return [one for one in benchmarks if one.name in names or not names]


if __name__ == "__main__":
    command(shipped(), FILE)()

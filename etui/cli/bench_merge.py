"""``etui bench merge``: join the runs of one plan."""

from __future__ import annotations

from pathlib import Path

import click

from etui.cli.output import print_json
from etui.cli.param_types import TEXT, flag, path_option


@click.command()
@click.argument("runs", type=TEXT, nargs=-1, required=True, metavar="RUN RUN...")
@path_option("-o", "--out", metavar="DIR", help="Folder for the joined run.")
@flag("--json", "as_json", help="Print the summary as one JSON document.")
@flag("-q", "--quiet", help="Do not print notes.")
def merge(runs: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Join the runs of one plan into a new run: its parts, from other machines or other days.

    \b
    etui bench merge part-1 part-2 --out whole

    The runs must have the same questions, format, seed, arms and model files; versions and machines
    may differ, and are named. A question that several runs answered counts once, with the answer of
    the run that is given first. Runs may be unfinished, and may be joined themselves.

    Joules are given for each machine, and pooled only if all machines are equal: hardware,
    programs, settings and power channels. RUN is the run's folder, its id, or `last`.
    """  # noqa: D301
    from datetime import datetime

    from etui.bench.folder import RUN, find_run, new_run_id, read_run, runs_dir
    from etui.bench.merge import merge_runs, write_merged
    from etui.bench.summary import summary_document
    from etui.bench.summary_text import headline
    from etui.config.config import load_config, make_home
    from etui.log.writer import TurnWriter
    from etui.measure.folder import check_new

    config = load_config()
    make_home(config)
    folders = [find_run(text, config) for text in runs]
    if out is not None:
        check_new(out, RUN)
    found = [read_run(folder) for folder in folders]
    first = found[0].config
    run_id = new_run_id(first.suite, first.format, first.contenders, datetime.now())
    merged = merge_runs(found, run_id)
    log = TurnWriter(config, report=lambda text: click.echo(text, err=True))
    to = out or runs_dir(config) / run_id
    summary = write_merged(merged, to, config, log)
    if as_json:
        print_json(summary_document(summary))
    else:
        click.echo(headline(summary))
    if not quiet:
        for note in (*merged.notes, *summary.warnings):
            click.echo(f"note: {note}", err=True)
        click.echo(f"report: {to / 'report.html'}", err=True)

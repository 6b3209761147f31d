"""``etui bench export``: write a run in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from etui.cli.output import write_output
from etui.cli.param_types import TEXT, flag, path_option


@click.command()
@click.argument("run", type=TEXT, metavar="RUN[:ARM]")
@flag("--lm-eval", "lm_eval", help="Use the format of lm-evaluation-harness results.")
@path_option(
    "-o",
    "--output",
    metavar="FILE",
    help="Output file. For a folder, lm-eval's own file name is added. Default: standard output.",
)
def export(run: str, lm_eval: bool, output: Path | None) -> None:
    """Write a run's results in the form that lm-eval's viewers read.

    If the run has several arms, choose one with RUN:ARM. RUN is the run's folder, its id, or
    `last`.
    """
    from etui.bench.compare import read_systems
    from etui.bench.lm_eval import default_path, lm_eval_document
    from etui.config.config import load_config
    from etui.errors import UsageError

    if not lm_eval:
        raise UsageError("no export format given", "add it: etui bench export RUN --lm-eval")
    (systems,), notes = read_systems([run], load_config())
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if len(systems) > 1:
        arms = [system.name for system in systems]
        raise UsageError(
            f"{run} has the arms {', '.join(arms)}; a results file holds only one",
            f"choose one, for example {run}:{arms[0]}",
        )
    document = lm_eval_document(systems[0])
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    path = default_path(output, document) if output.is_dir() else output
    fix = "choose another file with --output"
    write_output(path, text, fix, make_folder=True, errors="surrogatepass")
    click.echo(str(path))

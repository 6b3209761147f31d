"""``etui bench difficulty``: make the table that ``--difficulty`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.cli.output import write_output
from etui.cli.param_types import TEXT, path_option

if TYPE_CHECKING:
    from etui.bench.difficulty import ModelOutcomes


@click.command()
@click.argument("runs", nargs=-1, type=TEXT, metavar="[RUN]...")
@path_option(
    "--outcomes",
    "tables",
    multiple=True,
    metavar="FILE",
    help="Table subject,row,MODEL,MODEL,... of 0 and 1; repeatable.",
)
@path_option("-o", "--out", required=True, metavar="FILE", help="The table to write.")
def difficulty(runs: tuple[str, ...], tables: tuple[Path, ...], out: Path) -> None:
    """Make the table of difficulties that --difficulty reads, from runs.

    The difficulty of a question is the expected accuracy of a model on it, from the answers of the
    models in RUN (a folder, an id, or `last`) and in tables of outcomes. Use other models than the
    one that you will measure.

    \b
    etui bench difficulty last --outcomes other_models.csv -o difficulty.csv
    etui bench --suite mmlu --precision 3 --difficulty difficulty.csv --model qwen2.5-coder-0.5b
    """  # noqa: D301
    from etui.bench.difficulty import build_difficulty, collect_models, parse_difficulty
    from etui.bench.folder import find_run, read_run
    from etui.config.config import load_config
    from etui.errors import UsageError
    from etui.units import count_text

    if not runs and not tables:
        raise UsageError("no answers given", "name a run, or a table with --outcomes")
    config = load_config()
    models = []
    for name in runs:
        folder = find_run(name, config)
        recorded = read_run(folder)
        if not recorded.samples:
            raise UsageError(
                f"{folder} has no answers yet", f"resume it: etui bench --resume {folder}"
            )
        for edit in recorded.edited:
            click.echo(f"note: {folder} was changed outside etui: {edit}", err=True)
        models += collect_models(recorded.config, recorded.samples, f"run {recorded.config.run_id}")
    models += [model for path in tables for model in _read_table(path)]
    text = build_difficulty(models)
    write_output(out, text, "use another file with --out")
    made = parse_difficulty(text, str(out))
    click.echo(
        f"{out}: {count_text(len(made.values), 'question')}, answered by "
        f"{count_text(max(made.models.values()), 'model')} at most",
        err=True,
    )


def _read_table(path: Path) -> list[ModelOutcomes]:
    from etui.bench.difficulty import DifficultySource, ModelOutcomes
    from etui.learning.outcomes import read_table

    graded = read_table(path, complete=True).graded
    keys = list(zip(graded.subjects, graded.rows, strict=True))
    return [
        ModelOutcomes(
            DifficultySource(name, None, f"table {path.name}"),
            dict(zip(keys, map(float, graded.correct[:, at]), strict=True)),
        )
        for at, name in enumerate(graded.arms)
    ]

"""The options of ``policy fit`` and ``policy replay`` that name graded answers and their texts."""

from __future__ import annotations

from pathlib import Path

import click

from etui.cli.param_types import TEXT

policies_argument = click.argument("names", type=TEXT, nargs=-1, metavar="[POLICY]")

outcomes_option = click.option(
    "--outcomes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV file with the columns subject,row,ARM,ARM...; 1 where the arm was right. Costs in "
    "ARM:cost.",
)

runs_option = click.option(
    "--runs", type=TEXT, multiple=True, metavar="RUN", help="Bench run; repeatable."
)

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of MMLU's files, for the texts of the questions.",
)

split_option = click.option(
    "--split",
    type=click.Choice(["test", "val", "dev"]),
    default="test",
    show_default=True,
    help="Split of MMLU that the rows of --outcomes refer to.",
)

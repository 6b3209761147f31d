"""Options of ``etui bench``, by subject."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import click

from etui.cli.param_types import (
    MOST_JOULES,
    FiniteNumber,
    WholeNumber,
    flag,
    path_option,
    text_option,
)
from etui.cli.when import when_options

if TYPE_CHECKING:
    from etui.bench.config import BenchPart

Command = Callable[..., Any]
Option = Callable[[Command], Command]

SECTIONS = {
    "design": "Questions",
    "models": "Arms",
    "prefix_reuse": "Run",
    "cluster": "Many machines",
    "as_json": "Output",
}
"""First parameter of each section of the help -> title of the section."""


def _parse_limit(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Parse a number of questions or ``all``; None for all."""
    if value in (None, "all"):
        return None
    if not value or not value.isascii() or not value.isdigit() or not value.strip("0"):
        shown = repr(value if len(value) <= 20 else f"{value[:20]}...")
        raise click.BadParameter(f"{shown} is not a number above 0 or 'all'", ctx, param)
    return WholeNumber(1).convert(value, param, ctx)


def _parse_names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse names separated by commas."""
    names = tuple(part.strip() for part in (value or "").split(",") if part.strip())
    if value is not None and not names:
        raise click.BadParameter("no names given", ctx, param)
    return names


def _parse_part(ctx: click.Context, param: click.Parameter, value: str | None) -> BenchPart | None:
    """Parse ``K/N``, the K-th of N parts; None without a value."""
    if value is None:
        return None
    from etui.bench.config import BenchPart

    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", value)
    index, count = (int(number) for number in found.groups()) if found else (0, 0)
    if not (1 <= index <= count and count >= 2):
        shown = repr(value if len(value) <= 20 else f"{value[:20]}...")
        raise click.BadParameter(
            f"{shown} is not a part like 1/4, the first of four (2 to 9999 parts)", ctx, param
        )
    return BenchPart(index - 1, count)


_OPTIONS: tuple[Option, ...] = (
    # the questions and how they are asked
    text_option(
        "--design",
        metavar="NAME|FILE",
        help="Design of a study, which states the questions and the arms: see etui bench designs.",
    ),
    text_option(
        "--suite",
        metavar="NAME|FILE",
        help="Questions: mmlu, mmlu-pro, arc-challenge, gsm8k, the built-in sample, or a CSV or "
        "JSONL file.",
    ),
    text_option(
        "--data",
        metavar="DIR|FILE",
        help="Local copy of the suite; without it, the suite is downloaded once.",
    ),
    click.option(
        "--split",
        type=click.Choice(["test", "val", "dev"]),
        default="test",
        show_default=True,
        help="Split of the questions: tune on val, evaluate on test.",
    ),
    click.option(
        "-f",
        "--format",
        type=click.Choice(
            ["letters", "letters-original", "cloze", "arc", "chat", "cot", "gsm8k", "mmlu-pro"]
        ),
        help="Prompt format (default: that of the suite, or chat with --reasoning or arms).",
    ),
    click.option(
        "--shots",
        type=WholeNumber(0, 5),
        metavar="0..5",
        help="Number of worked examples (default: by the format).",
    ),
    text_option(
        "-n",
        "--limit",
        callback=_parse_limit,
        metavar="N|all",
        help="Number of questions, drawn in proportion to the sizes of the subjects.",
    ),
    click.option(
        "--per-subject",
        type=WholeNumber(1),
        metavar="N",
        help="Number of questions drawn from each subject.",
    ),
    click.option(
        "--precision",
        type=FiniteNumber(0, 50, open_low=True, open_high=True),
        metavar="POINTS",
        help="Stop when each accuracy is known to ±POINTS at 95 %. With --limit, ask at most so "
        "many questions.",
    ),
    click.option(
        "--precision-of",
        type=click.Choice(["accuracy", "difference"]),
        help="What is to be precise: each accuracy, or its difference from the first system.",
    ),
    path_option(
        "--difficulty",
        metavar="FILE",
        help="Difficulties of the questions (etui bench difficulty), so that fewer suffice.",
    ),
    text_option("--subjects", callback=_parse_names, metavar="S,T", help="Only these subjects."),
    click.option(
        "--seed",
        type=WholeNumber(0, 2**32 - 1),
        default=0,
        show_default=True,
        metavar="N",
        help="Seed of the drawn questions, the order of the subjects, and the sampling.",
    ),
    text_option(
        "--part",
        callback=_parse_part,
        metavar="K/N",
        help="Answer only the K-th of N parts of the questions, one on each machine; "
        "`etui bench merge` joins them. Parts are whole subjects with about as many questions in "
        "each; a subject larger than a part is cut.",
    ),
    # the arms, or the policy that chooses among them
    text_option(
        "-m",
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="Model to measure; repeatable. With --design ROLE=NAME, the model of a role.",
    ),
    click.option(
        "-r",
        "--reasoning",
        "reasonings",
        multiple=True,
        type=click.Choice(["direct", "cot", "vote"]),
        help="Reasoning method of --model; repeatable. Without it, log-probabilities are compared.",
    ),
    text_option(
        "-a",
        "--arms",
        callback=_parse_names,
        metavar="A,B",
        help="Arms of the policy to measure, on the same questions.",
    ),
    text_option(
        "-p", "--policy", metavar="NAME|FILE", help="Policy that chooses an arm for each question."
    ),
    click.option(
        "--think-tokens",
        type=WholeNumber(0, 100_000),
        metavar="N",
        help="Maximum number of thinking tokens.",
    ),
    click.option("--votes", type=WholeNumber(1, 64), metavar="N", help="Maximum number of votes."),
    click.option(
        "--stop",
        type=click.Choice(["all", "lead", "flip", "adaptive"]),
        help="When to stop voting.",
    ),
    click.option(
        "--max-tokens",
        type=WholeNumber(1, 100_000),
        metavar="N",
        help="Maximum number of answer tokens.",
    ),
    click.option(
        "-t",
        "--temperature",
        type=FiniteNumber(0, 5),
        metavar="T",
        help="Sampling temperature. Default: the arm's, else 0, for votes 0.7.",
    ),
    click.option(
        "--speculate",
        "speculates",
        multiple=True,
        type=click.Choice(["off", "lookup", "draft", "mtp", "auto"]),
        help="Where drafted tokens come from; repeatable, each arm is then measured with each of "
        "them. Default: the policy's or the model's, or off.",
    ),
    click.option(
        "--loop-guard/--no-loop-guard",
        default=None,
        help="End generated answers that repeat themselves (default: as the arm says, else off).",
    ),
    # the run: its folder, its limits, its gate
    click.option(
        "--prefix-reuse/--no-prefix-reuse",
        default=True,
        show_default=True,
        help="Compute worked examples once per subject, or again for every question.",
    ),
    path_option("-o", "--out", metavar="DIR", help="Folder for the run."),
    text_option("--resume", metavar="RUN", help="Resume a run: its folder, its id, or 'last'."),
    click.option(
        "--fail-under",
        type=FiniteNumber(0, 100),
        metavar="PERCENT",
        help="Exit with code 4 if the micro-averaged accuracy of any arm is lower.",
    ),
    click.option(
        "--max-joules",
        type=FiniteNumber(0, MOST_JOULES, open_low=True),
        metavar="J",
        help="Stop once this many joules are used; exit with code 3.",
    ),
    click.option(
        "--max-hours",
        type=FiniteNumber(0, 10_000, open_low=True),
        metavar="H",
        help="Stop after this many hours, a study with whole blocks; exit with code 3.",
    ),
    flag(
        "--dry-run",
        help="Only count the tokens that would be computed; with --design or --resume, price them.",
    ),
    click.option(
        "--pilot",
        type=WholeNumber(2, 100),
        metavar="N",
        help="Measure N questions of every arm first, so that --dry-run knows joules and seconds.",
    ),
    when_options,
    # many machines
    text_option(
        "--cluster",
        metavar="ADDRESS|local[:N]",
        help="Answer on the nodes of a Ray cluster: HOST:PORT of its head, or 'local' to start "
        "one of N nodes on this machine (default: 1).",
    ),
    click.option(
        "--compare/--shard",
        default=None,
        help="With --cluster: every node answers all questions, to compare the machines, or the "
        "nodes share the questions (default).",
    ),
    click.option(
        "--node-timeout",
        type=FiniteNumber(0, 86_400, open_low=True),
        metavar="S",
        help="With --cluster: give the questions of a node to others once it is silent for S "
        "seconds (default: by its speed, 60 or more).",
    ),
    # what is printed
    flag("--json", "as_json", help="Print the summary as one JSON document."),
    flag("--jsonl", "as_lines", help="Print each answer as a line of JSON."),
    flag("-q", "--quiet", help="Do not show progress."),
)


def bench_options(command: Command) -> Command:
    """Add the options of ``etui bench`` to a command; its help lists them in this order."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def list_given(ctx: click.Context) -> list[str]:
    """List the names of the options that the command line states, in the order of the help."""
    return [
        param.name
        for param in ctx.command.params
        if param.name is not None
        and ctx.get_parameter_source(param.name) is not click.core.ParameterSource.DEFAULT
    ]


def format_option(ctx: click.Context, name: str) -> str:
    """Return an option as it is written on the command line."""
    found = next(param for param in ctx.command.params if param.name == name)
    return max(found.opts, key=len)

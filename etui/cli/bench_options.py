"""Options of ``etui bench``, by subject."""

from __future__ import annotations

import re

import click

from etui.bench.config import BenchPart
from etui.cli.param_types import (
    MOST_JOULES,
    FiniteNumber,
    WholeNumber,
    choice_option,
    flag,
    join_options,
    number_option,
    path_option,
    text_option,
)
from etui.cli.when import when_options

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
    number: int = WholeNumber(1).convert(value, param, ctx)
    return number


def _parse_names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(part.strip() for part in (value or "").split(",") if part.strip())
    if value is not None and not names:
        raise click.BadParameter("no names given", ctx, param)
    return names


def _parse_part(ctx: click.Context, param: click.Parameter, value: str | None) -> BenchPart | None:
    """Parse ``K/N``, the K-th of N parts; None without a value."""
    if value is None:
        return None

    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", value)
    index, count = (int(number) for number in found.groups()) if found else (0, 0)
    if not (1 <= index <= count and count >= 2):
        shown = repr(value if len(value) <= 20 else f"{value[:20]}...")
        raise click.BadParameter(
            f"{shown} is not a part like 1/4, the first of four (2 to 9999 parts)", ctx, param
        )
    return BenchPart(index - 1, count)


bench_options = join_options(
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
    choice_option(
        ["test", "val", "dev"],
        "--split",
        default="test",
        show_default=True,
        help="Split of the questions: tune on val, evaluate on test.",
    ),
    choice_option(
        ["letters", "letters-original", "cloze", "arc", "chat", "cot", "gsm8k", "mmlu-pro"],
        *("-f", "--format"),
        help="Prompt format (default: that of the suite, or chat with --reasoning or arms).",
    ),
    number_option(
        WholeNumber(0, 5),
        "--shots",
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
    number_option(
        WholeNumber(1), "--per-subject", help="Number of questions drawn from each subject."
    ),
    number_option(
        FiniteNumber(0, 50, open_low=True, open_high=True),
        "--precision",
        metavar="POINTS",
        help="Stop when each accuracy is known to ±POINTS at 95 %. With --limit, ask at most so "
        "many questions.",
    ),
    choice_option(
        ["accuracy", "difference"],
        "--precision-of",
        help="What is to be precise: each accuracy, or its difference from the first system.",
    ),
    path_option(
        "--difficulty",
        metavar="FILE",
        help="Difficulties of the questions (etui bench difficulty), so that fewer suffice.",
    ),
    text_option("--subjects", callback=_parse_names, metavar="S,T", help="Only these subjects."),
    number_option(
        WholeNumber(0, 2**32 - 1),
        "--seed",
        default=0,
        show_default=True,
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
    choice_option(
        ["direct", "cot", "vote"],
        "-r",
        "--reasoning",
        "reasonings",
        multiple=True,
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
    number_option(
        WholeNumber(0, 100_000), "--think-tokens", help="Maximum number of thinking tokens."
    ),
    number_option(WholeNumber(1, 64), "--votes", help="Maximum number of votes."),
    choice_option(["all", "lead", "flip", "adaptive"], "--stop", help="When to stop voting."),
    number_option(WholeNumber(1, 100_000), "--max-tokens", help="Maximum number of answer tokens."),
    number_option(
        FiniteNumber(0, 5),
        "-t",
        "--temperature",
        metavar="T",
        help="Sampling temperature. Default: the arm's, else 0, for votes 0.7.",
    ),
    choice_option(
        ["off", "lookup", "draft", "mtp", "auto"],
        "--speculate",
        "speculates",
        multiple=True,
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
    number_option(
        FiniteNumber(0, 100),
        "--fail-under",
        metavar="PERCENT",
        help="Exit with code 4 if the micro-averaged accuracy of any arm is lower.",
    ),
    number_option(
        FiniteNumber(0, MOST_JOULES, open_low=True),
        "--max-joules",
        metavar="J",
        help="Stop once this many joules are used; exit with code 3.",
    ),
    number_option(
        FiniteNumber(0, 10_000, open_low=True),
        "--max-hours",
        metavar="H",
        help="Stop after this many hours, a study with whole blocks; exit with code 3.",
    ),
    flag(
        "--dry-run",
        help="Only count the tokens that would be computed; with --design or --resume, price them.",
    ),
    number_option(
        WholeNumber(2, 100),
        "--pilot",
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
    number_option(
        FiniteNumber(0, 86_400, open_low=True),
        "--node-timeout",
        metavar="S",
        help="With --cluster: give the questions of a node to others once it is silent for S "
        "seconds (default: by its speed, 60 or more).",
    ),
    # what is printed
    flag("--json", "as_json", help="Print the summary as one JSON document."),
    flag("--jsonl", "as_lines", help="Print each answer as a line of JSON."),
    flag("-q", "--quiet", help="Do not show progress."),
)


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

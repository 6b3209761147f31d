"""``etui bench compare``: paired comparison of runs or arms on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from etui.cli.output import json_option, print_json
from etui.cli.param_types import TEXT, FiniteNumber
from etui.errors import ExitCode

if TYPE_CHECKING:
    from etui.bench.compare import Comparison, Gate, System


@click.command()
@click.argument("runs", type=TEXT, nargs=-1, required=True, metavar="RUN[:ARM]...")
@click.option(
    "--max-regression",
    type=FiniteNumber(0, 100),
    metavar="POINTS",
    help="Exit with code 4 if the measured accuracy (micro) drops by more than POINTS percentage "
    "points; its confidence interval is ignored.",
)
@click.option(
    "--subjects/--no-subjects", default=True, help="Print the table per subject, or omit it."
)
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    runs: tuple[str, ...],
    max_regression: float | None,
    subjects: bool,
    as_json: bool,
) -> None:
    """Compare runs, or the arms of a run, question by question.

    Everything is compared with the first RUN. Runs that share the same several arms are compared
    arm by arm. Only runs that ask the same questions in the same way can be compared. RUN is the
    run's folder, its id, or `last`.
    """
    from etui.bench.compare import (
        check_comparable,
        choose_pairs,
        compare_with_mixtures,
        comparison_document,
        comparison_lines,
        list_differences,
        mixture_line,
        read_systems,
        subject_lines,
    )
    from etui.config.config import load_config

    chosen, notes = read_systems(runs, load_config())
    pairs = choose_pairs(chosen)
    systems = [system for run in chosen for system in run]
    check_comparable(systems)
    notes += list_differences(systems)
    comparisons = _compare_pairs(pairs)
    mixtures = compare_with_mixtures(systems)
    gate = _check_gate(comparisons, max_regression)
    if as_json:
        document = comparison_document(comparisons, mixtures, notes, gate)
        print_json(document)
    else:
        for comparison in comparisons:
            lines = comparison_lines(comparison, several=len(comparisons) > 1)
            if subjects and len(comparison.subjects) > 1:
                lines += ["", *subject_lines(comparison)]
            click.echo("\n".join([*lines, ""]))
        for mixture in mixtures:
            click.echo(mixture_line(mixture))
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if gate is not None and not gate.met:
        click.echo(
            f"etui: {', '.join(gate.failed)}: accuracy dropped by more than "
            f"{max_regression:g} points",
            err=True,
        )
        ctx.exit(ExitCode.GATE)


def _compare_pairs(pairs: Sequence[tuple[System, System]]) -> list[Comparison]:
    """Compare each pair; p-values are adjusted for the number of pairs (Holm)."""
    from etui.bench.compare import compare as compare_two
    from etui.stats.tests import holm

    found = [compare_two(first, second) for first, second in pairs]
    adjusted = holm([one.p_value for one in found])
    return [replace(one, p_holm=value) for one, value in zip(found, adjusted, strict=True)]


def _check_gate(comparisons: Sequence[Comparison], most: float | None) -> Gate | None:
    from etui.bench.compare import Gate

    if most is None:
        return None
    # A drop of exactly the limit passes, even if rounding makes it slightly larger.
    failed = tuple(one.second for one in comparisons if one.points_lost > most + 1e-9)
    return Gate(most, not failed, failed)

"""``etui bench compare``: runs or arms on the same questions, paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from etui.cli.common import print_json
from etui.errors import ExitCode

if TYPE_CHECKING:
    from etui.bench.analysis.comparable import System
    from etui.bench.analysis.compare import Comparison
    from etui.bench.analysis.compare_text import Gate


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN[:ARM]...")
@click.option(
    "--max-regression",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Exit with 4 if the accuracy drops by more percentage points than this, as measured "
    "(micro, the interval left aside).",
)
@click.option(
    "--subjects/--no-subjects", default=True, help="Print the table per subject, or leave it out."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def compare(
    ctx: click.Context,
    runs: tuple[str, ...],
    max_regression: float | None,
    subjects: bool,
    as_json: bool,
) -> None:
    """Compare runs, or the arms of a run, question by question.

    All are held against the first. Runs of the same several arms are held against each other arm
    by arm. Only runs over the same questions, put in the same way, may be compared. A RUN is its
    folder, its id, or `last`.
    """
    from etui.bench.analysis.against_mixture import against_mixtures
    from etui.bench.analysis.comparable import check_comparable, worth_knowing
    from etui.bench.analysis.compare_text import (
        comparison_document,
        comparison_lines,
        mixture_line,
        subject_lines,
    )
    from etui.bench.analysis.select import pairs_of, read_systems
    from etui.config.load import load_config

    chosen, notes = read_systems(runs, load_config())
    pairs = pairs_of(chosen)
    contenders = [contender for run in chosen for contender in run]
    check_comparable(contenders)
    notes += worth_knowing(contenders)
    comparisons = _compared(pairs)
    mixtures = against_mixtures(contenders)
    gate = _gate(comparisons, max_regression)
    if as_json:
        document = comparison_document(comparisons, mixtures, notes, gate)
        print_json(document)
    else:
        for one in comparisons:
            lines = comparison_lines(one, several=len(comparisons) > 1)
            lines += ["", *subject_lines(one)] if subjects and len(one.subjects) > 1 else []
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


def _compared(pairs: Sequence[tuple[System, System]]) -> list[Comparison]:
    """Every comparison, with p-values adjusted for their number."""
    from etui.bench.analysis.compare import compare as compare_two
    from etui.stats.tests import holm

    found = [compare_two(first, second) for first, second in pairs]
    adjusted = holm([one.p_value for one in found])
    return [replace(one, p_holm=value) for one, value in zip(found, adjusted, strict=True)]


def _gate(comparisons: Sequence[Comparison], most: float | None) -> Gate | None:
    from etui.bench.analysis.compare_text import Gate

    if most is None:
        return None
    # A drop of exactly the limit is allowed, also where binary fractions make it a hair more.
    failed = tuple(one.second for one in comparisons if one.points_lost > most + 1e-9)
    return Gate(most, not failed, failed)

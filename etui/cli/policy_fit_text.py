"""What ``etui policy fit`` prints of a fit: tables, notes, one JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.common import print_table
from etui.units import count_text

if TYPE_CHECKING:
    from etui.routing.accuracy.fitted_file import AgreementHead, FittedModel
    from etui.routing.accuracy.table import Graded


def build_fit_document(path: Path, model: FittedModel, notes: Sequence[str]) -> dict[str, Any]:
    """Build the document of ``etui policy fit --json``.

    Args:
        notes: What the answers lacked.
    """
    return {
        "file": str(path),
        "provenance": model.provenance.model_dump(),
        "arms": {
            name: {
                "model": head.model,
                "reasoning": head.reasoning,
                "n": head.n,
                "rate": head.rate,
                "bands": len(head.rates),
                "c": head.logistic.c,
                **head.quality.model_dump(),
                "curves": [
                    {"of": curve.of, "kind": curve.kind, "n": curve.n, "ece": curve.ece}
                    for curve in head.curves
                ],
            }
            for name, head in model.arms.items()
        },
        "needs": [
            {
                "need": need.need,
                "base": need.base,
                "other": need.other,
                "n": need.n,
                "auc": need.auc,
            }
            for need in model.needs
        ],
        "agreements": [
            head.model_dump(include={"arms", "n", "known", "agreed", "apart"})
            | {"curve": None if head.curve is None else head.curve.of}
            for head in model.agreements
        ],
        "notes": list(notes),
    }


def print_fit(path: Path, model: FittedModel, notes: Sequence[str]) -> None:
    """Print a fit as tables, and its notes on standard error; arguments as above."""
    origin = model.provenance
    excluded = f", {origin.excluded} excluded that are also in test" if origin.excluded else ""
    click.echo(f"{path}: {origin.n:,} questions of {', '.join(origin.source)}{excluded}")
    click.echo()
    rows = [
        (
            name,
            head.model or "any",
            f"{100 * head.rate:.1f} %",
            f"{head.quality.brier:.3f}",
            f"{head.quality.brier_rate:.3f}",
            f"{head.quality.ece:.3f}",
            "" if head.quality.auc is None else f"{head.quality.auc:.3f}",
            ", ".join(f"{curve.kind} of {curve.of}, ECE {curve.ece:.3f}" for curve in head.curves)
            or "no confidence",
        )
        for name, head in model.arms.items()
    ]
    head = ("ARM", "MODEL", "RIGHT", "BRIER", "BRIER OF RATE", "ECE", "AUC", "AFTER AN ANSWER")
    print_table(head, rows)
    if model.needs:
        click.echo()
        print_table(
            ("NEEDS", "BASE", "OTHER", "AUC"),
            [
                (
                    need.need.replace("_", " "),
                    need.base,
                    need.other,
                    "unknown" if need.auc is None else f"{need.auc:.3f}",
                )
                for need in model.needs
            ],
        )
    if model.agreements:
        click.echo()
        print_table(
            ("AGREE", "QUESTIONS", "SAME ANSWER", "RIGHT IF THE SAME", "RIGHT IF NOT", "CURVE"),
            [_format_agreement(agreement) for agreement in model.agreements],
        )
    click.echo()
    click.echo(
        "Brier, ECE and AUC: five-fold cross-validation; BRIER OF RATE: if only the overall rate "
        "were predicted"
    )
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _format_agreement(head: AgreementHead) -> tuple[str, ...]:
    """Format a row: how often the arms agree, and how often they are right then and else.

    Shares of right and wrong alone are the least that they can be, and say so.
    """
    least = "" if head.known else "at least "
    same = f"{100 * head.agreed.n / head.n:.1f} %" if head.known else "unknown"
    alone = zip(head.arms, head.apart, strict=True)
    apart = ", ".join(f"{arm} {least}{100 * share.p:.0f} %" for arm, share in alone)
    return (
        " and ".join(head.arms) if len(head.arms) > 1 else f"the votes of {head.arms[0]}",
        f"{head.n:,}",
        same,
        f"{least}{100 * head.agreed.p:.1f} % "
        f"[{100 * head.agreed.low:.1f}, {100 * head.agreed.high:.1f}]",
        apart,
        f"{head.curve.kind} of {head.curve.of}, ECE {head.curve.ece:.3f}" if head.curve else "none",
    )


def list_uniform_notes(graded: Graded) -> Iterator[str]:
    """Yield a note for each arm whose labels are all the same, so that only a rate is fitted."""
    for at, arm in enumerate(graded.arms):
        weights = graded.weights_of(at)
        right = graded.correct[:, at] if weights is None else graded.correct[weights > 0, at]
        if len(right) and right.all() == right.any():
            word, answers = "right" if right.all() else "wrong", count_text(len(right), "answer")
            yield f"every answer of {arm} is {word} ({answers}): no question stands out"


def list_agreement_notes(
    agreements: Sequence[tuple[str, ...]] | None, model: FittedModel
) -> Iterator[str]:
    """Yield what the answers do not say about the steps of several answers of a policy."""
    if any(not head.known for head in model.agreements):
        yield (
            "these outcomes have only right and wrong, so whether two wrong answers are the same "
            "is not known: the shares of `agree` are the least that they can be; bench runs have "
            "the answers"
        )
    fitted = {head.arms for head in model.agreements}
    for arms in agreements or ():
        if arms not in fitted:
            yield f"agree of {', '.join(arms)} is not fitted: not all of it was answered"

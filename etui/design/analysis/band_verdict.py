"""Where thinking helps and where it hurts."""

from __future__ import annotations

from collections.abc import Sequence

from etui import units
from etui.design.analysis.bands import BandDifference, Bands
from etui.design.analysis.statement import (
    UNDECIDED,
    Statement,
    build_evidence,
    each_text,
    points_text,
)
from etui.stats.paired import least_testable


def judge_bands(bands: Bands, kind: str | None) -> list[Statement]:
    """Say where thinking helps and where it hurts, or that the questions are too few to say.

    Args:
        bands: Differences by group or by subject.
        kind: Kind of the joules.
    """
    statements: list[Statement] = []
    for role, looks in bands.looks.items():
        rows = [row for row in bands.rows if row.strategy.role == role]
        if not rows:
            continue
        claims = [
            _state(bands.what, row, looks, kind) for row in rows if row.effect in ("helps", "hurts")
        ]
        statements += claims or [_refuse(bands.what, role, rows, looks)]
    return statements


def _state(what: str, row: BandDifference, looks: int, kind: str | None) -> Statement:
    figure = build_evidence(
        f"{row.strategy.label} in {row.band}: accuracy", "points", row.difference, row.p_holm
    )
    helps = row.effect == "helps"
    cost = (
        f", {each_text(row.per_additional, kind)} for each additional right answer"
        if helps and row.per_additional is not None
        else ""
    )
    text = (
        f"In {name_band(row.band)}, {row.strategy.label} gets {'more' if helps else 'fewer'} right "
        f"than {row.base.label}: {points_text(row.difference)}{cost} "
        f"({units.p_value_text(row.p_holm)} after {units.count_text(looks, 'look')})."
    )
    return Statement(
        "band", row.band, row.effect, text, (figure,), (figure.name,), row.questions, None, what
    )


def _refuse(what: str, role: str, rows: Sequence[BandDifference], looks: int) -> Statement:
    most = units.count_text(max(row.questions for row in rows), "question")
    total = sum(row.questions for row in rows if row.strategy == rows[0].strategy)
    if not looks:
        text = (
            f"No {what} can be judged for {role}: a {what} has at most {most}, and even unanimous "
            f"answers to fewer than {least_testable(len(rows))} would show nothing after "
            f"{units.count_text(len(rows), 'look')}."
        )
    else:
        text = (
            f"In no {what} is a difference between thinking and answering directly shown for "
            f"{role} ({units.count_text(looks, 'look')}, up to {most} each)."
        )
    return Statement("band", role, UNDECIDED, text, (), (), total, None, what)


def name_band(band: str) -> str:
    """Return the name of a subject or group in words."""
    return band.upper() if band == "stem" else band.replace("_", " ")

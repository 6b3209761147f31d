"""Whether the joules of a turn grow faster than its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from etui import units
from etui.curves.context_share import ContextTerm
from etui.design.analysis.operating_curves import ModelCurve
from etui.design.analysis.statement import (
    UNDECIDED,
    UNKNOWN,
    Evidence,
    Statement,
    percent_change_text,
)
from etui.stats.tests import holm


def judge_curves(curves: Sequence[ModelCurve]) -> list[Statement]:
    """Say for every model and phase whether the joules of the context differ from 0."""
    terms = [(curve, term) for curve in curves for term in curve.terms]
    adjusted = holm([term.p for _, term in terms])
    refused = [_refuse(curve) for curve in curves if curve.error]
    return refused + [
        _judge_term(curve, term, p) for (curve, term), p in zip(terms, adjusted, strict=True)
    ]


def _judge_term(curve: ModelCurve, term: ContextTerm, p: float) -> Statement:
    figures = tuple(
        Evidence(
            f"share at {share.context:,} tokens", "share", share.value, share.low, share.high, p
        )
        for share in term.shares
    )
    shown = bool(figures) and all(figure.side > 0 for figure in figures)
    what = "a prompt" if term.phase == "prefill" else "each generated token"
    parts = " and ".join(
        f"{percent_change_text(figure)} at {share.context:,} tokens"
        + ("" if share.measured else " (extrapolated)")
        for figure, share in zip(figures, term.shares, strict=True)
    )
    if shown:
        text = (
            f"Attention over the context takes {parts} of the joules of {what} of {curve.role} "
            f"({units.p_value_text(p)})."
        )
    else:
        text = (
            f"The joules of {what} of {curve.role} are not shown to depend on the context: {parts} "
            f"({units.p_value_text(p)}, {units.count_text(term.points, 'measurement')})."
        )
    return Statement(
        "curve", f"{curve.role} {term.phase}", "nonlinear" if shown else UNDECIDED, text, figures,
        tuple(figure.name for figure in figures) if shown else (), 0,
    )  # fmt: skip


def _refuse(curve: ModelCurve) -> Statement:
    text = f"There is no curve of {curve.model}: {curve.error}."
    return Statement("curve", curve.role, UNKNOWN, text, (), (), 0)

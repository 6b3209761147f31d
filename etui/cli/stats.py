"""``etui stats``: predicted against measured joules, the policy on trial, curves that drift."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from etui.errors import ExitCode
from etui.text.codec import to_document

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.prediction_quality import Drift, PredictionAccuracy, ShadowSummary


@dataclass(frozen=True, slots=True)
class _Stats:
    days: int
    turns: int
    by_model: Sequence[PredictionAccuracy]
    by_arm: Sequence[PredictionAccuracy]
    shadows: Sequence[ShadowSummary]
    curves: Sequence[Drift]


@click.command()
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=30,
    show_default=True,
    metavar="N",
    help="Only turns of the last N days.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def stats(days: int, as_json: bool) -> int:
    """Compare predicted with measured joules.

    Per model and per arm: the mean error of the predictions and which way they are off; what the
    policy on trial would have done; and each operating curve held against the last turns, with the
    command that mends one which no longer fits.
    """
    from etui.config.load import load_config

    found = _read(load_config(), days)
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
    for drift in found.curves:
        if drift.drifted:
            click.echo(_warning(drift), err=True)
    return ExitCode.DONE


def _read(config: Config, days: int) -> _Stats:
    from etui.log.filters import TurnFilter, clause
    from etui.log.prediction_quality import accuracy_by, outcomes, outcomes_sql, shadow_summaries
    from etui.log.queries import LogReader

    wanted = clause(TurnFilter(since=datetime.now(UTC) - timedelta(days=days)))
    with LogReader(config) as log:
        found = outcomes(log.select(outcomes_sql(wanted), wanted.values))
        drifts = _drifts(log)
    return _Stats(
        days,
        len(found),
        accuracy_by(found, lambda one: one.model),
        accuracy_by(found, lambda one: f"{one.arm} ({one.model})"),
        shadow_summaries(found),
        drifts,
    )


def _drifts(log: Any) -> list[Drift]:
    """The newest curve of each model file and source, under the conditions it was made with."""
    from etui.log.curve_lookup import turns_here
    from etui.log.prediction_quality import drift_of

    newest: dict[tuple[str, str | None], Drift] = {}
    for curve in log.curves():
        key = (curve.model, curve.model_sha256)
        if key not in newest:
            turns = turns_here(log, curve.model, curve.model_sha256, curve.conditions)
            newest[key] = drift_of(curve, [turn for turn in turns if turn.kind == curve.kind])
    return list(newest.values())


def _document(found: _Stats) -> dict[str, Any]:
    return {
        "days": found.days,
        "turns": found.turns,
        "models": [to_document(row) for row in found.by_model],
        "arms": [to_document(row) for row in found.by_arm],
        "shadows": [to_document(row) for row in found.shadows],
        "curves": [
            {
                "curve_id": drift.curve.curve_id,
                "model": drift.curve.model,
                "source": drift.curve.source,
                "turns": drift.turns,
                "median_error": drift.median_error,
                "drifted": drift.drifted,
                "fix": _fix(drift) if drift.drifted else "",
            }
            for drift in found.curves
        ],
    }


def _lines(found: _Stats) -> Iterator[str]:
    from etui.text.tables import format_table
    from etui.units import count_text

    yield f"{count_text(found.turns, 'turn')} in the last {count_text(found.days, 'day')}"
    if found.by_model:
        yield "predicted against measured joules, loads excluded:"
        head = ("turns", "mean error", "bias")
        yield from format_table(_rows(found.by_model), header=("model", *head))
        yield from format_table(_rows(found.by_arm), header=("arm", *head))
    else:
        yield "no turn has both predicted and measured joules yet"
    for shadow in found.shadows:
        yield _shadow(shadow)
    for drift in found.curves:
        yield _curve(drift)


def _rows(found: Sequence[PredictionAccuracy]) -> list[tuple[str, ...]]:
    from etui.units import percent_text

    return [(row.key, str(row.n), percent_text(row.mape), signed_text(row.bias)) for row in found]


def signed_text(share: float | None) -> str:
    """A share with its sign: ``+4.2 %``, ``-12 %``; ``unknown`` for None."""
    from etui.units import percent_text

    if share is None:
        return percent_text(None)
    return f"{'-' if share < 0 else '+'}{percent_text(abs(share))}"


def _shadow(shadow: ShadowSummary) -> str:
    from etui.units import count_text, energy_text

    text = (
        f"{shadow.policy} (on trial): {shadow.elsewhere} of {count_text(shadow.turns, 'turn')} "
        "would have gone elsewhere"
    )
    if shadow.undecided:
        text += f", {shadow.undecided} it could not decide"
    if shadow.joules_difference is None:
        return f"{text}; joules of both are predicted for none"
    sign = "-" if shadow.joules_difference < 0 else "+"
    joules = energy_text(abs(shadow.joules_difference))
    return f"{text}; predicted {sign}{joules} over {shadow.compared} of them"


def _curve(drift: Drift) -> str:
    from etui.units import count_text

    name = f"curve of {drift.curve.model} ({drift.curve.source})"
    if drift.median_error is None:
        return f"{name}: no turn since to hold it against"
    turns = count_text(drift.turns, "turn")
    state = "no longer fits" if drift.drifted else "fits"
    return f"{name}: {state}, median error {signed_text(drift.median_error)} over {turns}"


def _warning(drift: Drift) -> str:
    more = signed_text(drift.median_error)
    return (
        f"the curve of {drift.curve.model} no longer fits: the last {drift.turns} turns measure "
        f"{more} against it, outside of its 95 % band; run: {_fix(drift)}"
    )


def _fix(drift: Drift) -> str:
    again = f"etui calibrate {drift.curve.model}"
    return f"{again} --from-log" if drift.curve.source == "log" else again

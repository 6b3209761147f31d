"""``etui stats``: predicted and measured joules, policies on trial, and drifting curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from etui.cli.param_types import WholeNumber
from etui.codec import to_document
from etui.errors import ExitCode, UsageError

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
    type=WholeNumber(1, 36_500),
    default=30,
    show_default=True,
    metavar="N",
    help="Only turns of the last N days.",
)
@click.option(
    "--idle",
    is_flag=True,
    help="Replay idling and loads under several keep-warm times instead.",
)
@click.option(
    "--audit",
    is_flag=True,
    help="Show what audits cost, and how often each arm agreed with the audit arm, instead.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def stats(days: int, idle: bool, audit: bool, as_json: bool) -> int:
    """Compare predicted with measured joules.

    Shows the mean error and the bias of the predictions per model and per arm, and what a policy
    on trial would have done. Compares each operating curve with the latest turns; for a curve that
    no longer fits, prints the command that fixes it.

    With --idle, replays the gaps between the questions of chats: the joules of idling and of loads
    with keep_warm of 1, 5, 15 and 60 minutes, always, the break-even time T* and auto, and with the
    best fixed time found in hindsight.

    With --audit, sums the audits and grades, and compares the accuracy of each arm before and after
    the policy's fit.
    """
    from etui.config.config import load_config

    if idle and audit:
        raise UsageError("--idle cannot be used with --audit", "pass only one of them")
    if audit:
        from etui.cli.stats_audit import print_audits

        print_audits(load_config(), days, as_json)
        return ExitCode.DONE

    if idle:
        _print_idle(load_config(), days, as_json)
        return ExitCode.DONE
    found = _read_stats(load_config(), days)
    if as_json:
        click.echo(json.dumps(_build_document(found), indent=2))
    else:
        for line in _format_stats(found):
            click.echo(line)
    for drift in found.curves:
        if drift.drifted:
            click.echo(_format_warning(drift), err=True)
    return ExitCode.DONE


def _print_idle(config: Config, days: int, as_json: bool) -> None:
    from etui.cli.common import print_json
    from etui.cli.stats_idle import ASSUMPTIONS, build_document, format_replays, read_replays
    from etui.runtime.idle_replay import NOT_MEASURED

    found = read_replays(config, days)
    if as_json:
        print_json(build_document(found, days))
        return
    for line in format_replays(found, days):
        click.echo(line)
    if any(model.missing.startswith(NOT_MEASURED) for model in found):
        click.echo("how to measure it: etui models status", err=True)
    if any(model.whole for model in found):
        for assumption in ASSUMPTIONS:
            click.echo(f"assumed: {assumption}", err=True)


def _read_stats(config: Config, days: int) -> _Stats:
    from etui.log.filters import TurnFilter, build_clause
    from etui.log.prediction_quality import (
        group_accuracy,
        outcomes_sql,
        parse_outcomes,
        summarise_shadows,
    )
    from etui.log.queries import LogReader

    where = build_clause(TurnFilter(since=datetime.now(UTC) - timedelta(days=days)))
    with LogReader(config) as log:
        found = parse_outcomes(log.select(outcomes_sql(where), where.values))
        drifts = _measure_drifts(log)
    return _Stats(
        days,
        len(found),
        group_accuracy(found, lambda outcome: outcome.models_text),
        group_accuracy(found, lambda outcome: outcome.arms_text),
        summarise_shadows(found),
        drifts,
    )


def _measure_drifts(log: Any) -> list[Drift]:
    """Compare the newest curve of each model file with turns made under its conditions."""
    from etui.log.curve_lookup import select_comparable_turns
    from etui.log.prediction_quality import measure_drift

    newest: dict[tuple[str, str | None], Drift] = {}
    for curve in log.curves():
        key = (curve.model, curve.model_sha256)
        if key not in newest:
            turns = select_comparable_turns(log, curve.model, curve.model_sha256, curve.conditions)
            newest[key] = measure_drift(curve, [turn for turn in turns if turn.kind == curve.kind])
    return list(newest.values())


def _build_document(found: _Stats) -> dict[str, Any]:
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
                "fix": _format_fix(drift) if drift.drifted else "",
            }
            for drift in found.curves
        ],
    }


def _format_stats(found: _Stats) -> Iterator[str]:
    from etui.text import format_table
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
        yield _format_shadow(shadow)
    for drift in found.curves:
        yield _format_curve(drift)


def _rows(found: Sequence[PredictionAccuracy]) -> list[tuple[str, ...]]:
    from etui.units import percent_text

    return [(row.key, str(row.n), percent_text(row.mape), format_signed(row.bias)) for row in found]


def format_signed(share: float | None) -> str:
    """Format a share with its sign: ``+4.2 %``, ``-12 %``; ``unknown`` for None."""
    from etui.units import percent_text

    if share is None:
        return percent_text(None)
    return f"{'-' if share < 0 else '+'}{percent_text(abs(share))}"


def _format_shadow(shadow: ShadowSummary) -> str:
    from etui.units import count_text, energy_text

    text = (
        f"{shadow.policy} (on trial): {shadow.elsewhere} of {count_text(shadow.turns, 'turn')} "
        "would have used another arm or model"
    )
    if shadow.undecided:
        text += f", {shadow.undecided} were undecided"
    if shadow.joules_difference is None:
        return f"{text}; none has predicted joules for both"
    sign = "-" if shadow.joules_difference < 0 else "+"
    joules = energy_text(abs(shadow.joules_difference))
    return f"{text}; predicted {sign}{joules} over {shadow.compared} of them"


def _format_curve(drift: Drift) -> str:
    from etui.units import count_text

    name = f"curve of {drift.curve.model} ({drift.curve.source})"
    if drift.median_error is None:
        return f"{name}: no turns since to compare it with"
    turns = count_text(drift.turns, "turn")
    state = "no longer fits" if drift.drifted else "fits"
    return f"{name}: {state}, median error {format_signed(drift.median_error)} over {turns}"


def _format_warning(drift: Drift) -> str:
    error = format_signed(drift.median_error)
    return (
        f"the curve of {drift.curve.model} no longer fits: the last {drift.turns} turns measured "
        f"{error} relative to it, outside its 95 % band; run: {_format_fix(drift)}"
    )


def _format_fix(drift: Drift) -> str:
    command = f"etui calibrate {drift.curve.model}"
    return f"{command} --from-log" if drift.curve.source == "log" else command

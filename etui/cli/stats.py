"""``etui stats``: predicted and measured joules, policies on trial, and drifting curves."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import json_option, print_lines, print_result
from etui.cli.param_types import WholeNumber, flag, number_option
from etui.codec import finite, pick, to_document
from etui.config.config import Config, load_config
from etui.curves.prediction import value_cell
from etui.errors import UsageError
from etui.log.filters import TurnFilter
from etui.models.catalogue import load_catalogue
from etui.text import format_table, join_lines, local_time
from etui.units import (
    ABOUT,
    count_text,
    energy_text,
    percent_text,
    seconds_text,
    short_energy_text,
    significant,
    times_text,
    total_text,
)

if TYPE_CHECKING:
    from etui.energy.tariff import Cost
    from etui.log.daily_energy import EnergySum, Part
    from etui.log.prediction_quality import Drift, PredictionAccuracy, ShadowSummary
    from etui.log.totals import CacheTotal, WallTotal
    from etui.runtime.keep_warm import IdleReplay, ModelReplay, ReplayedTime
    from etui.runtime.pull_predictions import Compared, PredictionCheck


_ASSUMPTIONS = (
    "the app ran from the first question to the last, and each model alone is in memory",
    "every load and every idle second costs what was measured last; prefilling a chat again after "
    "a load and the time that you wait are not counted",
    "auto knows only the gaps before each one; the best fixed time knows all of them",
)


@dataclass(frozen=True, slots=True)
class _Stats:
    days: int
    turns: int
    by_model: Sequence[PredictionAccuracy]
    by_arm: Sequence[PredictionAccuracy]
    shadows: Sequence[ShadowSummary]
    curves: Sequence[Drift]
    caches: Sequence[CacheTotal]
    wall: WallTotal | None
    checks: Sequence[PredictionCheck]
    today: EnergySum
    parts: Mapping[Part, EnergySum]  # What the joules of today were spent on
    cost: Cost | None  # Of today; None without a tariff


@click.command()
@number_option(
    WholeNumber(1, 36_500),
    "--days",
    default=30,
    show_default=True,
    help="Only turns of the last N days.",
)
@flag("--idle", help="Replay idling and loads under several keep-warm times instead.")
@flag(
    "--audit",
    help="Show what audits cost, and how often each arm agreed with the audit arm, instead.",
)
@json_option
def stats(days: int, idle: bool, audit: bool, as_json: bool) -> None:
    """Compare predicted with measured joules.

    The first line is what etui spent today. Shows per model and per arm by which factor half of the
    predictions are off at most, how many answers lie in the predicted range (four of five should),
    the bias, and what a policy on trial would have done. Compares each operating curve with the
    latest turns; for a curve that
    no longer fits, prints the command that fixes it. Compares what was predicted of each model
    before its pull (tokens/s and joules of a decoded token) with its last answers on this machine,
    however old; later predictions rest on them if no other program ran beside them.

    With --idle, replays the gaps between the questions of chats: the joules of idling and of loads
    with keep_warm of 1, 5, 15 and 60 minutes, always, the break-even time T* and auto, and with the
    best fixed time found in hindsight.

    With --audit, sums the audits and grades, and compares the accuracy of each arm before and after
    the policy's fit.
    """
    from etui.cli.stats_audits import format_audits, summarise_audits

    if idle and audit:
        raise UsageError("--idle cannot be used with --audit", "pass only one of them")
    if audit:
        audits = summarise_audits(load_config(), days)
        print_result(audits, format_audits(audits), as_json)
    elif idle:
        _print_idle(load_config(), days, as_json)
    else:
        found = _read_stats(load_config(), days)
        print_result(_build_document(found), _format_stats(found), as_json)
        drifted = (drift for drift in found.curves if drift.drifted)
        print_lines(map(_format_warning, drifted), err=True)


def _print_idle(config: Config, days: int, as_json: bool) -> None:
    from etui.log.queries import LogReader
    from etui.runtime.keep_warm import NOT_MEASURED, replay_idle_log

    since_s = time.time() - days * 86_400
    with LogReader(config) as log:
        found = replay_idle_log(log, config, load_catalogue(config), since_s)
    models = [_build_model(model) for model in found]
    document = {"days": days, "assumptions": _ASSUMPTIONS, "models": models}
    print_result(document, _format_replays(found, days), as_json)
    if as_json:
        return
    if any(model.missing.startswith(NOT_MEASURED) for model in found):
        click.echo("how to measure it: etui models status", err=True)
    if any(model.whole for model in found):
        print_lines((f"assumed: {assumption}" for assumption in _ASSUMPTIONS), err=True)


def _read_stats(config: Config, days: int) -> _Stats:
    from etui.log.daily_energy import read_day
    from etui.log.prediction_quality import group_accuracy, read_outcomes, summarise_shadows
    from etui.log.prices import read_prices, sum_daily_costs
    from etui.log.queries import LogReader
    from etui.log.totals import sum_caches, sum_wall
    from etui.runtime.pull_predictions import check_predictions

    since, day = datetime.now(UTC) - timedelta(days=days), date.today()
    with LogReader(config) as log:
        found = read_outcomes(log, TurnFilter(since=since))
        today, parts = read_day(log, day)
        prices = read_prices(log, config)
        return _Stats(
            days=days,
            turns=len(found),
            by_model=group_accuracy(found, lambda outcome: outcome.models_text),
            by_arm=group_accuracy(found, lambda outcome: outcome.arms_text),
            shadows=summarise_shadows(found),
            curves=_measure_drifts(log),
            caches=sum_caches(log, since),
            wall=sum_wall(log, since),
            checks=tuple(check_predictions(log, config, load_catalogue(config))),
            today=today,
            parts=parts,
            cost=None if prices is None else sum_daily_costs(log, prices, day, day).get(day),
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
        "today": found.today.to_json()
        | {"parts": {part: each.to_json() for part, each in found.parts.items()}}
        | ({} if found.cost is None else {"cost": found.cost.to_json()}),
        "models": found.by_model,
        "arms": found.by_arm,
        "shadows": found.shadows,
        "curves": [
            {
                **pick(drift.curve, "curve_id", "model", "source"),
                **pick(drift, "turns", "median_error", "drifted"),
                "fix": _format_fix(drift) if drift.drifted else "",
            }
            for drift in found.curves
        ],
        "caches": [to_document(total) | {"net_joules": total.net_joules} for total in found.caches],
        **({"wall": found.wall} if found.wall is not None else {}),
        "predictions": found.checks,
    }


def _format_today(found: _Stats) -> str:
    def joules(each: EnergySum) -> str:
        return short_energy_text(each.joules, each.kind)

    if not found.parts:
        return "today: nothing yet"
    parts = ", ".join(f"{part} {joules(each)}" for part, each in found.parts.items())
    text = f"today: {joules(found.today)} ({parts})"
    if found.cost is not None and (cost := found.cost.text(about=found.today.estimated)):
        text += f", {cost}"
    missing = found.today.unmeasured
    return f"{text}; {missing:,} without joules, not in it" if missing else text


def _format_stats(found: _Stats) -> Iterator[str]:
    from etui.log.prediction_quality import CHAIN

    yield _format_today(found)
    yield f"{count_text(found.turns, 'turn')} in the last {count_text(found.days, 'day')}"
    if found.by_model:
        yield "predicted against measured joules, loads excluded:"
        head = ("turns", "typically off by", "in its range", "bias")
        yield from format_table(_rows(found.by_model), header=("model", *head))
        yield from format_table(_rows(found.by_arm), header=("arm", *head))
        calibrated = {drift.curve.model for drift in found.curves}
        without = [row.key for row in found.by_model if row.key not in calibrated]
        if missing := [name for name in without if CHAIN not in name]:
            yield f"not calibrated: {', '.join(missing)}; run `etui calibrate {missing[0]}`"
    else:
        yield "no turn has both predicted and measured joules yet"
    for shadow in found.shadows:
        yield _format_shadow(shadow)
    for drift in found.curves:
        yield _format_curve(drift)
    for total in found.caches:
        yield _format_cache(total)
    if (wall := found.wall) is not None:
        joules = total_text(wall.joules, wall.uncertainty, "model")
        yield f"at the wall: {joules} for {count_text(wall.turns, 'turn')} with a calibration"
    if found.checks:
        yield from _format_checks(found.checks)


_BASES = {"memory": "the speed of the memory", "other models": "the models measured here"}


def _format_checks(checks: Sequence[PredictionCheck]) -> Iterator[str]:
    yield "predicted before the pull, against the decode of the last answers here:"
    rows = [
        (
            check.model,
            *_compared_cells(check.tokens_per_second, ""),
            *_compared_cells(check.joules_per_token, ABOUT if check.energy_kind else ""),
            _BASES.get(check.source, check.like) or "nothing",
            local_time(check.predicted_at)[:16] if check.predicted_at else "afterwards",
        )
        for check in checks
    ]
    cells = ("measured", "off")
    yield from format_table(
        rows, header=("model", "tok/s", *cells, "J/token", *cells, "from", "predicted")
    )
    if not all(check.predicted_at for check in checks):
        yield "afterwards: none was kept at its pull; predicted now, without its own measurements"
    yield "later predictions rest on curves, and on answers beside which no other program ran"


def _compared_cells(one: Compared, about: str) -> tuple[str, str, str]:
    measured = "unknown" if one.measured is None else about + significant(one.measured, 2)
    if one.error is None:
        return value_cell(one.predicted, one.share), measured, "unknown"
    place = "" if one.inside is None else " in ±" if one.inside else " outside ±"
    return value_cell(one.predicted, one.share), measured, f"{_format_signed(one.error)}{place}"


def _format_cache(total: CacheTotal) -> str:
    place = {"context": "the context", "disk": "the disk"}.get(total.tier, total.tier)
    text = (
        f"KV caches from {place}: {count_text(total.tokens, 'prompt token')} in "
        f"{count_text(total.turns, 'turn')}"
    )
    if total.saved_joules is not None:
        text += f", saved about {energy_text(total.saved_joules)}"
    if total.cost_joules is not None:
        text += f", less {energy_text(total.cost_joules)} for keeping them"
    return f"{text}; {total.unknown_turns} unknown" if total.unknown_turns else text


def _rows(found: Sequence[PredictionAccuracy]) -> list[tuple[str, ...]]:
    return [
        (
            row.key,
            str(row.n),
            "unknown" if row.factor is None else times_text(row.factor),
            percent_text(row.inside),
            _format_signed(row.bias),
        )
        for row in found
    ]


def _format_signed(share: float | None) -> str:
    """Format a share with its sign: ``+4.2 %``, ``-12 %``; ``unknown`` for None."""
    if share is None:
        return percent_text(None)
    return f"{'-' if share < 0 else '+'}{percent_text(abs(share))}"


def _format_shadow(shadow: ShadowSummary) -> str:
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
    name = f"curve of {drift.curve.model} ({drift.curve.source})"
    if drift.median_error is None:
        return f"{name}: no turns since to compare it with"
    turns = count_text(drift.turns, "turn")
    state = "no longer fits" if drift.drifted else "fits"
    return f"{name}: {state}, median error {_format_signed(drift.median_error)} over {turns}"


def _format_warning(drift: Drift) -> str:
    error = _format_signed(drift.median_error)
    return (
        f"the curve of {drift.curve.model} no longer fits: the last {drift.turns} turns measured "
        f"{error} relative to it, outside its 95 % band; run: {_format_fix(drift)}"
    )


def _format_fix(drift: Drift) -> str:
    command = f"etui calibrate {drift.curve.model}"
    return f"{command} --from-log" if drift.curve.source == "log" else command


def _format_replays(found: Sequence[ModelReplay], days: int) -> Iterator[str]:
    window = count_text(days, "day")
    if not found:
        yield f"no questions in chats in the last {window} (those of `etui ask` do not count)"
        return
    yield f"idling and loads of the last {window}, replayed"
    for model in found:
        name = join_lines(model.idle.model)
        if model.whole is None:
            yield f"{name}: no replay: {model.missing}"
            continue
        yield (
            f"{name}: {count_text(model.whole.gaps, 'gap')} between questions, "
            f"{seconds_text(model.whole.gap_seconds)}"
        )
        rows = [
            (
                time.name,
                _seconds_text(time),
                str(time.loads),
                seconds_text(time.warm_seconds),
                energy_text(time.joules.value, time.joules.uncertainty),
                energy_text(time.extra.value, time.extra.uncertainty),
            )
            for time in model.whole.times
        ]
        head = ("keep warm", "time", "loads", "warm", "joules", "above cold")
        yield from format_table(rows, header=head)
        ratio, extra = _compute_ratios(model.whole)
        if ratio is not None and extra is not None:
            yield (
                f"auto: {ratio:.3f} x the joules of the best fixed time found in hindsight, "
                f"{extra:.3f} x of those above cold idle"
            )


def _compute_ratios(replay: IdleReplay) -> tuple[float | None, float | None]:
    """Divide ``auto`` by the best fixed time: all joules, and those above cold idle."""
    auto, best = replay.get("auto"), replay.get("best fixed")
    pairs = ((auto.joules, best.joules), (auto.extra, best.extra))
    ratio, extra = (mine.value / least.value if least.value > 0 else None for mine, least in pairs)
    return ratio, extra


def _seconds_text(time: ReplayedTime) -> str:
    if time.seconds is None:
        return "varies"
    return "-" if math.isinf(time.seconds) else seconds_text(time.seconds)


def _build_model(found: ModelReplay) -> dict[str, Any]:
    from etui.cli.model_status import build_channels, build_figure

    idle, whole, even = found.idle, found.whole, found.idle.choice.break_even
    ratio, extra = (None, None) if whole is None else _compute_ratios(whole)
    return {
        "name": idle.model,
        "missing": found.missing,
        "load_joules": build_figure(None if idle.load is None else idle.load.joules),
        "extra_watts": build_figure(idle.extra_watts),
        "cold_watts": build_figure(idle.cold_watts),
        "channels": build_channels(idle),
        "break_even_seconds": even and finite(even.seconds),
        "gaps": 0 if whole is None else whole.gaps,
        "gap_seconds": 0.0 if whole is None else whole.gap_seconds,
        "times": [] if whole is None else [_build_time(time) for time in whole.times],
        "ratio": ratio,
        "extra_ratio": extra,
        "days": [_build_day(date, replay) for date, replay in found.days.items()],
    }


def _build_time(time: ReplayedTime) -> dict[str, Any]:
    from etui.cli.model_status import build_figure

    return {
        "name": time.name,
        "seconds": finite(time.seconds),
        "loads": time.loads,
        "warm_seconds": time.warm_seconds,
        "joules": build_figure(time.joules),
        "extra_joules": build_figure(time.extra),
    }


def _build_day(date: str, replay: IdleReplay) -> dict[str, Any]:
    """Build the document of a day: ``auto`` against the best fixed time for that day."""
    from etui.cli.model_status import build_figure

    auto, best = replay.get("auto"), replay.get("best fixed")
    ratio, extra = _compute_ratios(replay)
    return {
        "date": date,
        "gaps": replay.gaps,
        "auto_joules": build_figure(auto.joules),
        "best_fixed_joules": build_figure(best.joules),
        "best_seconds": finite(best.seconds),
        "ratio": ratio,
        "extra_ratio": extra,
    }

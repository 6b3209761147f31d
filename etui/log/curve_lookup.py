"""Look up the operating curve of a model: measured, or fitted to the turns in the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from etui.codec import from_document, to_document
from etui.curves.fit import TooFewPoints, TurnPoint, fit_curve
from etui.curves.operating_curve import (
    Conditions,
    OperatingCurve,
    PhaseCurve,
    Residual,
    Speed,
    list_differences,
    parse_conditions,
)
from etui.log.records import CurveRecord, ReadRow
from etui.log.token_cost import SHARED_SQL

if TYPE_CHECKING:
    from etui.log.queries import LogReader


CURVES_SQL = """
    SELECT * FROM curves
    WHERE (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR model_sha256 IS ?2)
    ORDER BY created_at DESC, id DESC
"""

_NAMES = {"e0": "e0", "slope": "a", "bend": "a2"}, {"e0": "e0", "slope": "b", "bend": "c"}


@dataclass(frozen=True, slots=True)
class _Fitted:
    """The fields of a ``PhaseCurve`` other than its coefficients."""

    r2: float | None
    n: int
    band: float
    proportional: bool
    mape: float | None


@dataclass(frozen=True, slots=True)
class _Residuals:
    """The column ``residuals``."""

    prefill: _Fitted
    decode: _Fitted
    meter_share: float
    held_out_mape: float | None
    points: tuple[Residual, ...]


@dataclass(frozen=True, slots=True)
class _Settings:
    """The column ``settings``."""

    threads: int
    channels: tuple[str, ...]
    gpu_layers: int | None
    idle_watts: float | None
    speed: Speed
    prefill_threads: int | None = None
    kv_type: str | None = None
    flash_attention: str | None = None
    batch_tokens: str | None = None
    tuned: tuple[tuple[str, str], ...] = ()


def build_curve_record(curve: OperatingCurve) -> CurveRecord:
    """Build the row of a curve; coefficients have the names of the formula."""
    phases = {"prefill": curve.prefill, "decode": curve.decode}
    coefficients = {
        f"{phase}_{short}": getattr(part, name)
        for (phase, part), names in zip(phases.items(), _NAMES, strict=True)
        for name, short in names.items()
    }
    return CurveRecord(
        curve_id=curve.curve_id,
        created_at=curve.created_at,
        model=curve.model,
        model_sha256=curve.model_sha256,
        machine=curve.conditions.machine,
        build=curve.conditions.build,
        power_limit_watts=curve.conditions.power_limit_watts,
        kind=curve.kind,
        source=curve.source,
        n=curve.n,
        r2_prefill=curve.prefill.r2,
        r2_decode=curve.decode.r2,
        coefficients=coefficients,
        residuals=to_document(
            _Residuals(
                prefill=_build_fitted(curve.prefill),
                decode=_build_fitted(curve.decode),
                meter_share=curve.meter_share,
                held_out_mape=curve.held_out_mape,
                points=curve.points,
            )
        ),
        settings=to_document(
            _Settings(
                threads=curve.conditions.threads,
                channels=curve.conditions.channels,
                gpu_layers=curve.gpu_layers,
                idle_watts=curve.idle_watts,
                speed=curve.speed,
                prefill_threads=curve.conditions.prefill_threads,
                kv_type=curve.conditions.kv_type,
                flash_attention=curve.conditions.flash_attention,
                batch_tokens=curve.conditions.batch_tokens,
                tuned=curve.conditions.tuned,
            )
        ),
    )


def parse_curve(row: ReadRow) -> OperatingCurve | None:
    """Parse the curve of a row; None if this version of etui cannot read it.

    An unreadable curve only means a new calibration; it must never prevent an answer.
    """
    try:
        coefficients = from_document(dict[str, float], json.loads(row["coefficients"]))
        residuals = from_document(_Residuals, json.loads(row["residuals"]), extra="ignore")
        settings = from_document(_Settings, json.loads(row["settings"]), extra="ignore")
        return OperatingCurve(
            curve_id=row["curve_id"],
            created_at=row["created_at"],
            model=row["model"],
            model_sha256=row["model_sha256"],
            conditions=Conditions(
                row["machine"],
                row["build"],
                settings.threads,
                settings.channels,
                row["power_limit_watts"],
                settings.prefill_threads,
                settings.kv_type,
                settings.flash_attention,
                settings.batch_tokens,
                settings.tuned,
            ),
            kind=row["kind"],
            source=row["source"],
            prefill=_parse_phase("prefill", coefficients, residuals.prefill),
            decode=_parse_phase("decode", coefficients, residuals.decode),
            meter_share=residuals.meter_share,
            idle_watts=settings.idle_watts,
            speed=settings.speed,
            held_out_mape=residuals.held_out_mape,
            points=residuals.points,
            gpu_layers=settings.gpu_layers,
        )
    except (ValueError, KeyError, TypeError):
        return None


def curve_document(curve: OperatingCurve, *, points: bool = True) -> dict[str, Any]:
    """Convert a curve to plain JSON values, named as in its row; ``points`` adds the residuals."""
    record = build_curve_record(curve)
    document = {f.name: getattr(record, f.name) for f in fields(CurveRecord)}
    if not points:
        document["residuals"] = {k: v for k, v in record.residuals.items() if k != "points"}
    return document


def _build_fitted(phase: PhaseCurve) -> _Fitted:
    return _Fitted(phase.r2, phase.n, phase.band, phase.proportional, phase.mape)


def _parse_phase(name: str, coefficients: Mapping[str, float], fitted: _Fitted) -> PhaseCurve:
    names = _NAMES[name == "decode"]
    e0, slope, bend = (coefficients[f"{name}_{short}"] for short in names.values())
    return PhaseCurve(
        e0, slope, bend, fitted.r2, fitted.n, fitted.band, fitted.proportional, fitted.mape
    )


LEAST_TURNS = 20
"""Complete turns that the log needs to fit a curve, and newer turns after which it refits."""


def find_curve(
    log: LogReader,
    model: str,
    sha256: str | None,
    now: Conditions,
    save: Callable[[CurveRecord], None] | None = None,
) -> OperatingCurve | None:
    """Find the newest calibration that is still valid, or a curve of the log, or None.

    Args:
        log: Where curves and turns are read.
        sha256: SHA-256 of its file; None if it is not known.
        save: Takes a curve that is fitted here because the log has grown enough. With None nothing
            is fitted: a fit takes half a second, and no answer should wait for it.
    """
    valid = [curve for curve in log.curves(model, sha256) if is_valid(curve, now)]
    for curve in valid:
        if curve.source == "calibration":
            return curve
    latest = valid[0] if valid else None
    if save is None:
        return latest
    turns = select_comparable_turns(log, model, sha256, now)
    if len(turns) < LEAST_TURNS or (latest and _count_newer(turns, latest) < LEAST_TURNS):
        return latest
    try:
        curve = fit_logged_turns(turns, model, sha256, now)
    except TooFewPoints:
        return latest
    save(build_curve_record(curve))
    return curve


def is_valid(curve: OperatingCurve, now: Conditions) -> bool:
    """Return whether nothing that the curve depends on has changed."""
    return not list_differences(curve.conditions, now)


def select_comparable_turns(
    log: LogReader, model: str, sha256: str | None, now: Conditions
) -> list[LoggedTurn]:
    """Read the model's last turns made under the same conditions, newest first.

    Excludes turns that shared a GPU with other processes or batches with other requests, and those
    whose energy is of another kind than that of the newest.
    """
    turns = parse_logged_turns(log.select(POINTS_SQL, (model, sha256, TURNS)))
    alike = [
        turn
        for turn in turns
        if not turn.shared
        and not list_differences(parse_conditions(turn.settings, turn.channels), now)
    ]
    return [turn for turn in alike if turn.kind == alike[0].kind]


def fit_logged_turns(
    turns: Sequence[LoggedTurn], model: str, sha256: str | None, now: Conditions
) -> OperatingCurve:
    """Fit a curve to turns.

    Raises:
        TooFewPoints: There are too few turns of different lengths; the message has their number.
    """
    if len(turns) < LEAST_TURNS:
        raise TooFewPoints("log", len(turns), LEAST_TURNS)
    points = [turn.point for turn in turns]
    channels = now.channels or turns[0].channels
    conditions = replace(now, channels=channels)
    return fit_curve(points, model, sha256, conditions, kind=turns[0].kind, source="log")


def _count_newer(turns: Sequence[LoggedTurn], curve: OperatingCurve) -> int:
    return sum(turn.created_at > curve.created_at for turn in turns)


TURNS = 500
"""Number of a model's last turns to read."""


# Excluded, because they are not on the curve of a single sequence: votes share each read of the
# weights, probes of the thinking cost tokens that are not counted as output, a cascade is several
# turns in one, and another machine may have loaded its model meanwhile.
_POINTS_SQL = f"""
    SELECT tokens_computed, tokens_cached, tokens_output, energy_phases_prefill,
        energy_phases_decode, energy_joules, energy_uncertainty, seconds_prefill, seconds_decode,
        energy_kind, energy_channels, {SHARED_SQL} AS shared, settings, created_at
    FROM turns
    WHERE model = ? AND model_sha256 IS ? AND reasoning <> 'vote' AND probes = '[]' AND hops = '[]'
        AND {{speculation}}
        AND status IN ('complete', 'truncated') AND tokens_computed > 0
        AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL
        AND energy_flags NOT LIKE '%"load"%'
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

# A batch that verifies drafts gives several tokens for one read of the weights, and how many of
# them depends on the text.
POINTS_SQL = _POINTS_SQL.format(speculation="speculation_method IS NULL")
"""Turns without drafted tokens, which are points of an operating curve."""

SPECULATED_SQL = _POINTS_SQL.format(
    speculation="coalesce(json_extract(settings, '$.speculate'), 'off') <> 'off'"
)
"""Turns of arms that speculate, whether or not anything was drafted."""


@dataclass(frozen=True, slots=True)
class LoggedTurn:
    """One turn as a point of a curve, with the conditions of its measurement."""

    created_at: str  # ISO 8601, UTC
    point: TurnPoint  # Tokens, joules and seconds
    kind: str | None  # How its energy is known
    channels: tuple[str, ...]  # Ids of the channels in its total
    settings: dict[str, Any]  # Recorded machine, build and threads
    shared: bool
    """Whether other processes used a GPU at the same time, or other requests were in its batches.
    """


def parse_logged_turns(rows: Sequence[sqlite3.Row]) -> list[LoggedTurn]:
    """Parse rows of ``POINTS_SQL``, newest first."""
    return [
        LoggedTurn(
            created_at=row["created_at"],
            point=TurnPoint(
                computed_tokens=row["tokens_computed"],
                cached_tokens=row["tokens_cached"],
                output_tokens=row["tokens_output"],
                prefill_joules=row["energy_phases_prefill"],
                decode_joules=row["energy_phases_decode"],
                prefill_uncertainty=_share_uncertainty(row, "energy_phases_prefill"),
                decode_uncertainty=_share_uncertainty(row, "energy_phases_decode"),
                prefill_seconds=row["seconds_prefill"],
                decode_seconds=row["seconds_decode"],
            ),
            kind=row["energy_kind"],
            channels=tuple(json.loads(row["energy_channels"])),
            settings=json.loads(row["settings"]),
            shared=bool(row["shared"]),
        )
        for row in rows
    ]


def _share_uncertainty(row: sqlite3.Row, phase: str) -> float | None:
    """Split the turn's uncertainty by the phase's share of its joules; the log has only one."""
    whole, uncertainty = row["energy_joules"], row["energy_uncertainty"]
    if uncertainty is None or not whole:
        return None
    return float(uncertainty * row[phase] / whole)

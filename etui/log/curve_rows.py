"""Convert operating curves to rows of ``curves`` and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from etui.curves.measured_under import Conditions
from etui.curves.operating_curve import OperatingCurve, PhaseCurve, Residual, Speed
from etui.log.records import CurveRecord
from etui.log.rows import ReadRow
from etui.text.codec import from_document, to_document

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

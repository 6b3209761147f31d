"""Operating curves as rows of ``curves``, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from etui.energy.conditions import Conditions
from etui.energy.curve import OperatingCurve, PhaseCurve, Residual, Speed
from etui.log.records import CurveRecord
from etui.log.rows import ReadRow

CURVES_SQL = """
    SELECT * FROM curves
    WHERE (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR model_sha256 IS ?2)
    ORDER BY created_at DESC, id DESC
"""
_NAMES = {"e0": "e0", "slope": "a", "bend": "a2"}, {"e0": "e0", "slope": "b", "bend": "c"}
_FITTED = ("r2", "n", "band", "proportional", "mape")


def curve_record(curve: OperatingCurve) -> CurveRecord:
    """The row of a curve: coefficients by the names of the formula, the rest of the fit beside."""
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
        residuals={
            **{
                phase: {name: getattr(part, name) for name in _FITTED}
                for phase, part in phases.items()
            },
            "meter_share": curve.meter_share,
            "held_out_mape": curve.held_out_mape,
            "points": [asdict(point) for point in curve.points],
        },
        settings={
            "threads": curve.conditions.threads,
            "channels": list(curve.conditions.channels),
            "gpu_layers": curve.gpu_layers,
            "idle_watts": curve.idle_watts,
            "speed": asdict(curve.speed),
        },
    )


def curve_of(row: ReadRow) -> OperatingCurve | None:
    """The curve of a row; None where the row holds none this etui can read.

    A curve that cannot be read costs a calibration, never an answer.
    """
    try:
        coefficients = json.loads(row["coefficients"])
        residuals = json.loads(row["residuals"])
        settings = json.loads(row["settings"])
        return OperatingCurve(
            curve_id=row["curve_id"],
            created_at=row["created_at"],
            model=row["model"],
            model_sha256=row["model_sha256"],
            conditions=Conditions(
                row["machine"],
                row["build"],
                int(settings["threads"]),
                tuple(settings["channels"]),
                row["power_limit_watts"],
            ),
            kind=row["kind"],
            source=row["source"],
            prefill=_phase("prefill", coefficients, residuals),
            decode=_phase("decode", coefficients, residuals),
            meter_share=float(residuals["meter_share"]),
            idle_watts=settings["idle_watts"],
            speed=Speed(**settings["speed"]),
            held_out_mape=residuals["held_out_mape"],
            points=tuple(Residual(**point) for point in residuals["points"]),
            gpu_layers=settings["gpu_layers"],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def curve_json(curve: OperatingCurve, *, points: bool = True) -> dict[str, Any]:
    """A curve as plain JSON values; the names are those of its row."""
    record = curve_record(curve)
    document = {f.name: getattr(record, f.name) for f in fields(CurveRecord)}
    if not points:
        document["residuals"] = {k: v for k, v in record.residuals.items() if k != "points"}
    return document


def _phase(
    name: str, coefficients: Mapping[str, float], residuals: Mapping[str, Any]
) -> PhaseCurve:
    values: dict[str, Any] = {
        long: float(coefficients[f"{name}_{short}"])
        for long, short in _NAMES[name == "decode"].items()
    }
    return PhaseCurve(**values, **{key: residuals[name][key] for key in _FITTED})

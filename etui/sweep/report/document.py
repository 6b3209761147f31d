"""The result of a sweep as JSON: ``result.json`` of its folder, and ``etui sweep --json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from etui.stats.tests import Interval
from etui.sweep.analysis.claims import is_best_claimed
from etui.sweep.blocks import Block
from etui.sweep.report.conditions import build_command, build_conditions
from etui.sweep.report.verdict import format_verdict
from etui.sweep.result import (
    Accuracy,
    AxisEffect,
    DetectionFloor,
    Difference,
    Interaction,
    SettingResult,
    SweepResult,
)
from etui.sweep.sweep_config import SweepConfig

VERSION = 1
"""Version of the document; keys may be added without a new one."""


def build_document(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> dict[str, Any]:
    """Build the document of a sweep, finished or not.

    Units are part of the names; intervals are at 95 % and have ``low`` and ``high``. What is not
    known is None, never 0.

    Args:
        blocks: Its blocks, for the conditions; none leaves those unknown that only they have.
    """
    return {
        "version": VERSION,
        "id": config.id,
        "created": config.created,
        "model": config.model,
        "model_sha256": config.model_sha256,
        "policy": config.policy,
        "arm": config.arm,
        "is_complete": result.is_complete,
        "verdict": format_verdict(result),
        "goal": {
            "measure": result.goal.measure,
            "within_percent": _number(result.goal.within_percent),
        },
        "baseline": result.baseline,
        "best": result.best,
        "is_best_claimed": is_best_claimed(result),
        "kind": result.kind,
        "floor": _floor(result.floor),
        "settings": [_setting(one) for one in result.settings],
        "effects": [_effect(one) for one in result.effects],
        "interactions": [_interaction(one) for one in result.interactions],
        "drops": [
            {
                "setting": one.setting,
                "after_block": one.dropped_after,
                "reason": one.drop_reason,
            }
            for one in sorted(result.settings, key=_when_dropped)
            if one.dropped_after is not None or one.drop_reason
        ],
        "blocks": result.blocks,
        "visits": result.visits,
        "seconds": _number(result.seconds),
        "full_grid_seconds": _number(result.full_grid_seconds),
        "repeated": list(result.repeated),
        "notes": list(result.notes),
        "axes": {axis.name: list(axis.values) for axis in config.axes},
        "workload": {
            "name": config.workload,
            "sha256": config.workload_sha256,
            "output_tokens": config.output_tokens,
        },
        "suite": None
        if config.suite is None
        else {"name": config.suite, "questions": config.questions, "sha256": config.suite_sha256},
        "design": {
            "seed": config.design.seed,
            "floor_blocks": config.design.floor_blocks,
            "race_rounds": config.design.race_rounds,
            "confirm_blocks": config.design.confirm_blocks,
            "halving": config.design.halving,
            "window_seconds": _number(config.window_s),
            "cool_down_seconds": _number(config.cool_down_s),
            "cool_down_celsius": _number(config.cool_down_celsius),
        },
        "cap": config.cap,
        "channels": list(config.channels),
        "conditions": build_conditions(config, result, blocks),
        "command": build_command(config),
        "provenance": dict(config.provenance),
    }


def _setting(one: SettingResult) -> dict[str, Any]:
    return {
        "setting": one.setting,
        "values": dict(one.values),
        "stage": one.stage,
        "blocks": one.blocks,
        "joules": _interval(one.joules),
        "seconds": _interval(one.seconds),
        "prefill_joules_per_token": _interval(one.prefill_joules_per_token),
        "decode_joules_per_token": _interval(one.decode_joules_per_token),
        "joules_difference": _difference(one.joules_difference),
        "seconds_difference": _difference(one.seconds_difference),
        "accuracy": _accuracy(one.accuracy),
        "dropped_after": one.dropped_after,
        "drop_reason": one.drop_reason,
        "is_on_frontier": one.is_on_frontier,
    }


def _interval(figure: Interval | None) -> dict[str, float | None] | None:
    if figure is None:
        return None
    return {
        "value": _number(figure.value),
        "low": _number(figure.low),
        "high": _number(figure.high),
    }


def _difference(one: Difference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "percent": _number(one.percent),
        "low_percent": _number(one.low),
        "high_percent": _number(one.high),
        "p": _number(one.p),
        "blocks": one.blocks,
        "is_claimed": one.is_claimed,
    }


def _accuracy(one: Accuracy | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "correct": one.correct,
        "questions": one.questions,
        "share": _interval(one.share),
        "difference_points": _interval(one.difference_points),
        "p": _number(one.p),
        "measured_as": one.measured_as,
    }


def _effect(one: AxisEffect) -> dict[str, Any]:
    return {
        "axis": one.axis,
        "value": one.value,
        "reference": one.reference,
        "joules_difference": _difference(one.joules),
        "seconds_difference": _difference(one.seconds),
    }


def _interaction(one: Interaction) -> dict[str, Any]:
    return {
        "values": dict(zip(one.axes, one.values, strict=True)),
        "references": dict(zip(one.axes, one.references, strict=True)),
        "joules_difference": _difference(one.joules),
    }


def _floor(floor: DetectionFloor | None) -> dict[str, Any] | None:
    if floor is None:
        return None
    return {
        "joules_percent": _number(floor.joules_percent),
        "seconds_percent": _number(floor.seconds_percent),
        "measured_joules_percent": _number(floor.measured_joules_percent),
        "measured_seconds_percent": _number(floor.measured_seconds_percent),
        "blocks": floor.blocks,
        "claim_blocks": floor.claim_blocks,
    }


def _when_dropped(one: SettingResult) -> tuple[int, str]:
    return (-1 if one.dropped_after is None else one.dropped_after, one.setting)


def _number(value: float | None) -> float | None:
    """Return a plain float (numpy's is not JSON); None for what JSON has no number for."""
    return None if value is None or not math.isfinite(value) else float(value)

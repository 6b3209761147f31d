"""Rows of the log for a sweep: one in ``sweeps``, and one in ``sweep_settings`` per setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from etui.log.records import SweepRecord, SweepSettingRecord
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, Visit
from etui.sweep.result import Difference, SettingResult, SweepResult
from etui.sweep.sweep_config import SweepConfig


def build_sweep_record(
    config: SweepConfig,
    folder: Path,
    blocks: Sequence[Block],
    result: SweepResult,
    verdict: str,
) -> SweepRecord:
    """Build the row of a sweep in its current state.

    Args:
        verdict: The result as a sentence.
    """
    visits = [visit for block in blocks for visit in block.visits]
    floor = result.floor
    return SweepRecord(
        sweep_id=config.id,
        created_at=config.created,
        folder=str(folder.absolute()),
        model=config.model,
        model_sha256=config.model_sha256,
        machine=str(config.provenance.get("machine", "unknown")),
        goal=result.goal.measure,
        within_percent=result.goal.within_percent,
        baseline=result.baseline,
        best=result.best,
        verdict=verdict,
        floor_joules_percent=None if floor is None else floor.joules_percent,
        floor_seconds_percent=None if floor is None else floor.seconds_percent,
        blocks=result.blocks,
        visits=result.visits,
        joules=sum_joules(visits),
        kind=result.kind,
        seconds=result.seconds,
        complete=result.is_complete,
    )


def build_setting_records(sweep_id: str, result: SweepResult) -> list[SweepSettingRecord]:
    """Build the rows of a sweep's settings."""
    return [_build_setting_record(sweep_id, setting) for setting in result.settings]


def sum_joules(visits: Sequence[Visit]) -> float | None:
    """Sum the joules of all answers of the visits; None if there are none or one is unmeasured."""
    known = [visit.joules * visit.answers for visit in visits if visit.joules is not None]
    return math.fsum(known) if known and len(known) == len(visits) else None


def _build_setting_record(sweep_id: str, setting: SettingResult) -> SweepSettingRecord:
    accuracy = setting.accuracy
    points = accuracy.difference_points if accuracy is not None else None
    joules, seconds = setting.joules_difference, setting.seconds_difference
    return SweepSettingRecord(
        sweep_id=sweep_id,
        setting=setting.setting,
        axes=dict(setting.values),
        stage=setting.stage,
        blocks=setting.blocks,
        **_name_interval("joules", setting.joules),
        **_name_interval("seconds", setting.seconds),
        **_name_difference("joules_percent", joules),
        joules_claimed=joules is not None and joules.is_claimed,
        **_name_difference("seconds_percent", seconds),
        seconds_claimed=seconds is not None and seconds.is_claimed,
        **_name_interval("accuracy", accuracy.share if accuracy is not None else None),
        **_name_interval("accuracy_points", points),
        dropped_after=setting.dropped_after,
        reason=setting.drop_reason,
        frontier=setting.is_on_frontier,
    )


def _name_interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _name_difference(name: str, difference: Difference | None) -> dict[str, float | None]:
    if difference is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {
        name: difference.percent,
        f"{name}_low": difference.low,
        f"{name}_high": difference.high,
    }

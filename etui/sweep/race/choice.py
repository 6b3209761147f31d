"""The choice of the best setting of a sweep, by its blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etui.sweep.blocks import Block
from etui.sweep.race.design import follow
from etui.sweep.race.elimination import (
    MISTAKE,
    Standings,
    compare_seconds,
    find_fastest,
    rank,
    read_standings,
)
from etui.sweep.sweep_config import SweepDesign


def choose_best(design: SweepDesign, blocks: Sequence[Block]) -> str | None:
    """Choose the best setting by the goal among those that are left.

    The order is that of all blocks. Whether a setting beats the baseline at all is judged by the
    confirming blocks alone once there are two, because the race chose the finalists by its own.

    Returns:
        Key of the setting; the baseline if none beats it beyond noise; None before the first round
        of the race. With a limit of the time, a baseline that is too slow is replaced by the best
        setting that is allowed, in any case.

    Raises:
        EtuiError: The blocks are not of this design, or the baseline cannot run or be measured.
    """
    progress = follow(design, blocks)
    if progress.count("race") < 2:
        return None
    baseline = progress.baseline
    standings = read_standings(design.goal, progress.able, progress.remaining, blocks)
    ranked = rank(standings)
    if _is_too_slow(design, standings):
        return ranked[0]
    confirming = [block for block in blocks if block.stage != "race"]
    is_confirmed = progress.count("confirm") >= 2
    judged = read_standings(
        design.goal, progress.able, progress.remaining, confirming if is_confirmed else blocks
    )
    rivals = len(progress.remaining if is_confirmed else design.settings) - 1
    looks = 1 if is_confirmed else design.race_rounds
    # Two-sided tests at 5 % over all rivals, of which only the better side counts.
    tail = MISTAKE / 2 / max(1, rivals) / looks
    for key in ranked[: ranked.index(baseline)]:
        contrast = judged.costs.contrast(key, baseline)
        if contrast is not None and contrast.is_below_zero(tail):
            return key
    return baseline


def _is_too_slow(design: SweepDesign, standings: Standings) -> bool:
    """Return whether the baseline is slower than the limit of the time allows."""
    if design.goal.within_percent is None:
        return False
    slower = compare_seconds(standings, standings.baseline, find_fastest(standings))
    return slower > math.log1p(design.goal.within_percent / 100)


def rank_all(design: SweepDesign, blocks: Sequence[Block]) -> tuple[str, ...]:
    """Order the settings that can run by the goal, dropped or not, the best first.

    Raises:
        EtuiError: As :func:`choose_best`.
    """
    progress = follow(design, blocks)
    return tuple(rank(read_standings(design.goal, progress.able, progress.able, blocks)))

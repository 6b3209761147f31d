"""How many blocks of a sweep are left, and how long they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from etui.sweep.blocks import Block, Stage
from etui.sweep.race.design import follow, plan_next
from etui.sweep.race.elimination import FINALISTS
from etui.sweep.sweep_config import SweepDesign

OVERHEAD_S = 2.0
"""Expected seconds of a visit for the load and the warm-up, before any was measured."""

_ROUND_BLOCKS = 2
_STAGES: tuple[Stage, ...] = get_args(Stage)

_KEPT = 0.5
"""Share of the settings that is assumed to be left after a round; on simulated machines it is less
in the first round and more in the later ones."""


def count_blocks_left(design: SweepDesign, blocks: Sequence[Block]) -> int:
    """Count the blocks that are left at most, if no further setting is dropped."""
    progress = follow(design, blocks)
    plan = plan_next(progress)
    if plan is None:
        return 0
    done = {stage: progress.count(stage) for stage in _STAGES}
    others = len(progress.remaining) - 1
    floor = design.floor_blocks - done["floor"]
    confirm = design.confirm_blocks - done["confirm"] if others else 0
    if plan.stage == "confirm":
        return confirm
    race = _ROUND_BLOCKS * design.race_rounds - done["race"]
    if design.halving and others <= FINALISTS:
        # One round is enough for as many settings as are confirmed.
        race = max(_ROUND_BLOCKS - done["race"], done["race"] % _ROUND_BLOCKS)
    return floor + race + confirm


def guess_visit_seconds(window_s: float, cool_down_s: float) -> float:
    """Guess the seconds of a visit before any was measured: two phases, a pause, and the rest."""
    return 2 * window_s + cool_down_s + OVERHEAD_S


def estimate_seconds_left(
    design: SweepDesign, blocks: Sequence[Block], visit_seconds: float
) -> float:
    """Estimate the seconds that a sweep still takes.

    How many settings will be dropped is not known: half of them after each round is assumed.

    Args:
        visit_seconds: Seconds of a visit, with load, warm-up and cool-down; used until blocks have
            shown how long one takes.

    Raises:
        EtuiError: The blocks are not of this design.
    """
    progress = follow(design, blocks)
    others = len(progress.remaining) - 1
    done = {stage: progress.count(stage) for stage in _STAGES}
    visits = 2 * max(0, design.floor_blocks - done["floor"])
    if not progress.is_race_over:
        for block in range(done["race"], 2 * design.race_rounds):
            visits += others + 2
            if block % 2 and design.halving:
                others = math.ceil(_KEPT * others)
                if others <= FINALISTS:
                    break
    if others:
        left = max(0, design.confirm_blocks - done["confirm"])
        visits += left * (min(others, FINALISTS) + 2)
    stages = ("confirm",) if done["confirm"] else ("race",)
    # The latest blocks: settings that were dropped may have been slower.
    latest = [block for block in blocks if block.stage in stages][-2:]
    return visits * (_mean_visit(latest) or _mean_visit(blocks) or visit_seconds)


def estimate_full_grid_seconds(
    design: SweepDesign, blocks: Sequence[Block], visit_seconds: float | None = None
) -> float | None:
    """Estimate the seconds of the same sweep if no setting were dropped before the last round.

    Floor and confirmation are the same in both. A visit of the race counts as long as one of its
    first round, in which all settings were visited. The time of discarded attempts counts as it
    was, so that it is in both durations; the longer sweep would have had more of it.

    Args:
        visit_seconds: Seconds of a visit; used for stages without a block.

    Returns:
        Seconds; None if neither blocks nor an argument say how long a visit takes.

    Raises:
        EtuiError: The blocks are not of this design.
    """
    progress = follow(design, blocks)
    by_stage = {stage: [block for block in blocks if block.stage == stage] for stage in _STAGES}
    race = _mean_visit(by_stage["race"][:2]) or visit_seconds or _mean_visit(blocks)
    if race is None:
        return None
    floor = _mean_visit(by_stage["floor"]) or race
    confirm = _mean_visit(by_stage["confirm"]) or race
    others = len(design.settings) - 1
    finalists = (len(progress.remaining) - 1) if progress.is_race_over else min(others, FINALISTS)
    confirm_blocks = design.confirm_blocks if finalists else 0
    return math.fsum(
        (
            2 * design.floor_blocks * floor,
            2 * design.race_rounds * (others + 2) * race,
            confirm_blocks * (finalists + 2) * confirm,
            *(_seconds_discarded(measured) for measured in by_stage.values()),
        )
    )


def _seconds_discarded(blocks: Sequence[Block]) -> float:
    """Estimate the seconds of the discarded attempts of one stage, waits included."""
    mean = _mean_visit(blocks)
    if mean is None or all(block.repeated for block in blocks):
        return 0.0  # the mean contains them already
    repeated = [block for block in blocks if block.repeated]
    return math.fsum(max(0.0, block.seconds - len(block.visits) * mean) for block in repeated)


def _mean_visit(blocks: Sequence[Block]) -> float | None:
    """Return the mean seconds of a visit; None without any.

    Blocks that were repeated count only if there are no others: their seconds contain the waits.
    """
    for chosen in ([block for block in blocks if not block.repeated], blocks):
        seconds = math.fsum(block.seconds for block in chosen)
        visits = sum(len(block.visits) for block in chosen)
        if visits and seconds:
            return seconds / visits
    return None

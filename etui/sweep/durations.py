"""Estimates of how long a sweep takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etui.sweep.blocks import Block, Stage
from etui.sweep.design import SweepDesign, follow
from etui.sweep.elimination import FINALISTS

_KEPT = 0.5
"""Share of the settings that is assumed to be left after a round; on simulated machines it is less
in the first round and more in the later ones."""


def estimate_seconds_left(
    design: SweepDesign, blocks: Sequence[Block], visit_seconds: float
) -> float:
    """Estimate the seconds that a sweep still takes.

    How many settings will be dropped is not known: half of them after each round is assumed.

    Args:
        design: What is measured.
        blocks: The blocks so far.
        visit_seconds: Seconds of a visit, with load, warm-up and cool-down; used until blocks have
            shown how long one takes.

    Raises:
        EtuiError: The blocks are not of this design.
    """
    progress = follow(design, blocks)
    others = len(progress.remaining) - 1
    pair = {stage: progress.count(stage) for stage in ("floor", "race", "confirm")}
    visits = 2 * max(0, design.floor_blocks - pair["floor"])
    if not progress.is_race_over:
        done = pair["race"]
        while done < 2 * design.race_rounds:
            visits += others + 2
            done += 1
            if done % 2 == 0 and design.halving:
                others = math.ceil(_KEPT * others)
                if others <= FINALISTS:
                    break
    if others:
        left = max(0, design.confirm_blocks - pair["confirm"])
        visits += left * (min(others, FINALISTS) + 2)
    return visits * _mean_visit(blocks, ("race", "confirm"), visit_seconds)


def estimate_full_grid_seconds(
    design: SweepDesign, blocks: Sequence[Block], visit_seconds: float | None = None
) -> float | None:
    """Estimate the seconds of the same sweep if no setting were dropped before the last round.

    Floor and confirmation are the same in both. A visit of the race counts as long as one of its
    first round, in which all settings were visited.

    Args:
        design: What is measured.
        blocks: The blocks so far.
        visit_seconds: Seconds of a visit; used for stages without a block.

    Returns:
        Seconds; None if neither blocks nor an argument say how long a visit takes.

    Raises:
        EtuiError: The blocks are not of this design.
    """
    progress = follow(design, blocks)
    floor = _mean_visit(blocks, ("floor",), visit_seconds)
    first_round = [block for block in blocks if block.stage == "race"][:2]
    race = _mean_visit(first_round, ("race",), floor if visit_seconds is None else visit_seconds)
    if not race:
        return None
    confirm = _mean_visit(blocks, ("confirm",), race)
    others = len(design.settings) - 1
    finalists = (len(progress.remaining) - 1) if progress.is_race_over else min(others, FINALISTS)
    confirm_blocks = design.confirm_blocks if finalists else 0
    return math.fsum(
        (
            2 * design.floor_blocks * (floor or race),
            2 * design.race_rounds * (others + 2) * race,
            confirm_blocks * (finalists + 2) * (confirm or race),
        )
    )


def _mean_visit(
    blocks: Sequence[Block], stages: Sequence[Stage], visit_seconds: float | None
) -> float:
    """Return the mean seconds of a visit in some stages, or in all, or the given seconds."""
    for chosen in ([block for block in blocks if block.stage in stages], blocks):
        seconds = math.fsum(block.seconds for block in chosen)
        visits = sum(len(block.visits) for block in chosen)
        if visits and seconds:
            return seconds / visits
    return visit_seconds or 0.0

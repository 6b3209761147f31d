"""How many blocks of a sweep are left."""

from __future__ import annotations

from collections.abc import Sequence

from etui.sweep.blocks import Block
from etui.sweep.race.design import SweepDesign, list_remaining, next_block
from etui.sweep.race.elimination import FINALISTS

OVERHEAD_S = 2.0
"""Expected seconds of a visit for the load and the warm-up, before any was measured."""

_ROUND_BLOCKS = 2


def count_blocks_left(design: SweepDesign, blocks: Sequence[Block]) -> int:
    """Count the blocks that are left at most, if no further setting is dropped."""
    plan = next_block(design, blocks)
    if plan is None:
        return 0
    done = {stage: sum(block.stage == stage for block in blocks) for stage in _STAGES}
    others = len(list_remaining(design, blocks)) - 1
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


_STAGES = ("floor", "race", "confirm")

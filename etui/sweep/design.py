"""The order of a sweep: which block comes next, and which settings are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from etui.sweep.blocks import Block, BlockPlan
from etui.sweep.goal import Goal
from etui.sweep.setting import Setting


@dataclass(frozen=True, slots=True)
class SweepDesign:
    """What a sweep will measure.

    Attributes:
        settings: All settings, the baseline first; at least two.
        goal: What to minimize.
        seed: Seed of the orders.
        floor_blocks: Blocks of the baseline against itself, before the race.
        race_rounds: Most rounds of the race; a round is two blocks, in one order and its reverse.
        confirm_blocks: Blocks of the baseline and the finalists, after the race.
        halving: Whether settings that are worse beyond doubt are dropped after a round.
    """

    settings: tuple[Setting, ...]
    goal: Goal = field(default_factory=Goal)
    seed: int = 0
    floor_blocks: int = 4
    race_rounds: int = 5
    confirm_blocks: int = 8
    halving: bool = True


@dataclass(frozen=True, slots=True)
class Drop:
    """A setting that was dropped.

    Attributes:
        setting: Key of the setting.
        block: Number of the last block of the round.
        reason: ``12.1 % [9.8, 14.5] more joules than threads=2``, or why it could not run.
    """

    setting: str
    block: int
    reason: str


def next_block(design: SweepDesign, blocks: Sequence[Block]) -> BlockPlan | None:
    """Plan the block after those measured; None if the sweep is finished.

    The plan depends only on the design and the blocks, so an interrupted sweep resumes alike.
    """
    raise NotImplementedError


def list_drops(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Drop, ...]:
    """List the settings dropped so far, in the order in which they were dropped."""
    raise NotImplementedError


def list_remaining(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Setting, ...]:
    """List the settings still in the sweep, the baseline first; finalists once the race is over."""
    raise NotImplementedError

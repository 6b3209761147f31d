"""The order of a sweep: which block comes next, and which settings are left.

Blocks come in pairs, the second in the reverse order of the first. Every setting that is left is
visited once in a block, the baseline twice.

- ``floor``: the baseline against itself.
- ``race``: rounds of two blocks. After a round, settings that are worse beyond doubt, or cannot be
  better by much, are dropped (:mod:`etui.sweep.race.elimination`), so the effort goes to the
  others. The race ends after its last round, or as soon as no more are left than can be confirmed.
- ``confirm``: fresh blocks of the baseline and up to three finalists. The race's figures of its
  winner are too good, because it was chosen by them; these have chosen nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile

from etui.errors import EtuiError
from etui.sweep.blocks import Block, BlockPlan, Stage
from etui.sweep.race.elimination import (
    FINALISTS,
    MISTAKE,
    Standings,
    describe_rank,
    find_unmeasured,
    find_worse,
    rank,
    read_standings,
)
from etui.sweep.setting import Setting
from etui.sweep.sweep_config import SweepDesign


@dataclass(frozen=True, slots=True)
class Drop:
    """A setting that was dropped."""

    setting: str
    block: int  # Number of the last block of the round
    reason: str  # `12 % [10, 14] more joules than threads=2`, or why it could not run


@dataclass(frozen=True, slots=True)
class RaceProgress:
    """What is known after some blocks."""

    design: SweepDesign
    blocks: tuple[Block, ...]
    remaining: tuple[str, ...]  # Keys of the settings that are left, the baseline first
    drops: tuple[Drop, ...] = ()  # In the order in which they were dropped
    is_race_over: bool = False  # Whether the finalists are chosen

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all settings, the baseline first."""
        return tuple(setting.key for setting in self.design.settings)

    @property
    def able(self) -> tuple[str, ...]:
        """Keys of the settings that could run so far, dropped or not, the baseline first."""
        failed = {failure.setting for block in self.blocks for failure in block.failures}
        return tuple(key for key in self.keys if key not in failed)

    @property
    def baseline(self) -> str:
        """Key of the baseline."""
        return self.remaining[0]

    def count(self, stage: Stage) -> int:
        """Count the blocks of a stage."""
        return sum(block.stage == stage for block in self.blocks)


def next_block(design: SweepDesign, blocks: Sequence[Block]) -> BlockPlan | None:
    """Plan the block after those measured; None if the sweep is finished.

    The plan depends only on the design and the blocks, so an interrupted sweep resumes alike.

    Raises:
        EtuiError: The blocks are not of this design, or the baseline cannot run or be measured.
    """
    return plan_next(follow(design, blocks))


def list_drops(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Drop, ...]:
    """List the settings dropped so far, in the order in which they were dropped.

    Raises:
        EtuiError: As :func:`next_block`.
    """
    return follow(design, blocks).drops


def list_remaining(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Setting, ...]:
    """List the settings still in the sweep, the baseline first; finalists once the race is over.

    Raises:
        EtuiError: As :func:`next_block`.
    """
    left = follow(design, blocks).remaining
    return tuple(setting for setting in design.settings if setting.key in left)


def follow(design: SweepDesign, blocks: Sequence[Block]) -> RaceProgress:
    """Follow a sweep through its blocks.

    Raises:
        EtuiError: As :func:`next_block`.
        ValueError: The design has fewer than two settings, one of them twice, or no race.
    """
    keys = tuple(setting.key for setting in design.settings)
    if len(keys) < 2 or len(set(keys)) < len(keys) or design.race_rounds < 1:
        raise ValueError("a sweep needs two different settings and a round")
    return reduce(advance, blocks, RaceProgress(design, (), keys))


def plan_next(progress: RaceProgress) -> BlockPlan | None:
    """Plan the block that follows; None if the sweep is finished."""
    stage = _find_stage(progress)
    if stage is None:
        return None
    number = len(progress.blocks)
    if progress.count(stage) % 2:
        first = progress.blocks[-1]
        order = [(visit.setting, visit.copy) for visit in reversed(first.visits)]
    else:
        others = progress.remaining[1:] if stage != "floor" else ()
        order = [(progress.baseline, 0), (progress.baseline, 1), *((key, 0) for key in others)]
        # A generator of its own for each block: what comes before a block does not move it.
        random.Random(f"{progress.design.seed} {number}").shuffle(order)
    return BlockPlan(number, stage, tuple(order))


def advance(progress: RaceProgress, block: Block) -> RaceProgress:
    """Take in the next block, and decide at the end of a round who is left.

    Raises:
        EtuiError: The block is not the next one, or the baseline cannot run or be measured.
    """
    plan = plan_next(progress)
    _check(plan, block)
    failed = {failure.setting: failure.why for failure in block.failures}
    if progress.baseline in failed:
        raise EtuiError(
            f"the baseline {progress.baseline} cannot run: {failed[progress.baseline]}",
            "choose other settings with --axis, or fix those in use",
        )
    after = replace(_drop(progress, failed, block.number), blocks=(*progress.blocks, block))
    if block.stage == "floor" and after.count("floor") == after.design.floor_blocks:
        _check_baseline(_standings(after))
    if block.stage != "race":
        return after
    if len(after.remaining) == 1:
        return replace(after, is_race_over=True)
    return after if after.count("race") % 2 else _judge(after)


def _find_stage(progress: RaceProgress) -> Stage | None:
    design = progress.design
    if progress.count("floor") < design.floor_blocks:
        return "floor"
    if not progress.is_race_over:
        return "race"
    left = len(progress.remaining) > 1 and progress.count("confirm") < design.confirm_blocks
    return "confirm" if left else None


def _judge(progress: RaceProgress) -> RaceProgress:
    """Drop settings at the end of a round; after the last one, all but the finalists."""
    design, number = progress.design, len(progress.blocks) - 1
    standings = _standings(progress)
    _check_baseline(standings)
    unmeasured = find_unmeasured(standings)
    progress = _drop(progress, dict.fromkeys(unmeasured, "its joules are unmeasured"), number)
    rounds = progress.count("race") // 2
    if design.halving:
        worse = find_worse(_standings(progress), _tail(design))
        progress = _drop(progress, worse, number)
    is_small = design.halving and len(progress.remaining) - 1 <= FINALISTS
    if rounds < design.race_rounds and not is_small:
        return progress
    standings = _standings(progress)
    ranked = rank(standings)
    finalists = [key for key in ranked if key != progress.baseline][:FINALISTS]
    others = {
        key: describe_rank(standings, key, ranked[0])
        for key in progress.remaining[1:]
        if key not in finalists
    }
    return replace(_drop(progress, others, number), is_race_over=True)


def _tail(design: SweepDesign) -> float:
    """Return the probability of a mistake in one comparison."""
    tests = 1 if design.goal.within_percent is None else 2
    return MISTAKE / (design.race_rounds * (len(design.settings) - 1) * tests)


def _standings(progress: RaceProgress) -> Standings:
    return read_standings(progress.design.goal, progress.able, progress.remaining, progress.blocks)


def _drop(progress: RaceProgress, reasons: dict[str, str], number: int) -> RaceProgress:
    if not reasons:
        return progress
    drops = tuple(Drop(key, number, reason) for key, reason in reasons.items())
    remaining = tuple(key for key in progress.remaining if key not in reasons)
    return replace(progress, remaining=remaining, drops=(*progress.drops, *drops))


def _check_baseline(standings: Standings) -> None:
    if standings.baseline in find_unmeasured(standings):
        raise EtuiError(
            f"the joules of the baseline {standings.baseline} are unmeasured",
            "see `etui doctor` for the meters of this machine, or minimize the time: --goal time",
        )


def _check(plan: BlockPlan | None, block: Block) -> None:
    """Raise an error if a block is not what was planned."""
    fix = "start a new sweep: this one was changed after it was begun"
    if plan is None:
        raise EtuiError(f"block {block.number} comes after the end of the sweep", fix)
    if (block.number, block.stage) != (plan.number, plan.stage):
        raise EtuiError(
            f"block {block.number} ({block.stage}) does not belong to this sweep: "
            f"block {plan.number} ({plan.stage}) comes next",
            fix,
        )
    failed = {failure.setting for failure in block.failures}
    visited = [(visit.setting, visit.copy) for visit in block.visits]
    expected = [cell for cell in plan.order if cell[0] not in failed]
    planned = {setting for setting, _ in plan.order}
    if unknown := sorted(failed - planned):
        raise EtuiError(f"block {block.number} was not to measure {unknown[0]}", fix)
    if visited == expected:
        return
    pairs = zip(visited, expected, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if same < len(expected):
        what = f"visit {same + 1} is not that of {_name(expected[same])}"
    else:
        what = f"it has a visit of {_name(visited[same])} too many"
    raise EtuiError(f"block {block.number} does not belong to this sweep: {what}", fix)


def _name(cell: tuple[str, int]) -> str:
    return f"{cell[0]} (again)" if cell[1] else cell[0]

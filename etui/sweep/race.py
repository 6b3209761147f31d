"""The order of a sweep: which block comes next, which settings are left, which is the best.

Blocks come in pairs, the second in the reverse order of the first. Every setting that is left is
visited once in a block, the baseline twice.

- ``floor``: the baseline against itself. If its threads collapse beside other programs, the
  setting nearest to it with the fewest threads becomes the baseline.
- ``race``: rounds of two blocks. After a round, settings that are worse beyond doubt, or cannot be
  better by much, are dropped (:mod:`etui.sweep._elimination`), so the effort goes to the others.
  The race ends after its last round, or as soon as no more are left than can be confirmed.
- ``confirm``: fresh blocks of the baseline and up to three finalists. The race's figures of its
  winner are too good, because it was chosen by them; these have chosen nothing.

The next block depends only on the design and the blocks, so an interrupted sweep resumes alike.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import zip_longest

from etui.errors import EtuiError
from etui.measure.run import WAIT_S, Disturbed, measure_undisturbed
from etui.sweep._elimination import FINALISTS, MISTAKE, Standings, pair_logs
from etui.sweep.blocks import (
    Block,
    BlockPlan,
    Collapsed,
    Failure,
    MeasureVisit,
    SettingFailed,
    Stage,
    Visit,
)
from etui.sweep.config import Setting, SweepDesign

OVERHEAD_S = 2.0
"""Expected seconds of a visit for the load and the warm-up, before any was measured."""

_ROUND_BLOCKS = 2
_KEPT = 0.5
"""Share of the settings that is assumed to be left after a round; on simulated machines it is less
in the first round and more in the later ones."""


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
    remaining: tuple[str, ...]
    """Keys of the settings that are left, the baseline first; the finalists once the race is over.
    """
    drops: tuple[Drop, ...] = ()  # In the order in which they were dropped
    is_race_over: bool = False  # Whether the finalists are chosen
    first: int = 0  # Number of the first block with this baseline

    @property
    def able(self) -> tuple[str, ...]:
        """Keys of the settings that could run so far, dropped or not, the baseline first."""
        failed = {failure.setting for block in self.blocks for failure in block.failures}
        keys = (setting.key for setting in self.design.settings)
        return tuple(key for key in keys if key not in failed)

    @property
    def baseline(self) -> str:
        """Key of the baseline."""
        return self.remaining[0]

    @property
    def compared(self) -> tuple[Block, ...]:
        """The blocks with this baseline."""
        return self.blocks[self.first :]

    def count(self, stage: Stage) -> int:
        """Count the blocks of a stage with this baseline."""
        return sum(block.stage == stage for block in self.compared)

    def standings(self, remaining: Sequence[str] = (), blocks: Sequence[Block] = ()) -> Standings:
        """Read the figures of all settings: by default of those left, from all blocks."""
        goal, blocks = self.design.goal, blocks or self.compared
        costs = pair_logs(blocks, lambda visit: visit.cost(goal))
        seconds = pair_logs(blocks, lambda visit: visit.seconds)
        return Standings(goal, self.able, tuple(remaining or self.remaining), costs, seconds)

    def drop(self, reasons: dict[str, str]) -> RaceProgress:
        """Drop settings after the last block that was taken in."""
        number = len(self.blocks) - 1
        drops = tuple(Drop(key, number, reason) for key, reason in reasons.items())
        remaining = tuple(key for key in self.remaining if key not in reasons)
        return replace(self, remaining=remaining, drops=(*self.drops, *drops))


def follow(design: SweepDesign, blocks: Sequence[Block]) -> RaceProgress:
    """Follow a sweep through its blocks.

    EtuiError if the blocks are not of this design, or the baseline cannot run or be measured;
    ValueError if the design has fewer than two settings, one of them twice, or no race.
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


def _find_stage(progress: RaceProgress) -> Stage | None:
    design = progress.design
    if progress.count("floor") < design.floor_blocks:
        return "floor"
    if not progress.is_race_over:
        return "race"
    left = len(progress.remaining) > 1 and progress.count("confirm") < design.confirm_blocks
    return "confirm" if left else None


def advance(progress: RaceProgress, block: Block) -> RaceProgress:
    """Take in the next block, and decide at the end of a round who is left."""
    _check(plan_next(progress), block)
    failed = {failure.setting: failure.why for failure in block.failures}
    if progress.baseline in failed:
        progress = _replace_baseline(progress, block, failed[progress.baseline])
    after = replace(progress, blocks=(*progress.blocks, block)).drop(failed)
    if block.stage == "floor" and after.count("floor") == after.design.floor_blocks:
        _check_baseline(after.standings())
    if block.stage != "race":
        return after
    if len(after.remaining) == 1:
        return replace(after, is_race_over=True)
    return after if after.count("race") % _ROUND_BLOCKS else _judge(after)


def _replace_baseline(progress: RaceProgress, block: Block, why: str) -> RaceProgress:
    """Make the setting with the fewest threads, and else most like the baseline, the new one."""
    baseline, *others = progress.design.settings

    def count_threads(one: Setting) -> int:
        return sum(int(value) for axis, value in one.values if axis.endswith("threads"))

    fewer = [one for one in others if count_threads(one) < count_threads(baseline)]
    if block.stage != "floor" or not fewer:
        raise EtuiError(
            f"the baseline {baseline.key} cannot run: {why}",
            "choose other settings with --axis, such as fewer threads, or fix those in use",
        )
    calm = min(fewer, key=lambda one: (count_threads(one), len({*one.values} - {*baseline.values})))
    settings = (calm, *(one for one in progress.design.settings if one != calm))
    return replace(
        progress,
        design=replace(progress.design, settings=settings),
        remaining=tuple(one.key for one in settings),
        first=block.number + 1,
    )


def _judge(progress: RaceProgress) -> RaceProgress:
    """Drop settings at the end of a round; after the last one, all but the finalists."""
    design = progress.design
    standings = progress.standings()
    _check_baseline(standings)
    progress = progress.drop(dict.fromkeys(standings.unmeasured, "its joules are unmeasured"))
    if design.halving:
        tests = 1 if design.goal.within_percent is None else 2
        tail = MISTAKE / (design.race_rounds * (len(design.settings) - 1) * tests)
        progress = progress.drop(progress.standings().find_worse(tail))
    rounds = progress.count("race") // _ROUND_BLOCKS
    is_small = design.halving and len(progress.remaining) - 1 <= FINALISTS
    if rounds < design.race_rounds and not is_small:
        return progress
    standings = progress.standings()
    ranked = standings.rank()
    finalists = [key for key in ranked if key != progress.baseline][:FINALISTS]
    others = {
        key: standings.describe_rank(key, ranked[0])
        for key in progress.remaining[1:]
        if key not in finalists
    }
    return replace(progress.drop(others), is_race_over=True)


def _check_baseline(standings: Standings) -> None:
    if standings.baseline in standings.unmeasured:
        raise EtuiError(
            f"the joules of the baseline {standings.baseline} are unmeasured",
            "see `etui doctor` for the meters of this machine, or minimize the time: --goal time",
        )


def _check(plan: BlockPlan | None, block: Block) -> None:
    """Raise an error if a block is not what was planned."""
    failed = {failure.setting for failure in block.failures}
    visited = [(visit.setting, visit.copy) for visit in block.visits]
    expected = [cell for cell in plan.order if cell[0] not in failed] if plan else []
    problem = ""
    if plan is None:
        problem = "comes after the end of the sweep"
    elif (block.number, block.stage) != (plan.number, plan.stage):
        what = f"block {plan.number} ({plan.stage}) comes next"
        problem = f"({block.stage}) does not belong to this sweep: {what}"
    elif unknown := sorted(failed - {setting for setting, _ in plan.order}):
        problem = f"was not to measure {unknown[0]}"
    elif visited != expected:
        pairs = enumerate(zip_longest(visited, expected), start=1)
        at = next(at for at, (own, other) in pairs if own != other)
        problem = f"does not belong to this sweep: its visit {at} is not the planned one"
    if problem:
        fix = "start a new sweep: this one was changed after it was begun"
        raise EtuiError(f"block {block.number} {problem}", fix)


def choose_best(design: SweepDesign, blocks: Sequence[Block]) -> str | None:
    """Choose the best setting by the goal; the baseline if none that is left beats it beyond noise.

    The order is that of all blocks. Whether a setting beats the baseline at all is judged by the
    confirming blocks alone once there are two, because the race chose the finalists by its own.
    With a limit of the time, a baseline that is too slow is replaced by the best setting that is
    allowed, in any case. None before the first round of the race.
    """
    progress = follow(design, blocks)
    if progress.count("race") < _ROUND_BLOCKS:
        return None
    baseline = progress.baseline
    standings = progress.standings()
    ranked = standings.rank()
    if design.goal.within_percent is not None:
        slower = standings.seconds.log_ratio(baseline, standings.fastest)
        if slower > standings.most_slower:
            return ranked[0]
    is_confirmed = progress.count("confirm") >= 2
    judged = standings
    if is_confirmed:
        confirming = [block for block in progress.compared if block.stage != "race"]
        judged = progress.standings(blocks=confirming)
    rivals = len(progress.remaining if is_confirmed else design.settings) - 1
    rounds = 1 if is_confirmed else design.race_rounds
    # Two-sided tests at 5 % over all rivals, of which only the better side counts.
    tail = MISTAKE / 2 / max(1, rivals) / rounds
    for key in ranked[: ranked.index(baseline)]:
        difference = judged.costs.compare(key, baseline)
        if difference is not None and difference.is_below_zero(tail):
            return key
    return baseline


def rank_all(design: SweepDesign, blocks: Sequence[Block]) -> list[str]:
    """Order the settings that can run by the goal, dropped or not, the best first."""
    progress = follow(design, blocks)
    return progress.standings(progress.able).rank()


def count_blocks_left(progress: RaceProgress) -> int:
    """Count the blocks that are left at most, if no further setting is dropped."""
    design = progress.design
    plan = plan_next(progress)
    if plan is None:
        return 0
    others = len(progress.remaining) - 1
    confirm = design.confirm_blocks - progress.count("confirm") if others else 0
    if plan.stage == "confirm":
        return confirm
    done = progress.count("race")
    race = _ROUND_BLOCKS * design.race_rounds - done
    if design.halving and others <= FINALISTS:
        # One round is enough for as many settings as are confirmed.
        race = max(_ROUND_BLOCKS - done, done % _ROUND_BLOCKS)
    return design.floor_blocks - progress.count("floor") + race + confirm


def guess_visit_seconds(window_s: float, cool_down_s: float) -> float:
    """Guess the seconds of a visit before any was measured: two phases, a pause, and the rest."""
    return 2 * window_s + cool_down_s + OVERHEAD_S


def estimate_seconds_left(
    progress: RaceProgress, visit_seconds: float, running: Sequence[float] = ()
) -> float:
    """Estimate the seconds that a sweep still takes, if each round drops half of the settings.

    Args:
        visit_seconds: Seconds of a visit, with load, warm-up and cool-down, until visits have shown
            how long one takes.
        running: Seconds of the visits that the running block has so far.
    """
    design, others = progress.design, len(progress.remaining) - 1
    visits = 2 * max(0, design.floor_blocks - progress.count("floor"))
    if not progress.is_race_over:
        for block in range(progress.count("race"), _ROUND_BLOCKS * design.race_rounds):
            visits += others + 2
            if block % _ROUND_BLOCKS and design.halving:
                others = math.ceil(_KEPT * others)
                if others <= FINALISTS:
                    break
    confirmed = progress.count("confirm")
    if others:
        visits += max(0, design.confirm_blocks - confirmed) * (min(others, FINALISTS) + 2)
    # The latest blocks: settings that were dropped may have been slower.
    stage = "confirm" if confirmed else "race"
    latest = [block for block in progress.compared if block.stage == stage][-2:]
    pace = _mean_visit(latest, running) or _mean_visit(progress.compared) or visit_seconds
    return max(0, visits - len(running)) * pace


def _mean_visit(blocks: Sequence[Block], running: Sequence[float] = ()) -> float | None:
    """Return the mean seconds of a visit, those of the running block included; None without any.

    Blocks that were repeated count only if there are no others: their seconds contain the waits.
    """
    for chosen in ([block for block in blocks if not block.repeated], blocks):
        seconds = math.fsum([*running, *(block.seconds for block in chosen)])
        visits = len(running) + sum(len(block.visits) for block in chosen)
        if visits and seconds:
            return seconds / visits
    return None


OnVisit = Callable[[BlockPlan, int, Visit | Failure], object]
"""Takes the plan of the running block, the index of the visit in its order, and its result."""


def measure_blocks(
    design: SweepDesign,
    measure: MeasureVisit,
    blocks: Sequence[Block],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    on_visit: OnVisit = lambda plan, at, visit: None,
    wait_s: float = WAIT_S,
) -> Iterator[Block]:
    """Measure the blocks that are missing, and yield each when it is complete.

    A block with a disturbed visit is measured again from its beginning, because the rest of it
    would be compared with visits of another time. Ctrl-C (``KeyboardInterrupt``) is not caught: it
    loses the running block only. ``on_visit`` sees the visits of discarded attempts too. Stopped if
    the machine stays busy; the sweep can be resumed; EtuiError if the engine or the meter failed,
    or as :func:`follow`.
    """
    settings = {setting.key: setting for setting in design.settings}
    progress = follow(design, blocks)
    while (plan := plan_next(progress)) is not None:
        start = clock()
        failures: dict[str, Failure] = {}
        visits, repeated = measure_undisturbed(
            partial(_visit_all, plan, settings, progress.baseline, measure, failures, on_visit),
            wait_s=wait_s,
            sleep=sleep,
        )
        failed = tuple(failures.values())
        block = Block(plan.number, plan.stage, tuple(visits), failed, repeated, clock() - start)
        progress = advance(progress, block)
        yield block


def _visit_all(
    plan: BlockPlan,
    settings: dict[str, Setting],
    baseline: str,
    measure: MeasureVisit,
    failures: dict[str, Failure],
    on_visit: OnVisit,
) -> list[Visit]:
    """Visit a block's settings in order; a setting that failed before is passed over."""
    visits: list[Visit] = []
    for at, (key, copy) in enumerate(plan.order):
        if key in failures:
            continue
        try:
            visit = measure(settings[key], copy)
        except SettingFailed as failed:
            if key == baseline and not isinstance(failed, Collapsed):
                what = f"the baseline {key} cannot run: {failed.what}"
                raise EtuiError(what, failed.fix) from failed
            on_visit(plan, at, failure := Failure(key, failed.what))
            if key == baseline and plan.stage != "floor":
                raise Disturbed(f"{key}: {failed.what}") from failed
            failures[key] = failure
            if key == baseline:
                return []
            continue
        on_visit(plan, at, visit)
        if visit.disturbed:
            raise Disturbed(f"{key}: {visit.disturbed}")
        visits.append(visit)
    return visits

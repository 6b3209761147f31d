"""The main loop of a sweep: measure block after block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from etui.errors import EtuiError, Stopped
from etui.sweep.blocks import Block, BlockPlan, Failure, Visit
from etui.sweep.race.design import RaceProgress, advance, follow, plan_next
from etui.sweep.rig import Rig, SettingFailed
from etui.sweep.sweep_config import SweepDesign

ATTEMPTS = 5
"""How often a block is begun before the machine counts as busy."""
WAIT_S = 30.0
"""Seconds to wait before a block is begun again: most disturbances (an update, a build) are short,
and four such waits outlast them."""

OnVisit = Callable[[BlockPlan, int, Visit | Failure], object]
"""Takes the plan of the running block, the index of the visit in its order, and its result."""


class _Disturbed(Exception):
    """A visit that cannot be used; its text is the reason."""


def measure_blocks(
    design: SweepDesign,
    rig: Rig,
    blocks: Sequence[Block],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    on_visit: OnVisit | None = None,
    attempts: int = ATTEMPTS,
    wait_s: float = WAIT_S,
) -> Iterator[Block]:
    """Measure the blocks that are missing, and yield each when it is complete.

    A block with a disturbed visit is measured again from its beginning, because the rest of it
    would be compared with visits of another time. Ctrl-C (``KeyboardInterrupt``) is not caught: it
    loses the running block only.

    Args:
        blocks: Blocks measured before an interruption.
        clock: Monotonic clock in seconds.
        sleep: Waits for a number of seconds.
        on_visit: Called after each visit, of discarded attempts too.
        wait_s: Seconds to wait between two attempts.

    Raises:
        Stopped: The sweep cannot go on now, for example because the machine stays busy; it can be
            resumed.
        EtuiError: The engine or the meter failed, the blocks are not of this design, or the
            baseline cannot run or be measured.
    """
    progress = follow(design, blocks)
    while (plan := plan_next(progress)) is not None:
        block = _measure_block(progress, plan, rig, clock, sleep, on_visit, attempts, wait_s)
        progress = advance(progress, block)
        yield block


def _measure_block(
    progress: RaceProgress,
    plan: BlockPlan,
    rig: Rig,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    on_visit: OnVisit | None,
    attempts: int,
    wait_s: float,
) -> Block:
    start = clock()
    failures: dict[str, Failure] = {}
    repeated: list[str] = []
    while True:
        try:
            visits = _visit_all(progress, plan, rig, failures, on_visit)
        except _Disturbed as disturbed:
            repeated.append(str(disturbed))
            if len(repeated) >= attempts:
                raise Stopped(
                    f"a block was disturbed in all of {attempts} attempts: {disturbed}",
                    "end what disturbs it (other programs, a meter that fails), then run the same "
                    "command again to resume",
                ) from None
            sleep(wait_s)
            continue
        return Block(
            plan.number,
            plan.stage,
            tuple(visits),
            tuple(failures.values()),
            tuple(repeated),
            clock() - start,
        )


def _visit_all(
    progress: RaceProgress,
    plan: BlockPlan,
    rig: Rig,
    failures: dict[str, Failure],
    on_visit: OnVisit | None,
) -> list[Visit]:
    """Visit a block's settings in order; a setting that failed before is passed over."""
    settings = {setting.key: setting for setting in progress.design.settings}
    visits: list[Visit] = []
    for at, (key, copy) in enumerate(plan.order):
        if key in failures:
            continue
        try:
            visit = rig.visit(settings[key], copy)
        except SettingFailed as failed:
            if key == progress.baseline:
                raise EtuiError(f"the baseline {key} cannot run: {failed.what}", failed.fix) from (
                    failed
                )
            failures[key] = Failure(key, failed.what)
            if on_visit is not None:
                on_visit(plan, at, failures[key])
            continue
        if on_visit is not None:
            on_visit(plan, at, visit)
        if visit.disturbed:
            raise _Disturbed(f"{key}: {visit.disturbed}")
        visits.append(visit)
    return visits

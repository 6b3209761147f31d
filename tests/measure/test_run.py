"""The loop of an experiment: its order, its ends, and what is measured again."""

from __future__ import annotations

from random import Random

import pytest

from etui.errors import Stopped
from etui.measure.run import (
    Disturbed,
    RunLimits,
    StopRequested,
    WholeBlocks,
    measure_cells,
    measure_undisturbed,
    shuffle_grouped,
    work_between_blocks,
)


def test_work_follows_each_block_before_the_next_cell_is_asked_for():
    log: list[str] = []
    cells = [(name, block) for block in (0, 1, 4) for name in ("a", "b")]
    for name, block in work_between_blocks(cells, lambda cell: cell[1], lambda: log.append("work")):
        log.append(f"{name}{block}")
    assert log == ["a0", "b0", "work", "a1", "b1", "work", "a4", "b4", "work"]
    assert list(work_between_blocks([], lambda cell: cell, log.clear)) == []
    assert log != []


@pytest.mark.parametrize(
    ("seconds", "ended", "cells"),
    [(None, "complete", 12), (40.0, "complete", 12), (39.9, "time", 9), (12.0, "time", 3)],
)
def test_no_block_begins_that_would_be_cut(seconds, ended, cells):
    now, kept = [0.0], []
    blocks = WholeBlocks(seconds, lambda: now[0])

    def measure(cell):
        now[0] += 10 / 3
        return [cell]

    plan = blocks.follow(range(12), lambda cell: cell // 3)
    ending = measure_cells(plan, measure, kept.append, lambda: "time" if blocks.over else None)
    assert (ending, len(kept)) == (ended, cells)


def test_blocks_that_are_done_before_a_resume_say_nothing_of_the_next():
    now = [0.0]
    blocks = WholeBlocks(15.0, lambda: now[0])
    seen = []
    for cell in blocks.follow(range(8), lambda cell: cell):
        if blocks.over:
            break
        seen.append(cell)
        now[0] += 0.0 if cell < 5 else 10.0
    assert seen == [0, 1, 2, 3, 4, 5]


def test_each_result_is_kept_before_the_next_is_measured():
    log: list[str] = []

    def measure(cell):
        for part in ("x", "y"):
            log.append(f"measure {cell}{part}")
            yield f"{cell}{part}"

    ending = measure_cells("ab", measure, lambda result: log.append(f"keep {result}"), lambda: None)
    assert ending == "complete"
    assert log[:4] == ["measure ax", "keep ax", "measure ay", "keep ay"]
    assert len(log) == 8


def test_a_limit_ends_after_the_result_that_reaches_it():
    kept: list[int] = []
    limit = RunLimits(joules=3.0).start(lambda: False)
    ending = measure_cells([1, 2, 3], lambda cell: [cell], kept.append, lambda: limit(sum(kept)))
    assert (ending, kept) == ("joules", [1, 2])


def test_a_stop_and_the_time_end_before_the_joules():
    now = [0.0]
    limit = RunLimits(joules=1.0, seconds=5.0).start(lambda: now[0] > 9, lambda: now[0])
    assert limit(0.5) is None
    now[0] = 5.0
    assert (limit(0.5), limit(1.0)) == ("time", "joules")
    now[0] = 10.0
    assert limit(1.0) == "stopped"


def test_a_stop_discards_the_cell():
    def measure(cell):
        yield cell
        raise StopRequested

    kept: list[int] = []
    assert measure_cells([1, 2], measure, kept.append, lambda: None) == "stopped"
    assert kept == [1]


def test_what_is_disturbed_is_measured_again_until_the_machine_counts_as_busy():
    waits: list[float] = []
    reasons = iter(["one", "two"])

    def measure() -> str:
        for reason in reasons:
            raise Disturbed(reason)
        return "good"

    found = measure_undisturbed(measure, wait_s=7.0, sleep=waits.append)
    assert found == ("good", ("one", "two"))
    assert waits == [7.0, 7.0]

    def disturbed() -> str:
        raise Disturbed("a build")

    with pytest.raises(Stopped, match=r"in all of 3 attempts: a build"):
        measure_undisturbed(disturbed, attempts=3, sleep=waits.append)


def test_a_shuffle_keeps_groups_together_and_repeats_with_its_seed():
    items = [f"{model}{arm}" for model in "abc" for arm in "123"]
    orders = {tuple(shuffle_grouped(items, lambda item: item[0], Random(n))) for n in range(40)}
    assert len(orders) > 10
    for order in orders:
        assert sorted(order) == items
        assert len([at for at in range(8) if order[at][0] != order[at + 1][0]]) == 2
    again = [shuffle_grouped(items, lambda item: item[0], Random(5)) for _ in range(2)]
    assert again[0] == again[1]

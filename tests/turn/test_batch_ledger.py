"""The ledger of shared batches: merged, found by number, trimmed, and used by many threads."""

from __future__ import annotations

import itertools
import threading
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from etui.events import BatchShare, SharedBatch
from etui.turn.shared_meter import BatchCost, BatchLedger

S = 1_000_000_000


def batch(
    start_ns: int, end_ns: int, *shares: tuple[int, int, int], model: str = "m"
) -> SharedBatch:
    return SharedBatch(model, start_ns, end_ns, tuple(BatchShare(*share) for share in shares))


def test_neighbours_with_the_same_tokens_are_one_group() -> None:
    ledger = BatchLedger()
    for start in range(5):
        # The engine may name the requests in any order.
        shares = ((1, 0, 1), (2, 0, 1)) if start % 2 else ((2, 0, 1), (1, 0, 1))
        ledger.add(batch(start, start + 1, *shares))
    ledger.add(batch(5, 6, (1, 0, 2), (2, 0, 1)))
    first, second = ledger.find([1])
    assert (first.start_ns, first.end_ns, first.batches) == (0, 5, 5)
    assert (second.start_ns, second.end_ns, second.batches) == (5, 6, 1)


def test_a_pause_another_model_or_other_requests_begin_a_new_group() -> None:
    ledger = BatchLedger()
    ledger.add(batch(0, 1, (1, 0, 1)))
    ledger.add(batch(2, 3, (1, 0, 1)))
    ledger.add(batch(3, 4, (1, 0, 1), model="n"))
    ledger.add(batch(4, 5, (1, 0, 1), (2, 5, 0), model="n"))
    ledger.add(batch(5, 6, (2, 0, 1), model="n"))
    assert [group.start_ns for group in ledger.find([1])] == [0, 2, 3, 4]
    assert [group.start_ns for group in ledger.find([2])] == [4, 5]
    assert [group.start_ns for group in ledger.find([1, 2])] == [0, 2, 3, 4, 5]
    assert ledger.find([3]) == [] == ledger.find([])


def test_what_overlaps_is_cut_off_and_nothing_is_counted_twice() -> None:
    ledger = BatchLedger()
    ledger.add(batch(0, 10, (1, 0, 1)))
    ledger.add(batch(8, 12, (2, 0, 1)))
    ledger.add(batch(3, 9, (3, 0, 1)))
    ledger.add(batch(20, 19, (4, 0, 1)))
    ledger.add(SharedBatch("m", 12, 15, ()))
    assert [(group.start_ns, group.end_ns) for group in ledger.find([1, 2, 3, 4])] == [
        (0, 10),
        (10, 12),
    ]


def test_the_span_before_a_crash_is_of_those_who_ran() -> None:
    ledger = BatchLedger()
    ledger.add(batch(0, 4, (7, 0, 1)))
    ledger.add(batch(4, 9, (8, 0, 0), (7, 0, 0)))
    ledger.add(batch(9, 11))
    (_, span) = ledger.find([7])
    assert ledger.find([8]) == [span]
    assert span.shares == (BatchShare(7, 0, 0), BatchShare(8, 0, 0))


def test_old_batches_are_forgotten_and_the_rest_is_found_as_before() -> None:
    ledger = BatchLedger()
    for start in range(10):
        ledger.add(batch(start, start + 1, (start % 3, 0, start + 1), (9, 1, 0)))
    kept = [group for group in ledger.find([9]) if group.end_ns > 4]
    ledger.forget_before(4)
    ledger.forget_before(2)
    assert ledger.find([9]) == kept
    assert [group.start_ns for group in ledger.find([0])] == [6, 9]
    assert ledger.forgotten_ns == 4
    ledger.forget_before(100)
    assert len(ledger) == 0
    assert ledger.find([9]) == []


def test_batches_older_than_the_meter_remembers_are_forgotten_by_themselves() -> None:
    ledger = BatchLedger(keep_seconds=10)
    for start in range(100):
        ledger.add(batch(start * S, (start + 1) * S, (start, 0, 1)))
    assert 10 <= len(ledger) <= 12
    assert ledger.forgotten_ns is not None
    assert ledger.find([99])
    assert not ledger.find([50])


def test_the_first_question_for_a_cost_decides_for_all() -> None:
    ledger = BatchLedger()
    ledger.add(batch(0, 1, (1, 0, 1), (2, 3, 0)))
    (group,) = ledger.find([1])
    assert ledger.fix_cost(group, lambda model: None) is None
    assert ledger.fix_cost(group, lambda model: BatchCost(1.0, 1.0)) is None
    ledger.add(batch(1, 2, (1, 0, 1), (2, 4, 0)))
    second = ledger.find([2])[1]
    assert ledger.fix_cost(second, lambda model: BatchCost(1.0, 1.0)) == BatchCost(1.0, 1.0)
    assert ledger.fix_cost(second, lambda model: None) == BatchCost(1.0, 1.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.sets(st.integers(1, 4)))))
def test_groups_tile_the_time_of_their_batches(
    steps: list[tuple[int, int, set[int]]],
) -> None:
    ledger, now, busy = BatchLedger(), 0, 0
    seconds_of: dict[int, int] = {}
    for pause, length, numbers in steps:
        now += pause
        ledger.add(batch(now, now + length, *((number, 0, 1) for number in numbers)))
        busy += length if numbers else 0
        for number in numbers:
            seconds_of[number] = seconds_of.get(number, 0) + length
        now += length
    groups = ledger.find(range(1, 5))
    assert sum(group.end_ns - group.start_ns for group in groups) == busy
    assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(groups))
    for number, seconds in seconds_of.items():
        found = ledger.find([number])
        assert sum(group.end_ns - group.start_ns for group in found) == seconds


def test_memory_is_flat_over_ten_thousand_requests() -> None:
    ledger, now = BatchLedger(), 0

    def serve(first: int, count: int) -> None:
        nonlocal now
        for number in range(first, first + count):
            for step in range(10):
                ledger.add(batch(now, now + 1, (number, 0, 1), (number + 1, step % 2, 1)))
                now += 1
            ledger.find([number])
            ledger.forget_before(now - 100)

    serve(0, 1000)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    serve(1000, 10_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 200_000
    assert len(ledger) < 200


def test_threads_may_add_find_and_forget_at_once() -> None:
    ledger, faults = BatchLedger(), []
    added = threading.Event()

    def look() -> None:
        try:
            while not added.is_set():
                for group in ledger.find([1]):
                    ledger.fix_cost(group, lambda model: None)
                newest = max((g.end_ns for g in ledger.find([1])), default=None)
                if newest is not None:
                    ledger.forget_before(newest - 50)
        except Exception as error:  # noqa: BLE001 - shown by the test
            faults.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(3000):
        ledger.add(batch(start, start + 1, (1, 0, 1 + start % 2), (2, start % 3, 1)))
    added.set()
    for thread in threads:
        thread.join(60)
    assert not faults
    assert ledger.find([1])[-1].end_ns == 3000

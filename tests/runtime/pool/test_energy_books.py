"""The books of a server: turns, loads and idle time sum to the meter, with little memory."""

from __future__ import annotations

import math
import threading
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.attribution import CurveMeter
from etui.energy.types import Energy
from etui.runtime.energy_books import EnergyBookkeeper, Ongoing
from etui.runtime.turn_request import EnergyBooks
from tests.support.power_curves import constant, steps

S = 1_000_000_000


def at(seconds: float) -> int:
    return round(seconds * S)


def books_of(watts: float = 10.0) -> EnergyBookkeeper:
    return EnergyBookkeeper(CurveMeter(constant(watts, 10)), at(1))


def joules(books: EnergyBooks) -> tuple[float | None, ...]:
    return books.total, books.turns, books.loads, books.idle


def test_turns_loads_and_the_rest_are_booked_apart() -> None:
    books = books_of()
    books.add_load(at(2), at(4))
    books.add_turn("small", at(4), at(5))
    books.add_turn("small", at(5), at(6))
    books.add_turn("large", at(7), at(8))
    read = books.read(at(10))
    assert joules(read) == pytest.approx((90, 30, 20, 40))
    assert read.turns_by_model == pytest.approx({"small": 20, "large": 10})
    assert read.kind == "counter"
    assert read.uncertainty == pytest.approx(0.1 + 0.01 * 90)


def test_closing_changes_no_sum() -> None:
    books = books_of()
    books.add_load(at(2), at(4))
    books.close_until(at(3))
    books.close_until(at(2.5))
    books.add_turn("small", at(4), at(6))
    books.close_until(at(7))
    assert joules(books.read(at(10))) == pytest.approx((90, 20, 20, 50))


def test_a_load_inside_a_turn_is_not_the_turns() -> None:
    books = books_of()
    books.add_load(at(3), at(4))
    books.add_turn("small", at(2), at(6))
    books.add_load(at(5), at(7))
    assert joules(books.read(at(8))) == pytest.approx((70, 30, 20, 20))


def test_work_before_what_is_closed_counts_from_there() -> None:
    books = books_of()
    books.close_until(at(3))
    books.add_turn("small", at(2), at(4))
    books.add_turn("small", at(1), at(2))
    assert joules(books.read(at(5))) == pytest.approx((40, 10, 0, 30))


def test_the_time_since_the_last_batch_is_of_those_who_run_now() -> None:
    books = books_of()
    books.add_turn("small", at(2), at(4))
    assert books.read(at(6), Ongoing("small", at(2))).turns == pytest.approx(40)
    assert books.read(at(6)).turns == pytest.approx(20)
    assert books.read(at(6), Ongoing("large", at(2))).turns_by_model == pytest.approx(
        {"small": 20, "large": 20}
    )
    # A look at the books does not change them, nor does one in the past.
    assert joules(books.read(at(6))) == pytest.approx((50, 20, 0, 30))
    assert joules(books.read(at(3))) == pytest.approx((20, 10, 0, 10))


def test_the_pause_before_what_runs_now_is_nobodys() -> None:
    books = books_of()
    books.add_turn("small", at(2), at(4))
    assert joules(books.read(at(8), Ongoing("small", at(7)))) == pytest.approx((70, 30, 0, 40))
    assert joules(books.read(at(8), Ongoing("small", at(9)))) == pytest.approx((70, 20, 0, 50))


def test_the_books_end_where_work_began_of_which_nobody_knows_yet_what_it_is() -> None:
    books = books_of()
    books.add_turn("small", at(2), at(4))
    assert joules(books.read(at(8), Ongoing(None, at(7)))) == pytest.approx((60, 20, 0, 40))
    assert joules(books.read(at(8), Ongoing(None, at(3)))) == pytest.approx((30, 20, 0, 10))
    assert joules(books.read(at(8), Ongoing(None, at(9)))) == pytest.approx((70, 20, 0, 50))
    books.close_until(at(7.5))
    assert joules(books.read(at(8), Ongoing(None, at(7)))) == pytest.approx((65, 20, 0, 45))


def test_nothing_has_happened_yet() -> None:
    assert joules(books_of().read(at(1))) == (0.0, 0.0, 0.0, 0.0)


@dataclass
class Blind(CurveMeter):
    """A meter that begins to read late."""

    from_ns: int = 0

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        if end_ns <= self.from_ns or start_ns < self.from_ns:
            return Energy(start_ns, end_ns, None, None, None, 0.0)
        return super().energy(start_ns, end_ns)


def test_an_unmeasured_part_makes_its_sum_and_the_total_unknown_for_good() -> None:
    meter = Blind(constant(10, 10), from_ns=at(5))
    books = EnergyBookkeeper(meter, at(1))
    books.add_load(at(1), at(5))
    books.add_turn("small", at(5), at(6))
    books.close_until(at(6))
    read = books.read(at(8))
    assert joules(read) == (None, pytest.approx(10), None, pytest.approx(20))
    assert read.uncertainty is read.kind is None


def test_a_model_with_an_unmeasured_turn_is_left_out() -> None:
    books = EnergyBookkeeper(Blind(constant(10, 10), from_ns=at(5)), at(1))
    books.add_turn("small", at(1), at(5))
    books.add_turn("large", at(5), at(6))
    read = books.read(at(8))
    assert (read.turns, read.turns_by_model) == (None, {"large": pytest.approx(10)})


def test_half_widths_of_long_times_add_up() -> None:
    books = EnergyBookkeeper(CurveMeter(constant(10, 10)), 0)
    for hour in range(1, 11):
        books.close_until(at(3600 * hour))
    read = books.read(at(36_000))
    assert read.total == pytest.approx(360_000)
    # 0.1 J at each of the ten edges and 1 % of all, and once more for the empty rest.
    assert read.uncertainty == pytest.approx(3600 + 11 * 0.1)


@given(
    st.lists(
        st.tuples(st.sampled_from(("small", "large", None)), st.integers(0, 40), st.integers(0, 9)),
        max_size=12,
    ),
    st.lists(st.integers(0, 50), max_size=4),
)
def test_the_sums_are_those_of_the_meter_whatever_overlaps(
    works: list[tuple[str | None, int, int]], closings: list[int]
) -> None:
    meter = CurveMeter(steps([(3.1, 90.0), (7.4, 240.0), (11.0, 30.0), (30, 150.0)]))
    books, open_books = EnergyBookkeeper(meter, 0), EnergyBookkeeper(meter, 0)
    for model, start, length in works:
        for each in (books, open_books):
            if model is None:
                each.add_load(at(start), at(start + length))
            else:
                each.add_turn(model, at(start), at(start + length))
    for closing in closings:
        books.close_until(at(closing))
    read, other = books.read(at(50)), open_books.read(at(50))
    assert joules(read) == pytest.approx(joules(other), abs=1e-9)
    assert read.total == pytest.approx(meter.energy(0, at(50)).joules, abs=1e-9)
    busy = {second for _, start, length in works for second in range(start, start + length)}
    idle = math.fsum(
        meter.energy(at(s), at(s + 1)).joules or 0.0 for s in range(50) if s not in busy
    )
    assert read.idle == pytest.approx(idle, abs=1e-9)


def test_memory_does_not_grow_with_the_number_of_turns() -> None:
    books, now = books_of(), 1

    def serve(count: int) -> None:
        nonlocal now
        for _ in range(count):
            books.add_turn("small", at(now + 0.2), at(now + 0.9))
            now += 1
            books.close_until(at(now))

    serve(100)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    serve(10_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000


def test_threads_may_add_and_read_at_once() -> None:
    books, faults, done = books_of(), [], threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                read = books.read(at(5000))
                assert read.total is not None
        except Exception as error:  # noqa: BLE001 - shown by the test
            faults.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for second in range(1, 500):
        books.add_turn("small", at(second), at(second + 0.5))
        books.close_until(at(second + 0.75))
    done.set()
    thread.join(60)
    assert not faults
    assert books.read(at(500)).turns == pytest.approx(499 * 5)

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
from etui.runtime.energy_books import LOADS, EnergyBookkeeper, Ongoing
from etui.runtime.turn_request import EnergyBooks
from tests.support.power_curves import constant, steps

S = 1_000_000_000


def at(seconds: float) -> int:
    return round(seconds * S)


def books_of(watts: float = 10.0) -> EnergyBookkeeper:
    return EnergyBookkeeper(CurveMeter(constant(watts, 10)), at(1))


def joules(books: EnergyBooks) -> tuple[float | None, ...]:
    return books.total, books.turns, books.loads, books.idle


def write(books: EnergyBookkeeper, *works: tuple[object, float, float] | float) -> None:
    """Write (model or None for a load, start, end) of works; a number closes the books there."""
    for work in works:
        if isinstance(work, float):
            books.close_until(at(work))
        elif work[0] is None:
            books.add(LOADS, at(work[1]), at(work[2]))
        else:
            books.add(str(work[0]), at(work[1]), at(work[2]))


SMALL = ("small", 2, 4)


def known(model: str | None, since: float) -> Ongoing:
    return Ongoing(model, at(since))


@pytest.mark.parametrize(
    ("works", "until", "ongoing", "sums"),
    [
        ([], 1, None, (0, 0, 0, 0)),
        ([(None, 2, 4), ("small", 4, 6), ("large", 7, 8)], 10, None, (90, 30, 20, 40)),
        # Closing changes no sum, and work before what is closed counts from there.
        ([(None, 2, 4), 3.0, 2.5, ("small", 4, 6), 7.0], 10, None, (90, 20, 20, 50)),
        ([3.0, SMALL, ("small", 1, 2)], 5, None, (40, 10, 0, 30)),
        # A load inside a turn is not the turn's.
        ([(None, 3, 4), ("small", 2, 6), (None, 5, 7)], 8, None, (70, 30, 20, 20)),
        # The time since the last batch is of those who run now; the pause before is nobody's.
        ([SMALL], 6, None, (50, 20, 0, 30)),
        ([SMALL], 6, known("small", 2), (50, 40, 0, 10)),
        ([SMALL], 8, known("small", 7), (70, 30, 0, 40)),
        ([SMALL], 8, known("small", 9), (70, 20, 0, 50)),
        # The books end where work began of which nobody knows yet what it is.
        ([SMALL], 8, known(None, 7), (60, 20, 0, 40)),
        ([SMALL], 8, known(None, 3), (30, 20, 0, 10)),
        ([SMALL], 8, known(None, 9), (70, 20, 0, 50)),
        ([SMALL, 7.5], 8, known(None, 7), (65, 20, 0, 45)),
    ],
)
def test_turns_loads_and_the_rest_are_booked_apart(works, until, ongoing, sums) -> None:
    books = books_of()
    write(books, *works)
    assert joules(books.read(at(until), ongoing)) == pytest.approx(sums)
    # A look at the books does not change them, nor does one in the past.
    books.read(at(3))
    assert joules(books.read(at(until), ongoing)) == pytest.approx(sums)


def test_the_joules_of_turns_are_told_apart_by_model() -> None:
    books = books_of()
    write(books, SMALL)
    read = books.read(at(6), known("large", 2))
    assert read.turns_by_model == pytest.approx({"small": 20, "large": 20})
    assert read.kind == "counter"
    assert read.uncertainty == pytest.approx(0.1 + 0.01 * 50)


@dataclass
class Blind(CurveMeter):
    """A meter that begins to read late."""

    from_ns: int = 0

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        if end_ns <= self.from_ns or start_ns < self.from_ns:
            return Energy(start_ns, end_ns, None, None, None, 0.0)
        return super().energy(start_ns, end_ns)


def test_an_unmeasured_part_makes_its_sum_and_the_total_unknown_for_good() -> None:
    books = EnergyBookkeeper(Blind(constant(10, 10), from_ns=at(5)), at(1))
    write(books, (None, 1, 5), ("small", 5, 6), 6.0)
    read = books.read(at(8))
    assert joules(read) == (None, pytest.approx(10), None, pytest.approx(20))
    assert read.uncertainty is read.kind is None
    books = EnergyBookkeeper(Blind(constant(10, 10), from_ns=at(5)), at(1))
    write(books, ("small", 1, 5), ("large", 5, 6))
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
    for each in (books, open_books):
        write(each, *((model, start, start + length) for model, start, length in works))
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
            books.add("small", at(now + 0.2), at(now + 0.9))
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
        books.add("small", at(second), at(second + 0.5))
        books.close_until(at(second + 0.75))
    done.set()
    thread.join(60)
    assert not faults
    assert books.read(at(500)).turns == pytest.approx(499 * 5)

"""The breaker: closed, open after failures in a row, one try after a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.backends.remote.backend import Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def build(clock: Clock) -> Circuit:
    return Circuit(clock, failures_to_open=3, open_seconds=30.0)


def fail(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        assert circuit.admit()
        circuit.fail()


def test_it_opens_after_failures_in_a_row_alone() -> None:
    circuit = build(Clock())
    fail(circuit, 2)
    circuit.succeed()
    fail(circuit, 2)
    assert circuit.state == "closed"
    fail(circuit, 1)
    assert circuit.state == "open"
    assert not circuit.admit()
    assert not circuit.lets_through
    assert circuit.seconds_left == 30.0


def test_after_its_time_one_request_decides() -> None:
    clock = Clock()
    circuit = build(clock)
    fail(circuit, 3)
    clock.now += 30.0
    assert circuit.state == "half-open"
    assert circuit.lets_through
    assert circuit.admit()
    assert not circuit.admit(), "only one at a time"
    circuit.fail()
    assert circuit.state == "open"
    assert circuit.seconds_left == 30.0
    clock.now += 30.0
    assert circuit.admit()
    circuit.succeed()
    assert circuit.state == "closed"
    assert circuit.admit()


def test_a_cancelled_try_lets_the_next_one_through() -> None:
    clock = Clock()
    circuit = build(clock)
    fail(circuit, 3)
    clock.now += 31.0
    assert circuit.admit()
    circuit.release()
    assert circuit.admit()


@given(st.lists(st.sampled_from(["ask", "succeed", "fail", "release", "wait"]), max_size=40))
def test_it_never_lets_a_request_through_while_it_is_open(steps: list[str]) -> None:
    clock = Clock()
    circuit = build(clock)
    running = failures = 0
    for step in steps:
        if step == "wait":
            clock.now += 11.0
        elif step == "ask":
            before = circuit.state
            admitted = circuit.admit()
            assert not (admitted and before == "open")
            assert admitted or failures >= 3
            running += admitted
        elif running:
            running -= 1
            getattr(circuit, step)()
            failures = failures + 1 if step == "fail" else 0 if step == "succeed" else failures

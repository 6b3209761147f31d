"""Who may begin: there is room beside what others may still need; first in, first out."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, EarlyExit
from etui.engine.batching.admission import (
    HAND_OVER_TOKENS,
    PROBE_TOKENS,
    AdmissionQueue,
    Reservation,
    Room,
    Ticket,
    bound_prompt,
    estimate_need,
)
from tests.engine.batching.fakes import WAIT_SECONDS, threads


def test_each_way_to_answer_reserves_what_it_may_need():
    direct = Arm("a", "m", max_tokens=100, think_tokens=50)
    assert estimate_need(direct, 10) == Reservation(10, 100, 1)
    assert estimate_need(direct, 10, count=3) == Reservation(10, 300, 4)
    cot = Arm("a", "m", reasoning="cot", max_tokens=100, think_tokens=50)
    assert estimate_need(cot, 10) == Reservation(10, 150 + HAND_OVER_TOKENS, 1)
    probed = Arm("a", "m", reasoning="cot", max_tokens=9, think_tokens=5, early_exit=EarlyExit())
    output = 14 + HAND_OVER_TOKENS + PROBE_TOKENS
    assert estimate_need(probed, 10) == Reservation(10, output, 2)
    vote = Arm("a", "m", reasoning="vote", max_tokens=100, think_tokens=0, votes=7, batch=4)
    assert estimate_need(vote, 10) == Reservation(10, 400, 5)


@given(
    st.integers(0, 9000),
    st.integers(0, 9000),
    st.integers(0, 20),
    st.integers(1, 4096),
    st.integers(1, 16),
    st.integers(0, 5),
)
def test_a_limited_need_fits_into_an_empty_context(
    prompt, output, sequences, context, slots, running
):
    need = Reservation(prompt, output, sequences).limit(context, slots)
    assert Room(running, context, slots).fits(need)
    assert need.tokens == min(prompt + output, context)


def test_a_request_waits_for_room_unless_it_is_alone():
    need = Reservation(100, 50, 2)
    assert Room(1, 150, 2).fits(need)
    assert not Room(1, 149, 2).fits(need)
    assert not Room(1, 150, 1).fits(need)
    assert Room(0, 0, 0).fits(need)


@given(st.lists(st.text()))
def test_a_prompt_has_no_more_tokens_than_its_bound(contents):
    bytes_ = sum(len(content.encode("utf-8", "replace")) for content in contents)
    assert bound_prompt(contents) >= bytes_ + len(contents)


def _always(running: int) -> bool:
    return True


def test_the_first_in_the_queue_begins_first():
    queue = AdmissionQueue()
    tickets = [queue.enter() for _ in range(5)]
    order: list[int] = []

    def wait(index: int, ticket: Ticket) -> None:
        assert queue.await_turn(ticket, lambda running: running == 0, WAIT_SECONDS)
        order.append(index)
        queue.begin(ticket)
        queue.leave(ticket)

    with threads(*(lambda i=i, t=t: wait(i, t) for i, t in reversed(list(enumerate(tickets))))):
        pass
    assert order == [0, 1, 2, 3, 4]
    assert queue.running == 0


def test_the_next_one_waits_until_the_running_ones_have_left():
    queue = AdmissionQueue()
    first, second = queue.enter(), queue.enter()
    assert queue.await_turn(first, _always)
    queue.begin(first)
    asked: list[int] = []
    refused = threading.Event()

    def is_alone(running: int) -> bool:
        asked.append(running)
        refused.set()
        return running == 0

    def leave_when_refused() -> None:
        assert refused.wait(WAIT_SECONDS)
        queue.leave(first)

    with threads(leave_when_refused):
        assert queue.await_turn(second, is_alone, WAIT_SECONDS)
    assert asked == [1, 0]
    assert queue.enter_if_idle() is None
    queue.leave(second)
    queue.leave(second)
    assert queue.enter_if_idle() is not None


def test_a_cancelled_ticket_waits_no_longer_and_the_one_behind_it_begins():
    queue = AdmissionQueue()
    running, cancelled, behind = queue.enter(), queue.enter(), queue.enter()
    assert queue.await_turn(running, _always)
    queue.begin(running)
    waits = threading.Event()

    def never(count: int) -> bool:
        waits.set()
        return False

    def cancel() -> None:
        assert waits.wait(WAIT_SECONDS)
        queue.cancel(cancelled)

    with threads(cancel):
        assert not queue.await_turn(cancelled, never, WAIT_SECONDS)
    queue.leave(cancelled)
    assert queue.await_turn(behind, _always, WAIT_SECONDS)


def test_a_wait_has_a_limit():
    queue = AdmissionQueue()
    queue.enter()
    assert not queue.await_turn(queue.enter(), _always, wait_seconds=0.0)

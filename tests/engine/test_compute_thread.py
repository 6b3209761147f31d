"""The compute thread: one after another, in one thread, to the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from etui.engine.compute_thread import ComputeThread
from tests.engine.batching.fakes import WAIT_SECONDS


@pytest.fixture
def compute() -> Iterator[ComputeThread]:
    compute = ComputeThread()
    yield compute
    compute.close()


def test_calls_from_all_threads_run_in_one(compute):
    found: list[int] = []

    def ask() -> None:
        for _ in range(50):
            found.append(compute.run(threading.get_ident))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(WAIT_SECONDS)
    assert len(found) == 200
    assert len({*found}) == 1
    assert threading.get_ident() not in found


def test_a_call_may_make_others(compute):
    assert compute.run(lambda: compute.run(threading.get_ident)) == compute.run(threading.get_ident)


def test_an_error_is_raised_where_the_call_was_made(compute):
    with pytest.raises(ValueError, match="batch"):
        compute.run(int, "batch")
    assert compute.run(int, "1") == 1


def test_jobs_run_in_their_order(compute):
    found: list[int] = []
    for number in range(20):
        compute.submit(lambda number=number: found.append(number))
    compute.run(lambda: None)
    assert found == list(range(20))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to one thread")
def test_ctrl_c_is_raised_when_the_call_has_ended(compute, request):
    waiting, pressed, go_on = threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    def work() -> None:
        waiting.set()
        assert go_on.wait(WAIT_SECONDS)
        seen.append("computed")

    def interrupt(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def press() -> None:
        assert waiting.wait(WAIT_SECONDS)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        assert pressed.wait(WAIT_SECONDS)
        go_on.set()

    before = signal.signal(signal.SIGUSR1, interrupt)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, before))
    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        compute.run(work)
    assert seen == ["computed"]
    pressing.join(WAIT_SECONDS)


def test_close_ends_the_thread_after_what_is_queued(compute):
    others = threading.enumerate()
    found: list[int] = []
    compute.submit(lambda: found.append(threading.get_ident()))
    compute.close()
    compute.close()
    assert len(found) == 1
    assert [each for each in threading.enumerate() if each not in others] == []
    assert compute.run(threading.get_ident) == threading.get_ident()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_a_thread_of_its_own(compute):
    compute.run(lambda: None)
    child = os.fork()
    if child == 0:
        os._exit(0 if compute.run(lambda: 7) == 7 else 1)
    assert os.waitpid(child, 0) == (child, 0)

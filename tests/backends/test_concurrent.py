"""Several answers at a time over one pipe, with a scripted engine process."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.process import ChildProcess, ProcessBackend
from etui.backends.wire import Done
from etui.chat import Message
from etui.config.config import Config
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Answer, Event, Finished, SharedBatch
from etui.models.spec import ModelSpec
from tests.backends.asker import Asker

SPEC = ModelSpec("scripted", "", ())
WAIT = 60


def request(text: str) -> AnswerRequest:
    return AnswerRequest(SPEC, Path("none"), (Message("user", text),), Arm("quick", "scripted"))


class Reader(threading.Thread):
    """Reads one answer in a thread of its own."""

    def __init__(self, answerer: Asker, text: str) -> None:
        super().__init__(daemon=True)
        self.answerer = answerer
        self.text = text
        self.events: list[Event] = []
        self.error: BaseException | None = None
        self.first = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            for event in self.answerer.answer(request(self.text)):
                self.events.append(event)
                if isinstance(event, Answer):
                    self.first.set()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.first.set()

    def wait(self) -> Finished:
        self.join(WAIT)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last


@pytest.fixture
def batches() -> queue.SimpleQueue[SharedBatch]:
    return queue.SimpleQueue()


@pytest.fixture
def backend(config: Config, batches: Any) -> Iterator[ProcessBackend]:
    backend = ProcessBackend(replace(config, parallel=4), worker="tests.backends.scripted_worker")
    backend.on_batch = batches.put
    yield backend
    backend.close()


@pytest.fixture
def asker(backend: ProcessBackend) -> Asker:
    return Asker(backend)


def drain(batches: queue.SimpleQueue[SharedBatch]) -> list[SharedBatch]:
    found = []
    while not batches.empty():
        found.append(batches.get_nowait())
    return found


def test_each_reader_gets_its_own_answer(backend, batches):
    readers = [Reader(Asker(backend, sticky=True), f"count {n}") for n in (3, 50, 7, 20, 1, 9)]
    for reader, count in zip(readers, (3, 50, 7, 20, 1, 9), strict=True):
        end = reader.wait()
        assert end.output_tokens == count
        assert "".join(e.text for e in reader.events if isinstance(e, Answer)) == end.answer
        assert len(reader.answerer.numbers) == 1
    numbers = [reader.answerer.numbers[0] for reader in readers]
    assert len(set(numbers)) == 6
    counted = [share.number for batch in drain(batches) for share in batch.shares]
    assert sorted(counted) == sorted(
        n for n, c in zip(numbers, (3, 50, 7, 20, 1, 9), strict=True) for _ in range(c)
    )


def test_a_cancel_ends_one_answer_and_no_other(backend):
    first, second = (Reader(Asker(backend, sticky=True), "hang 5") for _ in range(2))
    assert first.first.wait(WAIT)
    assert second.first.wait(WAIT)
    first.answerer.cancel()
    assert first.wait().status == "stopped"
    assert second.is_alive()
    second.answerer.hurry()
    assert second.wait().status == "complete"


def test_a_cancel_before_the_answer_ends_it_too(backend):
    answerer = Asker(backend, sticky=True)
    answerer.cancel()
    assert Reader(answerer, "hang 5").wait().status == "stopped"
    assert Reader(answerer, "hang 5").wait().status == "stopped", "and those that follow"
    assert len(answerer.numbers) == 2
    assert Reader(Asker(backend, sticky=True), "count 2").wait().status == "complete"


def test_an_error_belongs_to_its_answer(backend):
    other = Reader(Asker(backend, sticky=True), "hang 5")
    assert other.first.wait(WAIT)
    with pytest.raises(ModelUnavailable, match="no such model"):
        Reader(Asker(backend, sticky=True), "fail").wait()
    other.answerer.cancel()
    assert other.wait().status == "stopped"


def test_a_crash_ends_all_answers_and_its_time_is_theirs(backend, batches):
    other = Reader(Asker(backend, sticky=True), "hang 5")
    assert other.first.wait(WAIT)
    crashed = Reader(Asker(backend, sticky=True), "die")
    for reader in (other, crashed):
        with pytest.raises(EngineFailed, match="exited with code 7"):
            reader.wait()
    *before, last = drain(batches)
    assert {share.number for share in last.shares} == {
        *other.answerer.numbers,
        *crashed.answerer.numbers,
    }
    assert all(share.prompt_tokens == share.decode_tokens == 0 for share in last.shares)
    assert last.start_ns == before[-1].end_ns <= last.end_ns
    assert Reader(Asker(backend, sticky=True), "count 2").wait().output_tokens == 2, (
        "it is restarted"
    )


def test_a_reader_that_leaves_cancels_its_answer_alone(backend):
    other = Reader(Asker(backend, sticky=True), "hang 5")
    assert other.first.wait(WAIT)
    answer = Asker(backend, sticky=True).answer(request("hang 5"))
    assert isinstance(next(answer), Answer)
    answer.close()  # type: ignore[attr-defined]
    assert other.is_alive()
    other.answerer.cancel()
    assert other.wait().status == "stopped"


def test_answers_that_start_the_process_together_start_one(backend):
    readers = [Reader(Asker(backend, sticky=True), "count 3") for _ in range(8)]
    for reader in readers:
        assert reader.wait().output_tokens == 3
    assert sum(type(e).__name__ == "Loaded" for reader in readers for e in reader.events) == 1


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("a bug")])
def test_a_listener_that_fails_ends_no_answer(backend, error):
    def fail(_batch: SharedBatch) -> None:
        raise error

    backend.on_batch = fail
    assert Reader(Asker(backend, sticky=True), "count 3").wait().output_tokens == 3


def test_a_hang_is_told_after_its_batch_is_reported(config):
    backend = ProcessBackend(
        replace(config, parallel=4), silent_seconds=2.0, worker="tests.backends.scripted_worker"
    )
    reported: list[SharedBatch] = []

    def report_slowly(batch: SharedBatch) -> None:
        if not batch.shares[0].decode_tokens:
            ended.wait(0.5)  # whoever does not wait for the report is faster
        reported.append(batch)

    ended = threading.Event()
    backend.on_batch = report_slowly
    try:
        reader = Reader(Asker(backend, sticky=True), "hang 5")
        assert reader.first.wait(WAIT)
        assert backend.pid is not None
        os.kill(backend.pid, signal.SIGSTOP)
        with pytest.raises(EngineFailed, match="did not respond"):
            reader.wait()
        last = reported[-1]
        assert [share.number for share in last.shares] == [*reader.answerer.numbers]
        assert last.shares[0].decode_tokens == 0
    finally:
        backend.close()


class SuspendedMailbox:
    """A mailbox whose reader is suspended for a minute while it waits, and gets its reply then."""

    def __init__(self, child: ChildProcess, clock: list[float]) -> None:
        self._child = child
        self._clock = clock
        self._waits = 0

    def get(self, timeout: float) -> object:
        self._waits += 1
        if self._waits == 1:
            self._clock[0] += 60
            raise queue.Empty
        self._child._seen = self._clock[0]
        return Done(1)


def test_a_suspension_of_the_parent_is_no_silence_of_the_child(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("etui.backends.process.time.monotonic", lambda: clock[0])
    child = ChildProcess.__new__(ChildProcess)
    child._seen = child._progress = clock[0]
    child._mailboxes = {1: SuspendedMailbox(child, clock)}  # type: ignore[dict-item]
    assert child.next(1, 10, 600) == Done(1)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a heartbeat brings."""
    deadline, pause = time.monotonic() + WAIT, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.02)


def test_a_step_that_takes_long_is_named_as_long_as_its_answer_runs(backend, asker):
    assert Reader(Asker(backend), "count 2").wait().answer == "1 2 "
    assert backend.long_step is None
    stuck = Reader(asker, "stick 1 3")
    until(lambda: backend.long_step is not None)
    assert backend.long_step.name == "mask"
    assert 3 <= backend.long_step.seconds < 3 + WAIT
    assert Reader(Asker(backend), "count 2").wait().answer == "1 2 "
    asker.cancel()
    stuck.wait()
    assert backend.long_step is None


def test_a_process_whose_answers_are_silent_is_named(backend, asker):
    hanging = Reader(asker, "hang")
    assert hanging.first.wait(WAIT)
    os.kill(backend.pid, signal.SIGSTOP)
    try:
        until(lambda: backend.long_step is not None)
        assert backend.long_step.name == "engine"
    finally:
        os.kill(backend.pid, signal.SIGCONT)
    until(lambda: backend.long_step is None)
    asker.cancel()
    hanging.wait()


def test_a_mask_that_never_ends_ends_the_process_and_the_next_answer_has_a_new_one(backend, asker):
    Reader(Asker(backend), "count 2").wait()
    pid = backend.pid
    with pytest.raises(EngineFailed, match="took 11 s for a token"):
        Reader(asker, "stick 1 11").wait()
    assert Reader(Asker(backend), "count 2").wait().answer == "1 2 "
    assert backend.pid != pid


def test_closing_does_not_wait_for_a_step_that_takes_long(backend, asker, monkeypatch):
    monkeypatch.setattr("etui.backends.process.FINISH_SECONDS", WAIT)
    stuck = Reader(asker, "stick 1 3")
    until(lambda: backend.long_step is not None)
    process = backend._child.process
    backend.close()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(EngineFailed):
        stuck.wait()

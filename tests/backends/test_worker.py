"""What the engine's process writes, and when."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from etui.backends import worker as module
from etui.backends.wire import Ask, Done, EngineEvent, Heartbeat, decode
from etui.backends.worker import HOLD_SECONDS, Worker
from etui.events import Answer, Event, Prefilled


@pytest.fixture
def pipe() -> Iterator[tuple[Worker, int]]:
    """A worker, and the end of the pipe that its parent reads."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield Worker(io.BytesIO(), write), read
    os.close(read)
    os.close(write)


def came(read: int) -> list[object]:
    """Every message that is in the pipe by now."""
    try:
        return [decode(line) for line in os.read(read, 1 << 20).splitlines(keepends=True)]
    except BlockingIOError:
        return []


def told(number: int) -> EngineEvent:
    return EngineEvent(1, Answer(number, "x", 1))


def test_tokens_that_follow_each_other_cross_together_and_nothing_passes_another(
    pipe: tuple[Worker, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, read = pipe
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    worker._send(told(0), may_wait=True)
    assert came(read) == [told(0)], "the first is not held back"
    worker._send(told(1), may_wait=True)
    worker._send(told(2), may_wait=True)
    assert came(read) == []
    now += HOLD_SECONDS
    worker._send(told(3), may_wait=True)
    assert came(read) == [told(1), told(2), told(3)]
    worker._send(told(4), may_wait=True)
    worker._send(Heartbeat(7))
    assert came(read) == [told(4), Heartbeat(7)]
    worker._send(told(5), may_wait=True)
    worker._send(Done(1))
    assert came(read) == [told(5), Done(1)]


class Answers:
    """The part of a LocalBackend with one answer: a prefill and three tokens."""

    def answer(self, _request: object, _cancel: object, _number: int) -> Iterator[Event]:
        yield Prefilled(0, 1, 2, 0, 2)
        for token in range(3):
            yield Answer(token, "x", 1)


def test_the_first_token_is_sent_at_once_with_the_end_of_its_prefill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    read, write = os.pipe()
    os.set_blocking(read, False)
    seen: list[list[object]] = []
    worker = Worker(io.BytesIO(), write, pause=lambda _: seen.append(came(read)))
    worker._send(Heartbeat(7))  # what is sent next is held back, unless it must not be
    came(read)
    worker._answer(Answers(), Ask(1, None))  # type: ignore[arg-type]
    assert seen == [[EngineEvent(1, Prefilled(0, 1, 2, 0, 2)), told(0)]]
    assert came(read) == [told(1), told(2), Done(1)]
    os.close(read)
    os.close(write)

"""Lines between etui and its engine process."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui import errors
from etui.arm import Arm
from etui.backends import worker as module
from etui.backends.base import AnswerRequest
from etui.backends.wire import (
    Ask,
    Cancel,
    Done,
    EngineEvent,
    Failed,
    Heartbeat,
    Hello,
    Load,
    Unload,
    WireError,
    decode,
    encode,
)
from etui.backends.worker import HOLD_SECONDS, Worker
from etui.chat import Message
from etui.config.config import Config
from etui.events import Answer, Event, Prefilled, Unloaded
from etui.models.spec import (
    FlashAttention,
    HubSource,
    ModelSpec,
    PathSource,
    SplitMode,
    WheelPart,
    WheelsSource,
)


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


def test_tokens_that_follow_each_other_cross_together_and_nothing_passes_another(pipe, monkeypatch):
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


def test_the_first_token_is_sent_at_once_with_the_end_of_its_prefill(monkeypatch):
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


TEXT = st.text()  # surrogates left out, everything else in
EVENTS = st.one_of([st.from_type(kind) for kind in get_args(Event)])
PATHS = st.builds(lambda name: Path("/models") / name, st.sampled_from(["a.gguf", "ä b.gguf"]))
SOURCES = st.one_of(
    st.builds(HubSource, TEXT, TEXT),
    st.builds(PathSource, PATHS),
    st.builds(WheelsSource, st.lists(st.builds(WheelPart, TEXT, TEXT)).map(tuple)),
)
SPECS = st.builds(
    ModelSpec,
    name=TEXT,
    size=TEXT,
    sources=st.lists(SOURCES).map(tuple),
    flash_attention=st.sampled_from(get_args(FlashAttention)),
    split=st.sampled_from(get_args(SplitMode)),
    main_gpu=st.integers(0, 7),
    tensor_split=st.lists(st.floats(0, 10)).map(tuple),
    stop=st.lists(TEXT).map(tuple),
)
REQUESTS = st.builds(
    AnswerRequest,
    model=SPECS,
    path=PATHS,
    messages=st.lists(st.builds(Message, st.sampled_from(["user", "system"]), TEXT)).map(tuple),
    arm=st.from_type(Arm),
    chat_id=st.none() | TEXT,
)
NUMBERS = st.integers(0, 2**40)
LINES = st.one_of(
    st.builds(EngineEvent, NUMBERS, EVENTS),
    st.builds(Ask, NUMBERS, REQUESTS),
    st.builds(Load, NUMBERS, SPECS, PATHS),
    st.builds(Unload, NUMBERS, TEXT),
    st.builds(Cancel, NUMBERS),
    st.builds(Done, NUMBERS),
    st.builds(Heartbeat, NUMBERS),
    st.from_type(Unloaded),
    st.builds(Hello, TEXT, NUMBERS),
    st.builds(Config, home=PATHS, models_dir=PATHS, keymap=st.dictionaries(TEXT, TEXT)),
)


@given(LINES)
def test_a_line_comes_back_as_it_was_sent(message):
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    back = decode(line)
    assert type(back) is type(message)
    assert repr(back) == repr(message)  # repr, since nan is not equal to itself


@given(st.binary())
def test_any_line_is_understood_or_refused(line):
    try:
        decode(line)
    except WireError:
        return
    json.loads(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b'{"$":"Popen"}',
        b'{"$":"Done"}',
        b'{"$":"Done","number":1,"extra":2}',
        b"{}",
        b'{"$":"Path"}',
        b'{"$":"dict"}',
    ],
)
def test_what_is_no_message_is_refused(line):
    with pytest.raises(WireError):
        decode(line)


@pytest.mark.parametrize(
    "error",
    [
        errors.EngineFailed("it failed", "mend it"),
        errors.ModelUnavailable("damaged"),
        errors.ContextOverflow(5000, 4096, 64),
        errors.CacheFull(1024, 8),
    ],
)
def test_an_error_arrives_as_it_was_raised(error):
    arrived = decode(encode(Failed.of(3, error))).error()
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    assert arrived.exit_code == error.exit_code


def test_an_unknown_error_is_an_engine_failure():
    arrived = Failed(1, "ExitCode", {"what": "odd"}).error()
    assert type(arrived) is errors.EngineFailed
    assert arrived.what == "odd"
    assert arrived.fix == ""


def test_numbers_keep_their_type():
    assert math.isnan(decode(encode(math.nan)))
    assert repr(decode(encode(1.0))) == "1.0"

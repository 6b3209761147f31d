"""A request goes to the backend of its model; everything else is the local backend's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.dispatch import DispatchingBackend
from etui.chat import Message
from etui.errors import ModelUnavailable
from etui.models.spec import ModelSpec

LOCAL = AnswerRequest(
    ModelSpec("small", "", ()), Path("m.gguf"), (Message("user", "?"),), Arm("a", "small")
)
REMOTE = replace(LOCAL, model=ModelSpec("big", "", (), backend="desk"), path=None)


class Fake:
    """A backend that notes what is called."""

    def __init__(self, name: str, *, remote: bool = False) -> None:
        self.name = name
        self.calls: list[str] = []
        self.on_batch: Any = None
        self.on_unloaded: Any = None
        self.pid = 7
        self.numbers = (1,)
        self.last_energy = {"joules": 1.0} if remote else None

    def answer(self, request: AnswerRequest) -> Iterator[Any]:
        self.calls.append("answer")
        yield self.name

    def open_answerer(self) -> Fake:
        return self

    def load(self, model: Any, path: Any, draft: Any = None) -> Iterator[Any]:
        self.calls.append("load")
        yield self.name
        return "session"

    def unload(self, model: str) -> Iterator[Any]:
        return iter([self.name])

    def __getattr__(self, name: str) -> Any:
        if name not in ("cancel", "hurry", "close", "forget"):
            raise AttributeError(name)
        return lambda: self.calls.append(name)


def finish(loading: Any) -> Any:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(loading)
        except StopIteration as end:
            return end.value


class Opened:
    def __init__(self) -> None:
        self.local, self.remote = Fake("here"), Fake("desk", remote=True)
        self.times = 0
        self.backend: DispatchingBackend[Any] = DispatchingBackend(
            self.open,
            {"desk": self.remote},  # type: ignore[dict-item]
        )

    def open(self) -> Fake:
        self.times += 1
        return self.local


def test_each_model_is_answered_where_it_is() -> None:
    opened = Opened()
    assert list(opened.backend.answer(REMOTE)) == ["desk"]
    assert opened.times == 0, "a machine that only asks others starts no engine"
    assert list(opened.backend.answer(LOCAL)) == ["here"]
    assert opened.times == 1
    with pytest.raises(ModelUnavailable, match="no backend 'attic'"):
        list(opened.backend.answer(replace(REMOTE, model=replace(REMOTE.model, backend="attic"))))


def test_cancel_and_hurry_reach_who_answers() -> None:
    opened = Opened()
    opened.backend.cancel()  # nothing runs
    list(opened.backend.answer(REMOTE))
    opened.backend.cancel()
    opened.backend.hurry()
    list(opened.backend.answer(LOCAL))
    opened.backend.hurry()
    assert opened.remote.calls == ["answer", "cancel", "hurry"]
    assert opened.local.calls == ["answer", "hurry"]


def test_an_answerer_of_a_turn_goes_wherever_its_hops_go() -> None:
    opened = Opened()
    answerer = opened.backend.open_answerer()
    assert answerer.numbers == ()
    answerer.cancel()
    assert list(answerer.answer(REMOTE)) == ["desk"]
    assert answerer.numbers == (), "a remote answer is in no batch of this machine"
    assert answerer.last_energy == {"joules": 1.0}  # type: ignore[attr-defined]
    assert list(answerer.answer(LOCAL)) == ["here"]
    answerer.cancel()
    assert answerer.numbers == (1,)
    assert opened.local.calls == ["answer", "cancel"]


def test_what_only_a_local_backend_has() -> None:
    opened = Opened()
    assert opened.backend.pid == 7
    opened.backend.on_batch = print
    opened.backend.on_unloaded = print
    assert opened.local.on_batch is opened.backend.on_batch is print
    assert opened.local.on_unloaded is opened.backend.on_unloaded is print
    with pytest.raises(AttributeError):
        _ = opened.backend.nothing


def test_loads_and_closing() -> None:
    opened = Opened()
    assert list(opened.backend.unload("small")) == []
    opened.backend.forget()
    assert opened.times == 0
    assert finish(opened.backend.load(LOCAL.model, LOCAL.path)) == "session", "a bench needs it"
    list(opened.backend.load(REMOTE.model, None))
    assert list(opened.backend.unload("small")) == ["here"]
    opened.backend.forget()
    opened.backend.close()
    assert opened.local.calls == ["load", "forget", "close"]
    assert opened.remote.calls == ["load", "close"]

"""Models of a fake llama.cpp for a LocalBackend, one in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.chat import Message
from etui.engine.offload import Placement
from etui.engine.residency import Residency, _Resident
from etui.engine.session_loader import session_key
from etui.events import Event, Finished, Loaded
from etui.models.gguf import Gguf
from etui.models.spec import ModelSpec
from tests.engine.batching.fakes import SteppedContext, make_session

PATH = Path("model.gguf")
FIRST, SECOND = ModelSpec("first", "1M", ()), ModelSpec("second", "1M", ())


class FakeResidency(Residency):
    """Residency in which one model of a fake llama.cpp fits at a time.

    Attributes:
        contexts: The last context of each model.
        before_load: Called with the name of a model before its load.
        after_load: Called with the name and the context of a model after its load.
        context_tokens: Cells of the contexts.
    """

    contexts: dict[str, SteppedContext]
    before_load: Callable[[str], None]
    after_load: Callable[[str, SteppedContext], None]
    context_tokens: int

    def session(self, spec: ModelSpec, path: Path, draft: Any = None) -> Any:
        if (resident := self._find(spec, path, draft)) is not None:
            return resident.session
        start_ns = time.monotonic_ns()
        for name in list(self._residents):
            yield self._unload(name, "room")
            start_ns = time.monotonic_ns()
        self.before_load(spec.name)
        session, context = make_session(context_tokens=self.context_tokens)
        context.capacity = self.context_tokens
        self.contexts[spec.name] = context
        self.after_load(spec.name, context)
        key = session_key(spec, path)
        gguf = Gguf(path, 3, 1, {}, ())
        self._residents[spec.name] = _Resident(
            session, key, None, None, 1, gguf, Placement(), self._clock()
        )
        yield Loaded(spec.name, start_ns, time.monotonic_ns(), 0, 1)
        return session


def fake_residency(monkeypatch: pytest.MonkeyPatch) -> type[FakeResidency]:
    """Let backends that are made from now on use models of a fake llama.cpp."""

    class Own(FakeResidency):
        contexts: dict[str, SteppedContext] = {}  # noqa: RUF012 - of this test alone
        before_load = staticmethod(lambda name: None)
        after_load = staticmethod(lambda name, context: None)
        context_tokens = 2048

    monkeypatch.setattr("etui.engine.residency.Residency", Own)
    return Own


def request(text: str, spec: ModelSpec = FIRST, **changes: Any) -> AnswerRequest:
    arm = Arm("direct", spec.name, max_tokens=changes.pop("max_tokens", 30))
    return AnswerRequest(spec, PATH, (Message("user", text),), changes.pop("arm", arm), **changes)


def finished(events: list[Event]) -> Finished:
    """The last event, and the only one of its kind."""
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    return events[-1]

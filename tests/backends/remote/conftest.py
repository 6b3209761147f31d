"""Fixtures of remote backends: a stub server, and a backend that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.remote._client import RemoteClient
from etui.backends.remote.backend import RemoteBackend
from etui.chat import Message, OutputOptions
from etui.config.backend_spec import BackendSpec
from etui.events import Event, Finished
from etui.models.spec import ModelSpec
from tests.backends.remote.stub import Stub, running_stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as server:
        yield server


Open = Callable[..., RemoteBackend]


@pytest.fixture
def waits() -> list[float]:
    """The waits before further tries; none is waited for."""
    return []


@pytest.fixture
def open_backend(stub: Stub, waits: list[float]) -> Iterator[Open]:
    """``open_backend("vllm", retries=1)``: a backend that asks the stub."""
    opened: list[RemoteBackend] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    def build(kind: Any = "openai", *, environ: Any = None, most: int = 100_000,
              url: str | None = None, **settings: Any) -> RemoteBackend:  # fmt: skip
        spec = BackendSpec("desk", url or stub.url, kind, **settings)

        def build_client(spec: BackendSpec, key: str | None) -> RemoteClient:
            return RemoteClient(spec, key, sleep=sleep, most_line_bytes=most)

        backend = RemoteBackend(spec, environ=environ or {}, build_client=build_client)
        opened.append(backend)
        return backend

    yield build
    for backend in opened:
        backend.close()


def ask(
    text: str = "What is 2+2?",
    arm: Arm | None = None,
    *,
    options: OutputOptions | None = None,
    **spec: Any,
) -> AnswerRequest:
    """Build a request to a model of the backend ``desk``."""
    model = ModelSpec("big@desk", "", (), backend="desk", remote_name="big", **spec)
    return AnswerRequest(
        model,
        None,
        (Message("user", text),),
        arm or Arm("direct", "big@desk"),
        options=options or OutputOptions(),
    )


def finished(events: list[Event]) -> Finished:
    """Return the last event, which has to be ``Finished``, and the only one."""
    assert [type(event) for event in events].count(Finished) == 1
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.start_ns <= last.prefill_end_ns <= last.thinking_end_ns <= last.end_ns
    assert last.prompt_tokens == last.cached_tokens + last.computed_tokens
    assert 0 <= last.thinking_tokens <= last.output_tokens
    return last

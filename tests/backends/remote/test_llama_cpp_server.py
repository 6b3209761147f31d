"""A real server of another project, llama_cpp.server, as a remote backend with the starter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from etui.arm import Arm, Sampling, VoteStop
from etui.backends.base import AnswerRequest
from etui.backends.remote.backend import RemoteBackend
from etui.chat import Message
from etui.config.backend_spec import BackendSpec
from etui.events import Answer, Event, Prefilled, Thought, Vote
from etui.models.spec import ModelSpec
from tests.backends.asker import Asker
from tests.backends.remote.conftest import finished
from tests.support.ports import find_free_port

pytestmark = pytest.mark.slow

pytest.importorskip("fastapi")
pytest.importorskip("sse_starlette")
pytest.importorskip("starlette_context")
pytest.importorskip("pydantic_settings")

READY_SECONDS = 120.0


@pytest.fixture(scope="module")
def server(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the server."""
    port = find_free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = {
        "model": starter_model, "model_alias": "starter", "host": "127.0.0.1", "port": port,
        "n_threads": 1, "n_threads_batch": 1, "n_ctx": 1024, "interrupt_requests": "false",
    }  # fmt: skip
    command = [sys.executable, "-m", "llama_cpp.server"]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_until_ready(f"{url}/models", process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until the server answers; there is nothing else to wait for."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the server has ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5.0):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    pytest.fail("the server did not get ready")


@pytest.fixture
def backend(server: str) -> Iterator[RemoteBackend]:
    opened = RemoteBackend(BackendSpec("desk", server))
    yield opened
    opened.close()


def ask(text: str, arm: Arm) -> AnswerRequest:
    model = ModelSpec("s", "", (), backend="desk", remote_name="starter")
    return AnswerRequest(model, None, (Message("user", text),), arm)


def test_it_serves_its_model(backend):
    status = backend.describe()
    assert status.models == ("starter",)
    assert status.problem == ""
    backend.check_serves(ask("", Arm("d", "s")).model)


def test_a_greedy_answer_is_the_same_again(backend):
    arm = Arm("d", "s", max_tokens=8)
    answers = []
    for _ in range(2):
        events = list(backend.answer(ask("What is the capital of France?", arm)))
        end = finished(events)
        assert end.status == "truncated"
        assert end.output_tokens == 8
        assert sum(e.tokens for e in events if isinstance(e, Answer)) == 8
        assert "".join(e.text for e in events if isinstance(e, Answer)).strip() == end.answer
        assert isinstance(events[0], Prefilled)
        answers.append(end.answer)
    assert answers[0] == answers[1]
    assert answers[0]


def test_thinking_within_a_budget_is_followed_by_an_answer(backend):
    arm = Arm("t", "s", "cot", think_tokens=6, max_tokens=6)
    events = list(backend.answer(ask("What is 17 + 25?", arm)))
    end = finished(events)
    assert end.thinking
    assert end.answer
    assert 0 < end.thinking_tokens <= 7
    assert any(isinstance(event, Thought) for event in events)


def test_votes_agree_or_not(backend):
    sampling = Sampling(temperature=0.7, top_k=40, seed=3)
    arm = Arm("v", "s", "vote", think_tokens=0, max_tokens=4, votes=3, batch=1,
              stop=VoteStop("all"), sampling=sampling)  # fmt: skip
    events = list(backend.answer(ask("What is 2 + 2?", arm)))
    finished(events)
    assert sorted(e.index for e in events if isinstance(e, Vote)) == [0, 1, 2]


def test_a_cancel_leaves_the_server_free_for_the_next_answer(backend):
    arm = Arm("d", "s", max_tokens=600)
    answerer = Asker(backend)
    events: list[Event] = []
    for event in answerer.answer(ask("Count from one to a thousand.", arm)):
        events.append(event)
        if isinstance(event, Answer):
            answerer.cancel()
    end = finished(events)
    assert end.status == "stopped"
    assert end.output_tokens < 600
    short = Arm("d", "s", max_tokens=2)
    assert finished(list(backend.answer(ask("Hello", short)))).output_tokens == 2

"""All computing of a process is done by one team of threads, whoever asks for it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm, Sampling
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message
from etui.config.config import Config
from etui.engine.context import Context
from etui.engine.llama_session import LlamaSession
from etui.events import Finished
from etui.models.spec import ModelSpec
from tests.engine.batching.fakes import WAIT_SECONDS, threads

TEAM = 2
LARGE = ModelSpec("large", "135M", (), context=512, draft="small", threads=TEAM)
SMALL = ModelSpec("small", "135M", (), context=512, threads=TEAM)
DIRECT = Arm("direct", "large", max_tokens=6)
VOTES = Arm("votes", "large", reasoning="vote", votes=4, batch=4, think_tokens=0, max_tokens=6)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts the tasks of a process")


def count_native_threads() -> int:
    """Count the threads that Python did not start."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The thread of each batch, and the threads that Python did not start, right after it."""
    found: list[tuple[int, int]] = []
    decode = Context.decode

    def watched(context: Context) -> int:
        code = decode(context)
        found.append((threading.get_ident(), count_native_threads()))
        return code

    monkeypatch.setattr(Context, "decode", watched)
    return found


def finish(loading: Generator[object, None, LlamaSession]) -> LlamaSession:
    """The session that a load returns."""
    while True:
        try:
            next(loading)
        except StopIteration as end:
            session: LlamaSession = end.value
            return session


def test_one_team_computes_for_all_threads_of_a_process(
    tmp_path: Path, starter_model: Path, computing: list[tuple[int, int]]
) -> None:
    config = Config(home=tmp_path, models_dir=starter_model.parent)
    ended = threading.Event()
    left = threading.Semaphore(0)

    def ask(spec: ModelSpec, arm: Arm, owner: str, text: str) -> Callable[[], None]:
        def run() -> None:
            draft = (SMALL, starter_model) if arm.speculate == "draft" else None
            request = AnswerRequest(
                spec, starter_model, (Message("user", text),), arm, owner=owner, draft=draft
            )
            *_, last = backend.answer(request)
            assert isinstance(last, Finished)
            left.release()
            assert ended.wait(WAIT_SECONDS)  # its team would end with it

        return run

    works = (
        [ask(LARGE, replace(DIRECT, speculate="draft"), "", "Count from one to ten.")],
        [ask(LARGE, VOTES, "", "Is the sea blue?")],
        [
            ask(LARGE, DIRECT, "anna", "What is a whale? " * 20),
            ask(LARGE, DIRECT, "bert", "What is a lamp? " * 20),
        ],
        [ask(SMALL, replace(DIRECT, model="small"), "", "What is a bell?")],
    )
    with closing(LocalBackend(replace(config, parallel=2))) as backend:
        loading = backend.load(LARGE, starter_model, (SMALL, starter_model))
        session = finish(loading)
        native = count_native_threads()
        sequence = session.open([1, 2, 3], Sampling(temperature=0))
        session.step([sequence])
        session.close(sequence, keep=False)
        try:
            with threads(*(work for together in works for work in together)):
                for _ in range(sum(map(len, works))):
                    assert left.acquire(timeout=WAIT_SECONDS)
                ended.set()
        finally:
            ended.set()
        idents = {ident for ident, _ in computing}
        assert len(idents) == 1, "several threads compute"
        assert threading.get_ident() not in idents
        assert max(count for _, count in computing) - native <= TEAM - 1, "several teams compute"
    assert not any(thread.ident in idents for thread in threading.enumerate())

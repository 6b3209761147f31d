"""The app's service with the real engine process: it ends with its last model and comes back."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil

from etui.chat import Query
from etui.config.config import Config
from etui.energy.idle import IdleTracker
from etui.log.queries import LogReader
from etui.models.spec import STARTER
from etui.runtime.routes import Route
from etui.runtime.runtime import open_process_runtime
from etui.runtime.service import TurnService
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord

WAIT_SECONDS = 120.0
"""Only a guard against hangs."""


def ask(service: TurnService) -> TurnRecord:
    *_, last = service.run(Query("Say yes.", chat_id="c"), Route("balanced", STARTER))
    assert isinstance(last, TurnFinished)
    return last.record


def test_the_process_ends_by_itself_and_the_next_question_starts_another(
    config: Config, tiny_starter: Path
) -> None:
    config = replace(config, models_dir=tiny_starter.parent, threads=1)
    runtime = open_process_runtime(config)
    cooling: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    tracker = IdleTracker(runtime.recorder, config)
    service = TurnService(runtime, tracker, lambda _seconds, call: cooling.put(call))
    with closing(service):
        assert ask(service).status == "complete"
        first = runtime.backend.pid
        assert first is not None
        runtime.backend.keep_warm(STARTER, 0.01)
        cooling.get(timeout=WAIT_SECONDS)  # the wait after the end of the process has begun
        assert runtime.backend.pid is None
        assert not psutil.pid_exists(first)
        assert service.residents() == ()
        again = ask(service)
        assert (again.status, again.error) == ("complete", None)
        second = runtime.backend.pid
        assert second not in (None, first)
        service.unload(STARTER)
        assert runtime.backend.pid is None
    with LogReader(config) as log:
        assert [unload.reason for unload in log.unloads()] == ["asked", "idle"]
        assert len(log.loads()) == 2

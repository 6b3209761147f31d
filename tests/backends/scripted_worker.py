"""An engine process whose answers follow the words of the question, without llama.cpp.

``count N`` decodes N tokens, ``hang`` waits for its cancellation or a spent budget, ``die`` ends
the process in the middle, ``fail`` raises, ``stick 1 S`` says that the mask of its token has taken
S seconds. Each token is a shared batch of all answers that run.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etui.backends.base import AnswerRequest, Cancel
from etui.backends.worker import Worker
from etui.config.config import Config
from etui.errors import ModelUnavailable
from etui.events import Answer, BatchShare, Event, Finished, Loaded, SharedBatch


class ScriptedEngine:
    """The part of a LocalBackend that a worker uses."""

    def __init__(self, config: Config) -> None:
        self.on_batch: Callable[[SharedBatch], None] | None = None
        self.loaded = False
        self.loading = threading.Lock()
        self.step: tuple[str, float] | None = None

    def unload_idle(self) -> tuple[Any, ...]:
        return ()

    def longest_step(self) -> tuple[str, float] | None:
        return self.step

    def seconds_to_unload(self) -> None:
        return None

    def answer(self, request: AnswerRequest, cancel: Cancel, number: int) -> Iterator[Event]:
        hurried = threading.Event()
        cancel.listen(hurried.set, hurried.set)
        verb, *rest = request.messages[-1].content.split()
        with self.loading:
            if not self.loaded:
                self.loaded = True
                now = time.monotonic_ns()
                yield Loaded(request.model.name, now, now, 0, 1)
        start_ns = time.monotonic_ns()
        if verb == "fail":
            raise ModelUnavailable("no such model", "get one")
        tokens = 0
        for tokens in range(1, int(rest[0]) + 1 if rest else 2):
            if cancel.cancelled():
                break
            now = time.monotonic_ns()
            if self.on_batch is not None:
                share = BatchShare(number, 0, 1)
                self.on_batch(SharedBatch(request.model.name, start_ns, now, (share,)))
            yield Answer(now, f"{tokens} ", 1)
            if verb == "hang":
                assert hurried.wait(60)
            if verb == "stick":
                self.step = "mask", float(rest[1])
                assert hurried.wait(60)
            if verb == "die":
                os._exit(7)
        now = time.monotonic_ns()
        status = "stopped" if cancel.cancelled() else "complete"
        text = "".join(f"{token} " for token in range(1, tokens + 1))
        yield Finished(
            start_ns, start_ns, start_ns, now, now, status, "", text, "", 1, 0, 1, 0, tokens
        )


if __name__ == "__main__":
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(sys.stdin.buffer, replies, ScriptedEngine).run()  # type: ignore[arg-type]

"""Run the engine in a child process, so that a crash or a hang does not end etui.

Several requests may be answered at a time, each through an answerer of its own; the process
computes as many of them together as ``Config.parallel`` says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from etui.backends.child_process import HANDSHAKE, ChildProcess
from etui.backends.wire import (
    Ask,
    Cancel,
    Done,
    EngineEvent,
    Failed,
    Hello,
    Hurry,
    KeepWarm,
    Load,
    Unload,
)
from etui.errors import EngineFailed
from etui.events import Event, Loaded, Residence, SharedBatch, Unloaded

if TYPE_CHECKING:
    from pathlib import Path

    from etui.backends.base import AnswerRequest
    from etui.config.config import Config
    from etui.models.spec import ModelSpec

START_SECONDS = 30.0
SILENT_SECONDS = 10.0
"""Maximum silence of a living child, which sends a heartbeat twice a second."""

STALLED_SECONDS = 600.0
"""Maximum time without an event: a load from a slow disk, a batch of a very large model."""


class ProcessBackend:
    """Backend in a child process, which is started on first use and restarted after a failure.

    ``answer``, ``cancel`` and ``hurry`` are those of one answerer that is used again and again:
    for front ends that answer one question at a time.

    Args:
        config: Configuration, sent to the child.
        silent_seconds: Silence after which the child counts as hung and is killed.
        stalled_seconds: Time without any progress of the child after which it is killed.
        worker: The module that runs in the child; another one for tests and benchmarks.

    Attributes:
        on_unloaded: Called after an idle unload, on the thread that reads the pipe: it must not
            wait for an answer.
        on_batch: Called there with each batch of ``Config.parallel`` > 1; None ignores them.
    """

    def __init__(
        self,
        config: Config,
        *,
        silent_seconds: float = SILENT_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
        worker: str = "etui.backends.worker",
    ) -> None:
        self._config = config
        self._worker = worker
        self._silent_seconds = silent_seconds
        self._stalled_seconds = stalled_seconds
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._child: ChildProcess | None = None
        self._number = HANDSHAKE
        self._own = ProcessAnswerer(self, reused=True)
        self.on_unloaded: Callable[[Unloaded], None] | None = None
        self.on_batch: Callable[[SharedBatch], None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if it is not running."""
        child = self._child
        return child.process.pid if child is not None and child.alive else None

    def start(self) -> None:
        """Start the child and wait for its handshake, unless it is running.

        Raises:
            EngineFailed: It died, or did not respond in time.
        """
        self._get_child()

    def _get_child(self) -> ChildProcess:
        with self._starting:
            child = self._child
            if child is not None and child.responds(self._silent_seconds):
                return child
            if child is not None:
                child.stop()
            child = self._child = ChildProcess(
                self._config, self._unloaded, self._batch_computed, self._worker
            )
            hello = child.next(HANDSHAKE, START_SECONDS, START_SECONDS)
            if not isinstance(hello, Hello):
                why = hello if isinstance(hello, str) else f"sent no handshake but {hello!r}"
                raise _build_failure(child, why)
            return child

    def open_answerer(self) -> ProcessAnswerer:
        """Return an answerer for the requests of one turn."""
        return ProcessAnswerer(self)

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request; closing the iterator cancels the answer.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            EtuiError: An error of the engine, with its original class.
            EngineFailed: The process died or hung; it is restarted for the next answer.
        """
        return self._own.answer(request)

    def cancel(self) -> None:
        """End the running answer within one batch; its ``Finished`` still follows."""
        self._own.cancel()

    def hurry(self) -> None:
        """End the thinking of the running answer, because its joules are spent."""
        self._own.hurry()

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Iterator[Residence]:
        """Load a model before a question is asked; the load runs while the iterator is read.

        Args:
            draft: The model that drafts tokens for it, and its file; None if none is needed.

        Yields:
            The models unloaded for room, and the load; nothing if the model is in memory.

        Raises:
            EtuiError: As ``answer``.
        """
        for event in self.request(lambda number: Load(number, model, path, draft)):
            if isinstance(event, Residence):
                yield event

    def unload(self, model: str) -> Iterator[Residence]:
        """Unload a model between two answers.

        Yields:
            The unload; nothing if the model is not in memory.

        Raises:
            EngineFailed: As ``answer``.
        """
        if self.pid is None:
            return  # without a process nothing is loaded
        for event in self.request(lambda number: Unload(number, model)):
            if isinstance(event, Residence):
                yield event

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Set how long a model is kept after its last answer.

        A new child starts without these times, so set them after each load and answer.

        Args:
            seconds: The time; None keeps it until another model needs the memory.
        """
        child = self._child
        if child is not None:
            child.send(KeepWarm(model, seconds))

    def request(
        self,
        build_message: Callable[[int], Ask | Load | Unload],
        on_begin: Callable[[ChildProcess, int], None] = lambda child, number: None,
    ) -> Iterator[Event]:
        """Send a request and yield the events that answer it; closing the iterator cancels it.

        Args:
            on_begin: Called with the process and the number after the request was sent.

        Raises:
            EtuiError: As ``answer``.
        """
        pid, began_ns = self.pid, time.monotonic_ns()
        child = self._get_child()
        is_new = child.process.pid != pid
        with self._counting:
            self._number += 1
            number = self._number
        is_running = True
        child.begin(build_message(number))
        try:
            on_begin(child, number)
            while True:
                message = child.next(number, self._silent_seconds, self._stalled_seconds)
                if isinstance(message, str):
                    raise _build_failure(child, message)
                if isinstance(message, EngineEvent):
                    event = message.event
                    if is_new and isinstance(event, Loaded):  # its start is a part of the load
                        event = replace(event, start_ns=min(began_ns, event.start_ns))
                    yield event
                elif isinstance(message, Failed):
                    is_running = False
                    raise message.error()
                elif isinstance(message, Done):
                    is_running = False
                    return
        finally:
            if is_running:  # the iterator was closed, or the child died
                child.send(Cancel(number))
            child.end(number)

    def _unloaded(self, event: Unloaded) -> None:
        if self.on_unloaded is not None:
            self.on_unloaded(event)

    def _batch_computed(self, batch: SharedBatch) -> None:
        if self.on_batch is not None:
            self.on_batch(batch)

    def close(self) -> None:
        """End the child; all of its memory is free when this returns.

        The next request starts another one.
        """
        child, self._child = self._child, None
        if child is not None:
            child.stop()


class ProcessAnswerer:
    """Answers the requests of one turn in the child process, one at a time.

    Args:
        reused: Whether turn after turn uses it, so that a cancel ends the running answer only.
            Without it, a cancel also ends the answers that begin later.
    """

    def __init__(self, backend: ProcessBackend, *, reused: bool = False) -> None:
        self._backend = backend
        self._reused = reused
        self._lock = threading.Lock()
        self._running: tuple[ChildProcess, int] | None = None
        self._numbers: tuple[int, ...] = ()
        self._cancelled = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its answers so far, oldest first; shared batches name them."""
        return self._numbers

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request; closing the iterator cancels the answer.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            EtuiError: An error of the engine, with its original class.
            EngineFailed: The process died or hung; it is restarted for the next answer.
        """
        try:
            yield from self._backend.request(lambda number: Ask(number, request), self._begin)
        finally:
            with self._lock:
                self._running = None

    def _begin(self, child: ChildProcess, number: int) -> None:
        with self._lock:
            self._running = child, number
            self._numbers = (number,) if self._reused else (*self._numbers, number)
            if self._cancelled:
                child.send(Cancel(number))

    def cancel(self) -> None:
        """End the running answer within one batch; its ``Finished`` still follows."""
        with self._lock:
            self._cancelled = not self._reused
            running = self._running
        if running is not None:
            child, number = running
            child.send(Cancel(number))

    def hurry(self) -> None:
        """End the thinking of the running answer, because its joules are spent."""
        with self._lock:
            running = self._running
        if running is not None:
            child, number = running
            child.send(Hurry(number))


def _build_failure(child: ChildProcess, why: str) -> EngineFailed:
    with suppress(OSError):
        child.stop(why)
    tail = child.log_tail()
    log_end = f"; end of its log: {tail}" if tail else ""
    return EngineFailed(
        f"the engine process {why}{log_end}",
        "ask again: it is restarted; if a model fails each time, lower its `context` or "
        "`gpu_layers` in models.yaml",
    )

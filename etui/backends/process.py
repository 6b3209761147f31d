"""Run the engine in a child process, so that a crash or a hang does not end the app.

The process is started with ``subprocess``: ``multiprocessing`` cannot start inside a running
Textual app, whose standard error has no file descriptor.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    WireError,
    decode,
    encode,
)
from etui.errors import EngineFailed
from etui.events import Event, Loaded, Residence, Unloaded

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

CATCH_UP_SECONDS = 1.0
"""Minimum wait for a message: after a suspension of this process, the pipe has to be read first."""

_LOG_LINES = 3
_LOG_BYTES = 4_000_000


class ProcessBackend:
    """Backend in a child process, which is started on first use and restarted after a failure.

    ``answer`` runs in one thread at a time; ``cancel`` may be called from any thread.

    Args:
        config: Configuration, sent to the child.
        silent_seconds: Silence after which the child counts as hung and is killed.
        stalled_seconds: Time without an event of the running answer after which it is killed.

    Attributes:
        on_unloaded: Called after an idle unload, on the thread that reads the pipe: it must not
            wait for an answer.
    """

    def __init__(
        self,
        config: Config,
        *,
        silent_seconds: float = SILENT_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self._config = config
        self._silent_seconds = silent_seconds
        self._stalled_seconds = stalled_seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._number = 0
        self._running: int | None = None
        self.on_unloaded: Callable[[Unloaded], None] | None = None

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
        if self._child is not None and self._child.responds(self._silent_seconds):
            return
        if self._child is not None:
            self._child.stop()
        self._child = _Child(self._config, self._unloaded)
        hello = self._child.next(START_SECONDS, START_SECONDS)
        if not isinstance(hello, Hello):
            why = hello if isinstance(hello, str) else f"sent no handshake but {hello!r}"
            raise self._build_failure(self._child, why)

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request; closing the iterator cancels the answer.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            EtuiError: An error of the engine, with its original class.
            EngineFailed: The process died or hung; it is restarted for the next answer.
        """
        yield from self._request(lambda number: Ask(number, request))

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Iterator[Residence]:
        """Load a model before a question is asked; the load runs while the iterator is read.

        Args:
            model: The model.
            path: Its file.
            draft: The model that drafts tokens for it, and its file; None if none is needed.

        Yields:
            The models unloaded for room, and the load; nothing if the model is in memory.

        Raises:
            EtuiError: As ``answer``.
        """
        for event in self._request(lambda number: Load(number, model, path, draft)):
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
        for event in self._request(lambda number: Unload(number, model)):
            if isinstance(event, Residence):
                yield event

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Set how long a model is kept after its last answer.

        A new child starts without these times, so set them after each load and answer.

        Args:
            model: Name of the model.
            seconds: The time; None keeps it until another model needs the memory.
        """
        child = self._child
        if child is not None:
            child.send(KeepWarm(model, seconds))

    def _request(self, build_message: Callable[[int], Ask | Load | Unload]) -> Iterator[Event]:
        """Send a message and yield the events that answer it."""
        pid, began_ns = self.pid, time.monotonic_ns()
        self.start()
        child = self._child
        assert child is not None
        is_new = child.process.pid != pid
        with self._lock:
            self._number += 1
            number = self._running = self._number
        try:
            child.send(build_message(number))
            while True:
                message = child.next(self._silent_seconds, self._stalled_seconds)
                if isinstance(message, str):
                    raise self._build_failure(child, message)
                if getattr(message, "number", None) != number:
                    continue  # from an abandoned answer
                if isinstance(message, EngineEvent):
                    event = message.event
                    if is_new and isinstance(event, Loaded):  # its start is a part of the load
                        event = replace(event, start_ns=min(began_ns, event.start_ns))
                    yield event
                elif isinstance(message, Failed):
                    number = 0
                    raise message.error()
                elif isinstance(message, Done):
                    number = 0
                    return
        finally:
            if number:  # the iterator was closed, or the child died
                child.send(Cancel(number))
            with self._lock:
                self._running = None

    def cancel(self) -> None:
        """End the running answer within one batch; its ``Finished`` still follows."""
        self._send_to_running(Cancel)

    def hurry(self) -> None:
        """End the thinking of the running answer, because its joules are spent."""
        self._send_to_running(Hurry)

    def _send_to_running(self, message: type[Cancel] | type[Hurry]) -> None:
        with self._lock:
            child, number = self._child, self._running
        if child is not None and number is not None:
            child.send(message(number))

    def _unloaded(self, event: Unloaded) -> None:
        if self.on_unloaded is not None:
            self.on_unloaded(event)

    def close(self) -> None:
        """End the child; all of its memory is free when this returns.

        The next request starts another one.
        """
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def _build_failure(self, child: _Child, why: str) -> EngineFailed:
        child.stop()
        tail = child.log_tail()
        log_end = f"; end of its log: {tail}" if tail else ""
        return EngineFailed(
            f"the engine process {why}{log_end}",
            "ask again: it is restarted; if a model fails each time, lower its `context` or "
            "`gpu_layers` in models.yaml",
        )


class _Child:
    """One child process, with its pipes and the thread that reads them."""

    def __init__(self, config: Config, unloaded: Callable[[Unloaded], None]) -> None:
        self._unloaded = unloaded
        config.log_dir.mkdir(parents=True, exist_ok=True)
        self._log = config.log_dir / "engine.log"
        self._log_start = _trim(self._log)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "etui.backends.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in the terminal is handled by the parent
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._seen = time.monotonic()
        self._writing = threading.Lock()
        self._stopped = False
        threading.Thread(target=self._read, name="engine events", daemon=True).start()
        self.send(config)

    @property
    def alive(self) -> bool:
        return not self._stopped and self.process.poll() is None

    def responds(self, silent_seconds: float) -> bool:
        """Return whether it is alive and has sent something recently."""
        return self.alive and time.monotonic() - self._seen < silent_seconds

    def send(self, message: object) -> None:
        """Write one line; the death of the child is detected when reading."""
        assert self.process.stdin is not None
        line = memoryview(encode(message))
        with self._writing, contextlib.suppress(OSError, ValueError):
            while line:
                line = line[self.process.stdin.write(line) :]

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            reader = os.fdopen(os.dup(self.process.stdout.fileno()), "rb")
            with reader:
                for line in reader:
                    self._seen = time.monotonic()
                    try:
                        message = decode(line)
                    except WireError as error:
                        self._messages.put(f"sent an invalid message: {error}")
                        continue
                    if isinstance(message, Unloaded):
                        self._unloaded(message)
                    elif hasattr(message, "number") or isinstance(message, Hello):
                        self._messages.put(message)
        self._messages.put("ended")

    def next(self, silent_seconds: float, stalled_seconds: float) -> Any:
        """Return the next message, or a text that says why there is none."""
        started = time.monotonic()
        while True:
            now = time.monotonic()
            left = min(self._seen + silent_seconds, started + stalled_seconds) - now
            try:
                message = self._messages.get(timeout=max(left, CATCH_UP_SECONDS))
            except queue.Empty:
                now = time.monotonic()
                if now - self._seen >= silent_seconds:
                    return f"did not respond for {silent_seconds:g} s and was stopped"
                if now - started >= stalled_seconds:
                    return f"made no progress for {stalled_seconds:g} s and was stopped"
                continue
            return self._describe_exit() if message == "ended" else message

    def _describe_exit(self) -> str:
        code = self.process.wait()
        if code < 0:
            named = [known.name for known in signal.Signals if known == -code]
            return f"was killed by {named[0] if named else f'signal {-code}'}"
        return f"exited with code {code}"

    def stop(self) -> None:
        """Kill the process and close the pipes."""
        if self._stopped:
            return
        self._stopped = True
        self.process.kill()  # it has no state to save
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def log_tail(self) -> str:
        """Return the last lines that this process wrote to its log."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_start, self._log.stat().st_size - 8192))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return " | ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:])


def _trim(log: Path) -> int:
    """Empty a log that has grown too large, and return the offset of the next line."""
    try:
        size = log.stat().st_size
        if size > _LOG_BYTES:
            os.truncate(log, 0)
            return 0
        return size
    except OSError:
        return 0

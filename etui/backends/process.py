"""The engine in a process of its own, so that a crash, a hang or a full GPU takes no screen down.

The process is started by ``subprocess``: ``multiprocessing`` cannot start inside a running Textual
app, whose standard error has no file descriptor.
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
from typing import TYPE_CHECKING, Any

from etui.backends.wire import (
    Ask,
    Cancel,
    Done,
    EngineEvent,
    Failed,
    Hello,
    Hurry,
    Load,
    Unload,
    WireError,
    decode,
    encode,
)
from etui.errors import EngineFailed
from etui.events import Event, Residence, Unloaded

if TYPE_CHECKING:
    from pathlib import Path

    from etui.backends.base import AnswerRequest
    from etui.config.config import Config
    from etui.models.spec import ModelSpec

START_SECONDS = 30.0
SILENT_SECONDS = 10.0
"""Longest silence of a living child, which sends a heartbeat twice a second."""

STALLED_SECONDS = 600.0
"""Longest time without an event: a load from a slow disk, or one batch of a very large model."""

CATCH_UP_SECONDS = 1.0
"""Shortest wait for a message: when this process was suspended, the pipe was not read meanwhile."""

_LOG_LINES = 3
_LOG_BYTES = 4_000_000


class ProcessBackend:
    """Answers requests in a child process, started when first needed and again after a failure.

    ``answer`` runs in one thread at a time; ``cancel`` may come from any.

    Args:
        silent_seconds: Silence after which the child is taken for hung, and killed.
        stalled_seconds: Time without an event of the running answer, likewise.

    Attributes:
        on_unloaded: Called when a model was kept warm for long enough and is gone, on the thread
            that reads the pipe: it must not wait for an answer.
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
        """The child's process number; None while there is none."""
        child = self._child
        return child.process.pid if child is not None and child.alive else None

    def start(self) -> None:
        """Start the child and wait for its handshake, if it does not run already.

        Raises:
            EngineFailed: It died, or did not answer in time.
        """
        if self._child is not None and self._child.responds(self._silent_seconds):
            return
        if self._child is not None:
            self._child.stop()
        self._child = _Child(self._config, self._unloaded)
        hello = self._child.next(START_SECONDS, START_SECONDS)
        if not isinstance(hello, Hello):
            why = hello if isinstance(hello, str) else f"began with {hello!r}"
            raise self._dead(self._child, why)

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Events of one answer; the last is ``Finished``. Closing the iterator cancels it.

        Raises:
            EtuiError: Whatever the engine raised, of the same class.
            EngineFailed: The process died or hung; it is started anew for the next answer.
        """
        yield from self._told(lambda number: Ask(number, request))

    def load(self, model: ModelSpec, path: Path) -> Iterator[Residence]:
        """Bring a model into memory ahead of a question: what gave way for it, and its load.

        Nothing comes when it was there. The load runs while the iterator is read.

        Raises:
            EtuiError: As ``answer``.
        """
        for event in self._told(lambda number: Load(number, model, path)):
            if isinstance(event, Residence):
                yield event

    def unload(self, model: str) -> Iterator[Residence]:
        """Give a model up between two answers; nothing comes when it was not in memory.

        Raises:
            EngineFailed: As ``answer``.
        """
        if self.pid is None:
            return  # it went with its process
        for event in self._told(lambda number: Unload(number, model)):
            if isinstance(event, Residence):
                yield event

    def _told(self, message_of: Callable[[int], Ask | Load | Unload]) -> Iterator[Event]:
        """Send a message and yield the events that answer it."""
        self.start()
        child = self._child
        assert child is not None
        with self._lock:
            self._number += 1
            number = self._running = self._number
        try:
            child.send(message_of(number))
            while True:
                message = child.next(self._silent_seconds, self._stalled_seconds)
                if isinstance(message, str):
                    raise self._dead(child, message)
                if getattr(message, "number", None) != number:
                    continue  # of an answer that was given up
                if isinstance(message, EngineEvent):
                    yield message.event
                elif isinstance(message, Failed):
                    number = 0
                    raise message.error()
                elif isinstance(message, Done):
                    number = 0
                    return
        finally:
            if number:  # the reader went away, or the child died
                child.send(Cancel(number))
            with self._lock:
                self._running = None

    def cancel(self) -> None:
        """End the running answer within one batch; its ``Finished`` still comes."""
        self._tell(Cancel)

    def hurry(self) -> None:
        """The joules of the running answer are spent: end its thought and answer now."""
        self._tell(Hurry)

    def _tell(self, message: type[Cancel] | type[Hurry]) -> None:
        with self._lock:
            child, number = self._child, self._running
        if child is not None and number is not None:
            child.send(message(number))

    def _unloaded(self, event: Unloaded) -> None:
        if self.on_unloaded is not None:
            self.on_unloaded(event)

    def close(self) -> None:
        """End the child; all its memory is free when this returns."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _dead(self, child: _Child, why: str) -> EngineFailed:
        child.stop()
        tail = child.log_tail()
        said = f"; its log ends: {tail}" if tail else ""
        return EngineFailed(
            f"the engine's process {why}{said}",
            "ask again: it is started anew; if a model fails each time, lower its `context` or "
            "`gpu_layers` in models.yaml",
        )


class _Child:
    """One run of the process: its pipes, and the thread that reads them."""

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
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
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
        """Whether it lives and has lately said so."""
        return self.alive and time.monotonic() - self._seen < silent_seconds

    def send(self, message: object) -> None:
        """Write one line; a dead child is noticed by whoever reads."""
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
                        self._messages.put(f"sent what is no event: {error}")
                        continue
                    if isinstance(message, Unloaded):
                        self._unloaded(message)
                    elif hasattr(message, "number") or isinstance(message, Hello):
                        self._messages.put(message)
        self._messages.put("ended")

    def next(self, silent_seconds: float, stalled_seconds: float) -> Any:
        """The next message, or a text saying why there is none."""
        began = time.monotonic()
        while True:
            now = time.monotonic()
            left = min(self._seen + silent_seconds, began + stalled_seconds) - now
            try:
                message = self._messages.get(timeout=max(left, CATCH_UP_SECONDS))
            except queue.Empty:
                now = time.monotonic()
                if now - self._seen >= silent_seconds:
                    return f"gave no sign of life for {silent_seconds:g} s and was stopped"
                if now - began >= stalled_seconds:
                    return f"made no progress for {stalled_seconds:g} s and was stopped"
                continue
            return self._how_it_ended() if message == "ended" else message

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        if code < 0:
            named = [known.name for known in signal.Signals if known == -code]
            return f"was ended by {named[0] if named else f'signal {-code}'}"
        return f"ended with exit code {code}"

    def stop(self) -> None:
        """Close the pipes and make sure that the process is gone."""
        if self._stopped:
            return
        self._stopped = True
        self.process.kill()  # it keeps nothing that would need saving
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def log_tail(self) -> str:
        """The last lines this run wrote to its log."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_start, self._log.stat().st_size - 8192))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return " | ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:])


def _trim(log: Path) -> int:
    """Empty a log that has grown too large; returns where the next line will be written."""
    try:
        size = log.stat().st_size
        if size > _LOG_BYTES:
            os.truncate(log, 0)
            return 0
        return size
    except OSError:
        return 0

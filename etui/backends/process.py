"""Run the engine in a child process, so that a crash or a hang does not end etui.

Several requests may be answered at a time; the process computes as many of them together as
``Config.parallel`` says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from etui.backends import wire
from etui.backends.base import Cancel
from etui.backends.wire import WireError, decode, encode
from etui.errors import EngineFailed
from etui.events import BatchShare, Event, Loaded, Residence, SharedBatch, Unloaded

if TYPE_CHECKING:
    from pathlib import Path

    from etui.backends.base import AnswerRequest
    from etui.config.config import Config
    from etui.models.spec import ModelSpec

_log = logging.getLogger("etui.engine")

E = TypeVar("E")

CATCH_UP_SECONDS = 1.0
"""Minimum wait for a message: after a suspension of this process, the pipe has to be read first."""

HANDSHAKE = 0
"""Number of the mailbox with the handshake; those of requests begin with 1."""

READ_SECONDS = 5.0
"""Longest wait for the thread that reads the pipe of a process that has ended."""

_ENDED = "ended"

_LOG_LINES = 3

_LOG_BYTES = 4_000_000


class ChildProcess:
    """An engine process; its methods may be called from any thread.

    Args:
        on_unloaded: Called with each unload between answers, on the thread that reads the pipe.
        on_batch: Called there with each shared batch, and with one more if the process ends while
            it works: the time after its last batch, for those whose answers were running.
    """

    def __init__(
        self,
        config: Config,
        on_unloaded: Callable[[Unloaded], None],
        on_batch: Callable[[SharedBatch], None],
        worker: str,
    ) -> None:
        self._on_unloaded = on_unloaded
        self._on_batch = on_batch
        config.log_dir.mkdir(parents=True, exist_ok=True)
        self._log = config.log_dir / "engine.log"
        self._log_start = _trim(self._log)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", worker],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in the terminal is handled by the parent
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._state = threading.Lock()
        self._mailboxes: dict[int, queue.SimpleQueue[Any]] = {HANDSHAKE: queue.SimpleQueue()}
        self._answering: dict[int, str] = {}  # number of an answer -> its model
        self._worked_ns = 0  # end of the last work that was reported
        self._has_ended = False
        self._seen = self._progress = time.monotonic()
        self._writing = threading.Lock()
        self._stopped = False
        self._failure: str | None = None
        self._reading = threading.Thread(target=self._read, name="engine events", daemon=True)
        self._reading.start()
        self.send(config)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._stopped and self.process.poll() is None

    def responds(self, silent_seconds: float) -> bool:
        """Return whether it is alive and has sent something recently."""
        return self.alive and time.monotonic() - self._seen < silent_seconds

    def begin(self, number: int, answers: str = "") -> None:
        """Note a request that is sent next; :meth:`next` returns its replies until :meth:`end`.

        Args:
            answers: The model that answers it; empty for a load or an unload.
        """
        with self._state:
            mailbox = self._mailboxes[number] = queue.SimpleQueue()
            if self._has_ended:
                mailbox.put(_ENDED)
            if answers:
                if not self._answering:
                    self._worked_ns = time.monotonic_ns()
                self._answering[number] = answers
            self._progress = time.monotonic()

    def end(self, number: int) -> None:
        """Forget a request; later replies to it are dropped."""
        with self._state:
            self._mailboxes.pop(number, None)
            self._answering.pop(number, None)

    def send(self, message: object) -> None:
        """Send a message as one line; the death of the child is detected when reading."""
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
                        self._put_to_all(f"sent an invalid message: {error}")
                        continue
                    if not isinstance(message, wire.Heartbeat):
                        self._progress = self._seen
                        self._route(message)
        self._end_span()
        self._put_to_all(_ENDED)

    def _route(self, message: object) -> None:
        if isinstance(message, SharedBatch):
            self._worked_ns = message.end_ns
            _tell(self._on_batch, message)
        elif isinstance(message, Unloaded):
            _tell(self._on_unloaded, message)
        elif isinstance(message, wire.Hello):
            self._mailboxes[HANDSHAKE].put(message)
        elif isinstance(message, wire.EngineEvent | wire.Failed | wire.Done):
            with self._state:
                mailbox = self._mailboxes.get(message.number)
                if not isinstance(message, wire.EngineEvent):
                    self._answering.pop(message.number, None)
                elif isinstance(message.event, Loaded):
                    self._worked_ns = max(self._worked_ns, message.event.end_ns)
            if mailbox is not None:  # it belongs to no abandoned answer
                mailbox.put(message)

    def _put_to_all(self, message: str) -> None:
        with self._state:
            self._has_ended = self._has_ended or message == _ENDED
            for mailbox in self._mailboxes.values():
                mailbox.put(message)

    def _end_span(self) -> None:
        """Report the time after the last batch, which no batch will report any more."""
        with self._state:
            answering, self._answering = self._answering, {}
        if answering:
            shares = tuple(BatchShare(number, 0, 0) for number in answering)
            model = next(iter(answering.values()))
            end_ns = max(self._worked_ns, time.monotonic_ns())
            _tell(self._on_batch, SharedBatch(model, self._worked_ns, end_ns, shares))

    def next(self, number: int, silent_seconds: float, stalled_seconds: float) -> Any:
        """Return the next reply to a request, or a text that says why there is none.

        Args:
            number: Number of the request, or ``HANDSHAKE``.
            silent_seconds: Longest silence of the process, which sends a heartbeat.
            stalled_seconds: Longest time without any progress: of this request, or of others that
                it waits for.
        """
        mailbox = self._mailboxes[number]
        is_confirmed = False
        while True:
            now = time.monotonic()
            left = min(self._seen + silent_seconds, self._progress + stalled_seconds) - now
            try:
                message = mailbox.get(timeout=max(left, CATCH_UP_SECONDS))
            except queue.Empty:
                fault = self._find_fault(silent_seconds, stalled_seconds)
                if fault is not None and is_confirmed:
                    return fault
                # This process may have been suspended while it waited: the pipe is read first.
                is_confirmed = fault is not None
                continue
            return self._describe_exit() if message == _ENDED else message

    def _find_fault(self, silent_seconds: float, stalled_seconds: float) -> str | None:
        now = time.monotonic()
        if now - self._seen >= silent_seconds:
            return f"did not respond for {silent_seconds:g} s and was stopped"
        if now - self._progress >= stalled_seconds:
            return f"made no progress for {stalled_seconds:g} s and was stopped"
        return None

    def _describe_exit(self) -> str:
        code = self.process.wait()
        if self._failure is not None:  # another request has found it and stopped the process
            return self._failure
        if code < 0:
            named = [known.name for known in signal.Signals if known == -code]
            return f"was killed by {named[0] if named else f'signal {-code}'}"
        return f"exited with code {code}"

    def stop(self, why: str | None = None) -> None:
        """Kill the process, close the pipes, and wait until all that it sent has been read.

        So its last batch is reported before the failure of an answer is.

        Args:
            why: The failure that other running requests report; None if there is none.
        """
        with self._state:
            is_first, self._stopped = not self._stopped, True
            if is_first:
                self._failure = why
        if is_first:
            self._kill()
        if threading.current_thread() is not self._reading:
            self._reading.join(READ_SECONDS)

    def _kill(self) -> None:
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


def _tell(listener: Callable[[E], None], event: E) -> None:
    """Call a listener, whose faults must not end the reading: all requests wait for it."""
    try:
        listener(event)
    except Exception:  # noqa: BLE001  logged
        _log.exception("a listener of the engine failed")


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


START_SECONDS = 30.0
SILENT_SECONDS = 10.0
"""Maximum silence of a living child, which sends a heartbeat twice a second."""

STALLED_SECONDS = 600.0
"""Maximum time without an event: a load from a slow disk, a batch of a very large model."""


class ProcessBackend:
    """Backend in a child process, which is started on first use and restarted after a failure.

    Args:
        silent_seconds: Silence after which the child counts as hung and is killed.
        stalled_seconds: Time without any progress of the child after which it is killed.

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
            if not isinstance(hello, wire.Hello):
                why = hello if isinstance(hello, str) else f"sent no handshake but {hello!r}"
                raise _build_failure(child, why)
            return child

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        """Answer a request; closing the iterator cancels the answer.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            EtuiError: An error of the engine, with its original class.
            EngineFailed: The process died or hung; it is restarted for the next answer.
        """
        message = partial(wire.Ask, request=request)
        return self._ask(message, cancel or Cancel(), request.model.name)

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Iterator[Residence]:
        """Load a model before a question is asked; the load runs while the iterator is read.

        Yields:
            The models unloaded for room, and the load; nothing if the model is in memory.

        Raises:
            EtuiError: As ``answer``.
        """
        for event in self._ask(lambda number: wire.Load(number, model, path, draft), Cancel()):
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
        for event in self._ask(lambda number: wire.Unload(number, model), Cancel()):
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
            child.send(wire.KeepWarm(model, seconds))

    def _ask(
        self,
        build_message: Callable[[int], wire.Ask | wire.Load | wire.Unload],
        cancel: Cancel,
        answers: str = "",
    ) -> Iterator[Event]:
        """Send a request and yield the events that answer it; closing the iterator cancels it."""
        pid, began_ns = self.pid, time.monotonic_ns()
        child = self._get_child()
        is_new = child.process.pid != pid
        with self._counting:
            self._number += 1
            number = self._number
        is_running = True
        child.begin(number, answers)
        try:
            child.send(build_message(number))
            cancel.numbers = (*cancel.numbers, number)
            cancel.listen(
                lambda: child.send(wire.Cancel(number)), lambda: child.send(wire.Hurry(number))
            )
            while True:
                message = child.next(number, self._silent_seconds, self._stalled_seconds)
                if isinstance(message, str):
                    raise _build_failure(child, message)
                if isinstance(message, wire.EngineEvent):
                    event = message.event
                    if is_new and isinstance(event, Loaded):  # its start is a part of the load
                        event = replace(event, start_ns=min(began_ns, event.start_ns))
                    yield event
                elif isinstance(message, wire.Failed):
                    is_running = False
                    raise message.error()
                elif isinstance(message, wire.Done):
                    is_running = False
                    return
        finally:
            cancel.listen()
            if is_running:  # the iterator was closed, or the child died
                child.send(wire.Cancel(number))
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

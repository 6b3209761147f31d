"""Run the engine in a child process, so that a crash or a hang does not end etui.

Several requests may be answered at a time; the process computes as many of them together as
``Config.parallel`` says.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui.backends import wire
from etui.backends.base import AnswerRequest, Cancel, LongStep
from etui.backends.wire import WireError, decode, encode
from etui.config.config import Config
from etui.engine.template_process import end_process
from etui.errors import EngineFailed
from etui.events import BatchShare, Event, Loaded, Residence, SharedBatch, Unloaded

if TYPE_CHECKING:
    from etui.models.spec import ModelSpec

_log = logging.getLogger("etui.engine")

START_SECONDS = 30.0

SILENT_SECONDS = 10.0
"""Maximum silence of a living child, which sends a heartbeat twice a second."""

STALLED_SECONDS = 600.0
"""Maximum time without an event: a load from a slow disk, a batch of a very large model."""

LONG_SECONDS = 1.0
"""A step of one request that takes longer is reported."""

QUIET_SECONDS = 2.0
"""Silence of a child with answers that is reported: several heartbeats."""

CATCH_UP_SECONDS = 1.0
"""Minimum wait for a message: after a suspension of this process, the pipe has to be read first."""

HANDSHAKE = 0
"""Number of the mailbox with the handshake; those of requests begin with 1."""

FINISH_SECONDS = 5.0
"""Longest wait at the end for a process that saves its KV caches."""

READ_SECONDS = 5.0
"""Longest wait for the thread that reads the pipe of a process that has ended."""

_ENDED = "ended"
_LOG_LINES = 3
_LOG_BYTES = 4_000_000


class ChildProcess:
    """An engine process; its methods may be called from any thread.

    Args:
        tell: Called with each unload between answers and each shared batch, on the thread that
            reads the pipe. If the process ends while it works, a last batch has the time after the
            last one, for those whose answers were running.
    """

    def __init__(
        self, config: Config, tell: Callable[[SharedBatch | Unloaded], None], worker: str
    ) -> None:
        self._tell = tell
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
        self._beat = wire.Heartbeat(0)
        self._writing = threading.Lock()
        self._stopped = False
        self._failure: str | None = None
        self._reading = threading.Thread(target=self._read, name="engine events", daemon=True)
        self._reading.start()
        self.send(replace(config, tools=None))  # it calls none, and their keys stay here

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._stopped and self.process.poll() is None

    def responds(self, silent_seconds: float) -> bool:
        """Return whether it is alive and has sent something recently."""
        return self.alive and time.monotonic() - self._seen < silent_seconds

    def find_long_step(self) -> LongStep | None:
        """Return the step of an answer that takes long now; None if none does."""
        if not self._answering or not self.alive:
            return None
        silent = time.monotonic() - self._seen
        if silent > QUIET_SECONDS:
            return LongStep("engine", silent)
        seconds = self._beat.step_seconds
        return LongStep(self._beat.step, seconds + silent) if seconds > LONG_SECONDS else None

    def begin(self, number: int, answers: str = "") -> None:
        """Open the mailbox of a request."""
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
        with self._writing, suppress(OSError, ValueError):
            while line:
                line = line[self.process.stdin.write(line) :]

    def _read(self) -> None:
        assert self.process.stdout is not None
        with (
            suppress(OSError, ValueError),
            os.fdopen(os.dup(self.process.stdout.fileno()), "rb") as reader,
        ):
            for line in reader:
                self._seen = time.monotonic()
                try:
                    message = decode(line)
                except WireError as error:
                    self._put_to_all(f"sent an invalid message: {error}")
                    continue
                if isinstance(message, wire.Heartbeat):
                    self._beat = message
                else:
                    self._progress = self._seen
                    self._route(message)
        with self._state:
            answering, self._answering = self._answering, {}
        if answering:
            shares = tuple(BatchShare(number, 0, 0) for number in answering)
            model = next(iter(answering.values()))
            end_ns = max(self._worked_ns, time.monotonic_ns())
            self._tell(SharedBatch(model, self._worked_ns, end_ns, shares))
        self._put_to_all(_ENDED)

    def _route(self, message: object) -> None:
        if isinstance(message, SharedBatch | Unloaded):
            if isinstance(message, SharedBatch):
                self._worked_ns = message.end_ns
            self._tell(message)
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

    def next(self, number: int, silent_seconds: float, stalled_seconds: float) -> Any:
        """Return the next reply to a request (or ``HANDSHAKE``), or why there is none.

        The progress of others that it waits for counts, too.
        """
        mailbox = self._mailboxes[number]
        was_faulty = False
        while True:
            now = time.monotonic()
            left = min(self._seen + silent_seconds, self._progress + stalled_seconds) - now
            try:
                message = mailbox.get(timeout=max(left, CATCH_UP_SECONDS))
            except queue.Empty:
                fault, now = "", time.monotonic()
                if now - self._seen >= silent_seconds:
                    fault = f"did not respond for {silent_seconds:g} s and was stopped"
                elif now - self._progress >= stalled_seconds:
                    fault = f"made no progress for {stalled_seconds:g} s and was stopped"
                if fault and was_faulty:
                    return fault
                # This process may have been suspended while it waited: the pipe is read first.
                was_faulty = bool(fault)
                continue
            return self._describe_exit() if message == _ENDED else message

    def _describe_exit(self) -> str:
        code = self.process.wait()
        if self._failure is not None:  # another request has found it and stopped the process
            return self._failure
        if code < 0:
            named = [known.name for known in signal.Signals if known == -code]
            return f"was killed by {named[0] if named else f'signal {-code}'}"
        # Windows states a crash as a large code, which people know in hexadecimal.
        return f"exited with code {code if code < 1 << 16 else f'{code:#X}'}"

    def finish(self, silent_seconds: float) -> None:
        """Let the process save its KV caches and exit; kill it if that takes too long.

        A step that takes long would not let it.
        """
        if self.responds(silent_seconds) and self.find_long_step() is None:
            assert self.process.stdin is not None
            with self._writing, suppress(OSError, ValueError):
                self.process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(FINISH_SECONDS)
        self.stop()

    def stop(self, why: str | None = None) -> None:
        """Kill the process, close the pipes, and wait until all that it sent has been read.

        So its last batch is reported before the failure of an answer is.
        """
        with self._state:
            is_first, self._stopped = not self._stopped, True
            if is_first:
                self._failure = why
        if is_first:
            end_process(self.process)
        if threading.current_thread() is not self._reading:
            self._reading.join(READ_SECONDS)

    def fail(self, why: str) -> EngineFailed:
        """Stop the process, and build the error that says why and how its log ends."""
        with suppress(OSError):
            self.stop(why)
        tail = ""
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - 8192))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
            tail = " | ".join(list(filter(None, lines))[-_LOG_LINES:])
        log_end = f"; end of its log: {tail}" if tail else ""
        return EngineFailed(
            f"the engine process {why}{log_end}",
            "ask again: it is restarted; if a model fails each time, lower its `context` or "
            "`gpu_layers` in models.yaml",
        )


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

    @property
    def long_step(self) -> LongStep | None:
        """The step that runs for more than a second now; None if none does."""
        child = self._child
        return None if child is None else child.find_long_step()

    def start(self) -> ChildProcess:
        """Start the child and wait for its handshake, unless it is running.

        Raises:
            EngineFailed: It died, or did not respond in time.
        """
        with self._starting:
            child = self._child
            if child is not None and child.responds(self._silent_seconds):
                return child
            if child is not None:
                child.stop()
            child = self._child = ChildProcess(self._config, self._tell, self._worker)
            hello = child.next(HANDSHAKE, START_SECONDS, START_SECONDS)
            if not isinstance(hello, wire.Hello):
                why = hello if isinstance(hello, str) else f"sent no handshake but {hello!r}"
                raise child.fail(why)
            return child

    def _tell(self, event: SharedBatch | Unloaded) -> None:
        """Call a listener, whose faults must not end the reading: all requests wait for it."""
        try:
            if isinstance(event, Unloaded):
                if self.on_unloaded is not None:
                    self.on_unloaded(event)
            elif self.on_batch is not None:
                self.on_batch(event)
        except Exception:  # noqa: BLE001  logged
            _log.exception("a listener of the engine failed")

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        """Answer a request; closing the iterator cancels the answer.

        Raises:
            EtuiError: An error of the engine, with its original class.
            EngineFailed: The process died or hung; it is restarted for the next answer.
        """
        model = request.model.name
        return self._ask(lambda number: wire.Ask(number, request), cancel or Cancel(), model)

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Iterator[Residence]:
        """Load a model before a question is asked; it raises as ``answer``."""
        for event in self._ask(lambda number: wire.Load(number, model, path, draft), Cancel()):
            if isinstance(event, Residence):
                yield event

    def unload(self, model: str) -> Iterator[Residence]:
        """Unload a model between two answers; it raises as ``answer``."""
        if self.pid is None:
            return  # without a process nothing is loaded
        for event in self._ask(lambda number: wire.Unload(number, model), Cancel()):
            if isinstance(event, Residence):
                yield event

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Set how long a model is kept after its last answer; None is without an end.

        A new child starts without these times, so set them after each load and answer.
        """
        child = self._child
        if child is not None:
            child.send(wire.KeepWarm(model, seconds))

    def _ask(
        self, build: Callable[[int], object], cancel: Cancel, answers: str = ""
    ) -> Iterator[Event]:
        """Send a request and yield its events; closing the iterator cancels it."""
        pid, began_ns = self.pid, time.monotonic_ns()
        child = self.start()
        is_new = child.process.pid != pid
        with self._counting:
            self._number += 1
            number = self._number
        is_running = True
        child.begin(number, answers)
        try:
            child.send(build(number))
            cancel.numbers = (*cancel.numbers, number)
            cancel.listen(
                lambda: child.send(wire.Cancel(number)), lambda: child.send(wire.Hurry(number))
            )
            while True:
                message = child.next(number, self._silent_seconds, self._stalled_seconds)
                if isinstance(message, str):
                    raise child.fail(message)
                if isinstance(message, wire.EngineEvent):
                    event = message.event
                    if is_new and isinstance(event, Loaded):  # its start is a part of the load
                        event = replace(event, start_ns=min(began_ns, event.start_ns))
                    yield event
                    continue
                is_running = False
                if isinstance(message, wire.Failed):
                    raise message.error()
                return
        finally:
            cancel.listen()
            if is_running:  # the iterator was closed, or the child died
                child.send(wire.Cancel(number))
            child.end(number)

    def close(self) -> None:
        """End the child; all of its memory is free when this returns.

        The next request starts another one.
        """
        child, self._child = self._child, None
        if child is not None:
            child.finish(self._silent_seconds)

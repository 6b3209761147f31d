"""The engine process: ``python -m etui.backends.worker`` answers JSON-lines requests.

It exits when its standard input is closed, so it ends with its parent. Output of native code goes
to standard error, which the parent writes to a log file.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from etui import __version__
from etui.backends.wire import (
    Ask,
    Cancel,
    Done,
    EngineEvent,
    Failed,
    Heartbeat,
    Hello,
    Hurry,
    KeepWarm,
    Load,
    Unload,
    WireError,
    decode,
    encode,
)
from etui.errors import EngineFailed, EtuiError
from etui.events import Answer, Thought

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend
    from etui.events import Event

HEARTBEAT_SECONDS = 0.5
"""Interval of the heartbeat, which is also the longest time a token is held back."""

HOLD_SECONDS = 0.04
"""Tokens within this time are sent together: if all cores decode, each line that wakes the parent
delays the next token."""

Request = Ask | Load | Unload


class Worker:
    """Serve one parent over two pipes.

    Args:
        requests: Lines from the parent.
        replies: File descriptor of the pipe to the parent.
    """

    def __init__(self, requests: BinaryIO, replies: int) -> None:
        self._requests = requests
        self._replies = replies
        self._writing = threading.Lock()
        self._held = bytearray()
        self._sent_seconds = 0.0
        self._asked: queue.SimpleQueue[Request | KeepWarm] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._running: int | None = None
        self._engine: LocalBackend | None = None

    def run(self) -> None:
        """Answer requests until the parent closes the pipe."""
        from etui.backends.local import LocalBackend

        config = decode(self._requests.readline())
        self._engine = LocalBackend(config)
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self._send(Hello(__version__, os.getpid()))
        while True:
            self._answer(self._engine, self._next(self._engine))

    def _next(self, engine: LocalBackend) -> Request:
        """Wait for the next request, unloading idle models meanwhile on the thread that answers."""
        while True:
            for unloaded in engine.unload_idle():
                self._send(unloaded)
            with contextlib.suppress(queue.Empty):
                asked = self._asked.get(timeout=engine.seconds_to_unload())
                if not isinstance(asked, KeepWarm):
                    return asked
                engine.keep_warm(asked.model, asked.seconds)

    def _answer(self, engine: LocalBackend, ask: Request) -> None:
        number = self._running = ask.number
        try:
            for event in _events(engine, ask):
                self._send(EngineEvent(number, event), may_wait=isinstance(event, Thought | Answer))
                if number in self._cancelled:
                    # Repeated, in case it arrived before the answer started.
                    engine.cancel()
            self._send(Done(number))
        except EtuiError as error:
            self._send(Failed.of(number, error))
        except Exception as error:  # noqa: BLE001 - a bug must end this answer, not the engine
            traceback.print_exc()
            message = " ".join(f"{type(error).__name__}: {error}".split())
            failed = EngineFailed(
                f"internal error in the engine: {message}", "see engine.log in ETUI_HOME/logs"
            )
            self._send(Failed.of(number, failed))
        finally:
            self._running = None
            self._cancelled.discard(number)

    def _read(self) -> None:
        for line in self._requests:
            try:
                message = decode(line)
            except WireError:
                traceback.print_exc()  # the parent shows the end of the log
                os._exit(1)  # the parent would wait for an answer forever
            if isinstance(message, Request | KeepWarm):
                self._asked.put(message)
            elif isinstance(message, Cancel):
                self._cancelled.add(message.number)
                if message.number == self._running and self._engine is not None:
                    self._engine.cancel()
            elif isinstance(message, Hurry) and message.number == self._running:
                assert self._engine is not None
                self._engine.hurry()
        os._exit(0)  # the parent has exited; llama.cpp may be in the middle of a batch

    def _beat(self) -> None:
        while True:
            self._send(Heartbeat(time.monotonic_ns()))
            time.sleep(HEARTBEAT_SECONDS)

    def _send(self, message: object, *, may_wait: bool = False) -> None:
        """Write a message after those held back; one that may wait is held back for a moment."""
        line = encode(message)
        try:
            with self._writing:
                self._held += line
                now = time.monotonic()
                if may_wait and now - self._sent_seconds < HOLD_SECONDS:
                    return
                self._sent_seconds = now
                while self._held:
                    del self._held[: os.write(self._replies, self._held)]
        except OSError:
            os._exit(0)  # the parent has closed the pipe


def _events(engine: LocalBackend, ask: Request) -> Iterator[Event]:
    if isinstance(ask, Ask):
        yield from engine.answer(ask.request)
    elif isinstance(ask, Load):
        yield from engine.load(ask.model, ask.path, ask.draft)
    else:
        yield from engine.unload(ask.model)


def main() -> None:
    """Run the worker on standard input and output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(sys.stdin.buffer, replies).run()


if __name__ == "__main__":
    main()

"""The engine process: ``python -m etui.backends.worker`` answers JSON-lines requests.

One answer runs at a time, on the main thread. With ``Config.parallel`` > 1 each answer has a thread
of its own, and the backend decides which of them run together. llama.cpp computes for all of them
in one thread (:mod:`etui.engine.compute_thread`).

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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from etui import __version__
from etui.backends import wire
from etui.backends.base import Cancel
from etui.backends.wire import WireError, decode, encode
from etui.config.config import Config
from etui.errors import EngineFailed, EtuiError
from etui.events import Answer, Batch, Event, Prefilled, Thought, TokenLogprob, ToolCall

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend

HEARTBEAT_SECONDS = 0.5
"""Interval of the heartbeat, which is also the longest time a token is held back."""

HOLD_SECONDS = 0.04
"""Tokens within this time are sent together: if all cores decode, each line that wakes the parent
delays the next token."""

SHARED_HOLD_SECONDS = 0.12
"""The same while several answers share the batches: a batch has a token of each of them, and what
the parent does with one takes the cores from the next batch (a twelfth of its time on two)."""

FIRST_TOKEN_SECONDS = 0.001
"""Pause after the first token of an answer: the threads of the next batch spin on every core, and
what brings the token to its reader would wait for one of them to end."""

MASK_SECONDS = 5.0
"""A token of one answer may take so long before this process ends itself: its native code cannot be
interrupted, and no other answer goes on meanwhile."""

END_SECONDS = 10.0
"""Longest time to save the KV caches when the parent has closed the pipe."""

_TOKENS = (Thought, Answer, TokenLogprob, ToolCall, Batch)
"""Events that may be held back; the first token of an answer never is. ``Prefilled``, which comes
right before it, is sent with it."""

Request = wire.Ask | wire.Load | wire.Unload


def open_engine(config: Config) -> LocalBackend:
    """Open the engine of this process, without any model."""
    from etui.backends.local import LocalBackend

    return LocalBackend(config, parent=os.getppid(), keep=True)


class Worker:
    """Serve one parent over two pipes.

    Args:
        replies: File descriptor of the pipe to the parent.
        open_engine: Opens the backend that answers, for the configuration on the first line.
    """

    def __init__(
        self,
        requests: BinaryIO,
        replies: int,
        open_engine: Callable[[Config], LocalBackend] = open_engine,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._requests = requests
        self._replies = replies
        self._open_engine = open_engine
        self._pause = pause
        self._writing = threading.Lock()
        self._held = bytearray()
        self._sent_seconds = 0.0
        self._asked: queue.SimpleQueue[Request | wire.KeepWarm | None] = queue.SimpleQueue()
        """Requests; None wakes the main thread, because a model may have become idle."""
        self._cancels: dict[int, Cancel] = {}
        self._ending = threading.Event()

    def run(self) -> None:
        """Answer requests until the parent closes the pipe."""
        config = decode(self._requests.readline())
        engine = self._open_engine(config)
        if config.parallel > 1:
            engine.on_batch = lambda batch: self._send(batch, may_wait=True)
        reader = threading.Thread(target=self._read, args=[engine], name="requests", daemon=True)
        reader.start()
        threading.Thread(target=self._beat, args=[engine], name="heartbeat", daemon=True).start()
        self._send(wire.Hello(__version__, os.getpid()))
        while True:
            request = self._next(engine)
            if isinstance(request, wire.Ask) and config.parallel > 1:
                threading.Thread(
                    target=self._answer_beside,
                    args=[engine, request],
                    name=f"answer {request.number}",
                    daemon=True,
                ).start()
            else:
                self._answer(engine, request)

    def _next(self, engine: LocalBackend) -> Request:
        """Wait for the next request, unloading idle models meanwhile on the thread that loads."""
        while True:
            for unloaded in engine.unload_idle():
                self._send(unloaded)
            with contextlib.suppress(queue.Empty):
                asked = self._asked.get(timeout=engine.seconds_to_unload())
                if isinstance(asked, wire.KeepWarm):
                    engine.keep_warm(asked.model, asked.seconds)
                elif asked is not None:
                    return asked

    def _answer_beside(self, engine: LocalBackend, ask: wire.Ask) -> None:
        self._answer(engine, ask)
        self._asked.put(None)

    def _answer(self, engine: LocalBackend, ask: Request) -> None:
        number = ask.number
        has_begun = False
        try:
            for event in _events(engine, ask, self._cancels.get(number)):
                is_token = isinstance(event, _TOKENS)
                may_wait = has_begun if is_token else isinstance(event, Prefilled)
                self._send(wire.EngineEvent(number, event), may_wait=may_wait)
                if is_token and not has_begun:
                    has_begun = True
                    self._pause(FIRST_TOKEN_SECONDS)
            self._send(wire.Done(number))
        except EtuiError as error:
            self._send(wire.Failed.of(number, error))
        except Exception as error:  # noqa: BLE001 - a bug must end this answer, not the engine
            traceback.print_exc()
            message = " ".join(f"{type(error).__name__}: {error}".split())
            failed = EngineFailed(
                f"internal error in the engine: {message}", "see engine.log in ETUI_HOME/logs"
            )
            self._send(wire.Failed.of(number, failed))
        finally:
            self._cancels.pop(number, None)

    def _read(self, engine: LocalBackend) -> None:
        for line in self._requests:
            try:
                message = decode(line)
            except WireError:
                traceback.print_exc()  # the parent shows the end of the log
                os._exit(1)  # the parent would wait for an answer forever
            if isinstance(message, Request | wire.KeepWarm):
                if isinstance(message, wire.Ask):
                    # Now, so that a cancel reaches an answer that has not begun.
                    self._cancels[message.number] = Cancel()
                self._asked.put(message)
            elif isinstance(message, wire.Cancel | wire.Hurry):
                cancel = self._cancels.get(message.number)
                if cancel is None:
                    continue  # it has ended
                if isinstance(message, wire.Cancel):
                    cancel.cancel()
                else:
                    cancel.end_thinking()
        self._end(engine)

    def _end(self, engine: LocalBackend) -> None:
        """End the answers, save the KV caches, and exit: the parent has closed the pipe.

        An answer that does not end, as in a load, loses them.
        """
        self._ending.set()
        late = threading.Timer(END_SECONDS, os._exit, [0])
        late.daemon = True
        late.start()
        for cancel in list(self._cancels.values()):
            cancel.cancel()
        try:
            engine.close()
        except Exception:  # noqa: BLE001  the caches are computed again
            traceback.print_exc()
        os._exit(0)

    def _beat(self, engine: LocalBackend) -> None:
        was_stuck = False
        while True:
            step, seconds = engine.longest_step() or ("", 0.0)
            self._send(wire.Heartbeat(time.monotonic_ns(), step, seconds))
            is_stuck = step == "mask" and seconds > MASK_SECONDS
            if is_stuck and was_stuck:  # once may be the end of a suspension
                sys.stderr.write(f"the schema of an answer took {seconds:.0f} s for a token\n")
                sys.stderr.flush()
                os._exit(1)
            was_stuck = is_stuck
            time.sleep(HEARTBEAT_SECONDS)

    def _send(self, message: object, *, may_wait: bool = False) -> None:
        """Write a message after those held back; one that may wait is held back for a moment."""
        if self._ending.is_set():
            return
        line = encode(message)
        try:
            with self._writing:
                self._held += line
                now = time.monotonic()
                hold_seconds = SHARED_HOLD_SECONDS if len(self._cancels) > 1 else HOLD_SECONDS
                if may_wait and now - self._sent_seconds < hold_seconds:
                    return
                self._sent_seconds = now
                while self._held:
                    del self._held[: os.write(self._replies, self._held)]
        except OSError:
            self._ending.set()  # the parent has exited, and its other pipe ends, too


def _events(engine: LocalBackend, ask: Request, cancel: Cancel | None) -> Iterator[Event]:
    if isinstance(ask, wire.Ask):
        return engine.answer(ask.request, cancel, ask.number)
    if isinstance(ask, wire.Load):
        return engine.load(ask.model, ask.path, ask.draft)
    return engine.unload(ask.model)


def main() -> None:
    """Run the worker on standard input and output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(sys.stdin.buffer, replies).run()


if __name__ == "__main__":
    main()

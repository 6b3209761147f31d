"""The one thread of a process in which llama.cpp loads and computes, and a watch over its steps."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Generic, Literal, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

Step = Literal["text", "grammar", "mask"]
"""Rendering or tokenizing a prompt, building a grammar, drawing a token that it allows."""


class StepClock:
    """Notes when steps of single requests begin and end, for a watchdog on another thread."""

    def __init__(self) -> None:
        self._began: dict[int, tuple[int, Step]] = {}
        self._numbers = count()

    @contextmanager
    def time(self, step: Step) -> Iterator[None]:
        """Note a step of one request for as long as the body runs."""
        number = next(self._numbers)
        self._began[number] = time.monotonic_ns(), step
        try:
            yield
        finally:
            del self._began[number]

    def longest(self) -> tuple[Step, float] | None:
        """Return the step that runs for longest, and its seconds; None if none runs."""
        began = min(self._began.copy().values(), default=None)
        return None if began is None else (began[1], (time.monotonic_ns() - began[0]) / 1e9)


class _Call(Generic[_T]):
    """A call that another thread waits for."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self._done = threading.Lock()
        self._done.acquire()
        self._has_ended = False
        self._result: _T
        self._error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._error = error
        finally:
            self._has_ended = True
            self._done.release()

    def wait(self) -> _T:
        """Wait to the end, even after Ctrl-C: what the call uses may be freed next."""
        interrupted: BaseException | None = None
        while not self._has_ended:
            try:
                self._done.acquire()
            except BaseException as error:  # noqa: BLE001 - raised below
                interrupted = error
        raised, self._error = interrupted or self._error, None
        if raised is not None:
            try:
                raise raised
            finally:
                del raised, interrupted  # with their frames they would refer to themselves
        return self._result


class ComputeThread:
    """Run jobs one after another in a thread of its own, which the first of them starts.

    OpenMP gives each thread that computes a team of its own. With more threads in all teams than
    CPUs, the barriers of a team sleep instead of spinning, and a batch takes twice as long.

    After ``close`` jobs run in the thread that brings them. A forked process has a thread of its
    own, because that of its parent is missing there.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job, which must not raise, and return at once."""
        if self._process != os.getpid():
            self._start()
        if self._closed:
            job()
        else:
            self._jobs.put(job)

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function there, and return its result or raise its error."""
        if self._is_here():
            return function(*args, **kwargs)
        call = _Call(lambda: function(*args, **kwargs))
        self.submit(call)
        return call.wait()

    def close(self) -> None:
        """End the thread after the jobs that are queued; repeatable."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and self._process == os.getpid():
            self._jobs.put(None)
            thread.join()

    def _is_here(self) -> bool:
        thread = self._thread
        return (
            thread is not None
            and thread.ident == threading.get_ident()
            and self._process == os.getpid()
        )

    def _start(self) -> None:
        with self._starting:
            if self._closed or self._process == os.getpid():
                return
            self._jobs = SimpleQueue()
            self._thread = threading.Thread(
                target=_work, args=[self._jobs], name="compute", daemon=True
            )
            self._thread.start()
            self._process = os.getpid()


def _work(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # what it refers to may be freed while the next one is awaited

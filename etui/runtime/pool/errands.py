"""Run small jobs one after another on a thread that exists only while there are any."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("etui.pool")


class Errands:
    """Runs jobs in order, in the background; safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._runs = False

    def add(self, job: Callable[[], None]) -> None:
        """Run a job soon; its faults are logged, and end no other job."""
        with self._changed:
            self._jobs.append(job)
            if self._runs:
                return
            self._runs = True
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no thread left
            self._work()

    def wait(self, seconds: float) -> bool:
        """Wait until every job has run; return whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._runs, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._runs = False
                    self._changed.notify_all()
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # noqa: BLE001  logged, and the thread goes on
                _log.exception("a job of %s failed", self._name)

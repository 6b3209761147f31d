"""The process of a node: what Ray starts there. It takes text and yields text.

Ray pickles the class by its name, so the node runs its own etui. Nothing of Ray is imported here.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from etui.cluster.messages import write_message
from etui.cluster.worker import NodeWorker, serve

OPENER = "etui.cluster.machine_worker:open_worker"
"""Where the function is that opens a machine: module and name."""


class NodeActor:
    """Serves one driver.

    Args:
        opener: Module and name of the function that opens the machine; a test has its own.
    """

    def __init__(self, opener: str = OPENER) -> None:
        module, _, name = opener.partition(":")
        open_worker: Callable[[], NodeWorker] = getattr(importlib.import_module(module), name)
        self._worker = open_worker()
        self._engine = ThreadPoolExecutor(1, "etui-engine")
        self._lock = threading.Lock()
        self._current = 0
        self._stopped = 0

    def call(self, number: int, method: str, text: str) -> Iterator[str]:
        """Do what a driver asks, and yield messages as lines of JSON.

        Args:
            number: Number of the request, from 1.
            method: A :data:`etui.cluster.carrier.Method`.
        """
        with self._lock:
            self._current = number
            self._worker.allow()
            if self._stopped >= number:
                self._worker.stop()
        for message in serve(self._worker, method, text, self._engine):
            yield write_message(message)

    def stop(self, number: int) -> None:
        """End a request; one that has ended already is left alone, and the next one too."""
        with self._lock:
            self._stopped = max(self._stopped, number)
            if number == self._current:
                self._worker.stop()

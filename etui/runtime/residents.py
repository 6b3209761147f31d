"""Keep track of the models in the engine's memory from its events."""

from __future__ import annotations

import threading

from etui.events import Loaded, Unloaded


class Residents:
    """Names of the loaded models in the order of their loads; a new process starts with none.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}
        self._pid: int | None = None

    def update(self, event: object, pid: int | None) -> None:
        """Apply a load or an unload in process ``pid``; other events change nothing."""
        with self._lock:
            if pid != self._pid:
                self._names.clear()
                self._pid = pid
            match event:
                case Loaded(model=model):
                    self._names[model] = None
                case Unloaded(model=model):
                    self._names.pop(model, None)

    def names(self, pid: int | None) -> tuple[str, ...]:
        """Return the models in memory of process ``pid``; none without a process."""
        with self._lock:
            return tuple(self._names) if pid is not None and pid == self._pid else ()

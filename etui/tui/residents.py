"""Which models the engine's process holds, as its events tell it."""

from __future__ import annotations

from etui.engine.events import Loaded, Unloaded


class Residents:
    """Names in the order of their loads; another process begins with none."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._pid: int | None = None

    def saw(self, event: object, pid: int | None) -> None:
        """Take note of what a load or an unload in process ``pid`` changes."""
        if pid != self._pid:
            self._names.clear()
            self._pid = pid
        match event:
            case Loaded(model=model):
                self._names[model] = None
            case Unloaded(model=model):
                self._names.pop(model, None)

    def names(self, pid: int | None) -> tuple[str, ...]:
        """The models that process ``pid`` holds; none without a process."""
        return tuple(self._names) if pid is not None and pid == self._pid else ()

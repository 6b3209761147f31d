"""Keep the model of the current setting in memory, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from etui.engine.llama_session import LlamaSession
from etui.engine.residency import Residency
from etui.events import Loaded

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import ModelSpec
    from etui.sweep.axes.configure import Configured


class Loader(Protocol):
    """Puts the model of a setting into memory."""

    def load(self, setting: Configured) -> LlamaSession:
        """Return the session of a setting, which is loaded unless it is in memory.

        Raises:
            EtuiError: It cannot be loaded.
        """

    def unload(self) -> None:
        """Free all memory."""


class ModelLoader:
    """Loads one model at a time: a second one in memory could take power, or slow the first down.

    A setting that differs in what a session can change (threads, the depth of drafts) does not load
    the model again.
    """

    def __init__(self, on_load: Callable[[ModelSpec, Loaded], object] | None = None) -> None:
        self._on_load = on_load
        self._residency: Residency | None = None
        self._config: Config | None = None

    def load(self, setting: Configured) -> LlamaSession:
        """Return the session of a setting, which is loaded unless it is in memory.

        Raises:
            ModelUnavailable: The file is no usable model, or llama.cpp rejected it.
            EngineFailed: llama.cpp is missing, or memory ran out.
        """
        if self._residency is None or setting.config != self._config:
            self.unload()
            self._residency = Residency(setting.config, trials=True)
            self._config = setting.config
        residency = self._residency
        for name in residency.resident:
            if name != setting.spec.name:
                for _ in residency.unload(name):
                    pass
        loading = residency.session(setting.spec, setting.path, setting.draft)
        while True:
            try:
                event = next(loading)
            except StopIteration as end:
                session: LlamaSession = end.value
                return session
            if isinstance(event, Loaded) and self._on_load is not None:
                self._on_load(setting.spec, event)

    def unload(self) -> None:
        """Free the model."""
        if self._residency is not None:
            self._residency.close()
            self._residency = None

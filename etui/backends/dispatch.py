"""Dispatch requests between this machine and remote backends, by the model that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from etui.backends.base import Answerer, AnswerRequest, ModelHost, NumberedAnswerer
from etui.errors import ModelUnavailable
from etui.events import Event, Residence, SharedBatch, Unloaded

if TYPE_CHECKING:
    from etui.backends.remote.backend import RemoteBackend
    from etui.models.spec import ModelSpec

H = TypeVar("H", bound=ModelHost)


class DispatchingBackend(Generic[H]):
    """Answers with the local backend or with a remote one, as the model of a request says.

    What only a local backend has (its process, idle unloads, keep-warm times) is that of the local
    one, so that front ends use this as if it was the local one.

    Args:
        open_local: Opens the local backend, at its first use: a machine that only asks remote
            models starts no engine.
    """

    def __init__(self, open_local: Callable[[], H], remotes: Mapping[str, RemoteBackend]) -> None:
        self._open_local = open_local
        self._opened: H | None = None
        self._remotes = remotes
        self._running: Answerer | None = None

    @property
    def local(self) -> H:
        """The local backend."""
        if self._opened is None:
            self._opened = self._open_local()
        return self._opened

    @property
    def remotes(self) -> Mapping[str, RemoteBackend]:
        """The remote backends by name."""
        return self._remotes

    @property
    def on_batch(self) -> Callable[[SharedBatch], None] | None:
        """As that of the local backend."""
        return getattr(self.local, "on_batch", None)

    @on_batch.setter
    def on_batch(self, report: Callable[[SharedBatch], None] | None) -> None:
        self.local.on_batch = report  # type: ignore[attr-defined]

    @property
    def on_unloaded(self) -> Callable[[Unloaded], None] | None:
        """As that of the local backend."""
        return getattr(self.local, "on_unloaded", None)

    @on_unloaded.setter
    def on_unloaded(self, report: Callable[[Unloaded], None] | None) -> None:
        self.local.on_unloaded = report  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        """Return what only the local backend has."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.local, name)

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request; see the backend of its model.

        Raises:
            ModelUnavailable: There is no backend of that name.
        """
        host = self._find(request.model)
        self._running = host
        return host.answer(request)

    def cancel(self) -> None:
        """End the running answer."""
        for host in self._find_running():
            host.cancel()

    def hurry(self) -> None:
        """End the thinking of the running answer, because its joules are spent."""
        for host in self._find_running():
            host.hurry()

    def load(
        self, model: ModelSpec, path: Path | None, draft: tuple[ModelSpec, Path] | None = None
    ) -> Iterable[Residence]:
        """Load a model, or check that its backend serves it."""
        host = self._find(model)
        return host.load(model, path, draft)  # type: ignore[arg-type]

    def unload(self, model: str) -> Iterable[Residence]:
        """Unload a local model; yields nothing if it is not in memory here."""
        return iter(()) if self._opened is None else self._opened.unload(model)

    def forget(self) -> None:
        """Clear the prefix caches of the local models; servers decide about theirs."""
        if self._opened is not None:
            self._opened.forget()  # type: ignore[attr-defined]

    def open_answerer(self) -> NumberedAnswerer:
        """Return an answerer for the requests of one turn, whichever models they ask for."""
        return DispatchingAnswerer(self)

    def close(self) -> None:
        """Unload every model, and end running remote answers; the next request opens them again."""
        try:
            if self._opened is not None:
                self._opened.close()
        finally:
            for remote in self._remotes.values():
                remote.close()

    def _find(self, model: ModelSpec) -> H | RemoteBackend:
        return self.local if model.backend is None else self.find_remote(model.backend)

    def find_remote(self, name: str) -> RemoteBackend:
        """Return a remote backend.

        Raises:
            ModelUnavailable: config.yaml has none of that name.
        """
        if name not in self._remotes:
            raise ModelUnavailable(
                f"config.yaml has no backend {name!r}", "add it under `backends`"
            )
        return self._remotes[name]

    def _find_running(self) -> Iterable[Answerer]:
        """Return who may be answering; before the first answer that is the local backend."""
        if self._running is not None:
            return (self._running,)
        return () if self._opened is None else (self._opened,)


class DispatchingAnswerer:
    """Answers the requests of one turn; each by the backend of its model.

    ``cancel`` and ``hurry`` may be called from any thread.
    """

    def __init__(self, backend: DispatchingBackend[Any]) -> None:
        self._backend = backend
        self._local: NumberedAnswerer | None = None
        self._running: Answerer | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its local answers, which shared batches name."""
        return () if self._local is None else self._local.numbers

    @property
    def last_energy(self) -> Mapping[str, Any] | None:
        """The energy document of the last answer, if another etui gave it."""
        return getattr(self._running, "last_energy", None)

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request; see the backend of its model."""
        if request.model.backend is not None:
            answerer: Answerer = self._backend.find_remote(request.model.backend).open_answerer()
        else:
            if self._local is None:
                self._local = self._backend.local.open_answerer()
            answerer = self._local
        self._running = answerer
        return answerer.answer(request)

    def cancel(self) -> None:
        """End the running answer, in a queue, a load or a batch, or at its server."""
        if self._running is not None:
            self._running.cancel()

    def hurry(self) -> None:
        """End the thinking of the running answer, because its joules are spent."""
        if self._running is not None:
            self._running.hurry()

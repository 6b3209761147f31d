"""Keep models in memory: load them on demand, unload the least recently used for room."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui import units
from etui.engine.library import Device
from etui.engine.llama_session import LlamaSession
from etui.engine.offload import Needs, Placement, choose_placement, ram_bytes
from etui.engine.session_loader import (
    Draft,
    SessionLoader,
    apply_settings,
    check_split,
    session_key,
)
from etui.engine.trial import try_model
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Loaded, Residence, Unloaded, UnloadReason
from etui.models.adapters import check_adapters, read_projector
from etui.models.gguf import Gguf, check_usable

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.engine.kv_store import KvStore
    from etui.models.spec import ModelSpec


SPILL_SECONDS = 3.0
"""Most time to write KV caches to disk at the end; the rest is computed again."""


def finish_load(
    loading: Generator[Residence, None, LlamaSession],
) -> tuple[LlamaSession, Loaded | None]:
    """Finish a load; return its session, and the load event if the model was not in memory."""
    loaded = None
    while True:
        try:
            event = next(loading)
        except StopIteration as end:
            return end.value, loaded
        if isinstance(event, Loaded):
            loaded = event


@dataclass(slots=True)
class _Resident:
    session: LlamaSession
    key: tuple[object, ...]
    draft: Path | None
    """File of its draft model, even if that did not fit; None if none was needed so far."""
    sha256: str | None
    bytes: int
    gguf: Gguf
    placement: Placement
    used_seconds: float
    """When it was last requested or ended an answer, on the clock of its Residency."""
    uses: int = 0
    """Answers that run on it; it is not unloaded meanwhile."""


class Residency:
    """The models in memory; used from one thread at a time.

    llama.cpp is imported when the first model is loaded.

    Args:
        trials: As in :class:`SessionLoader`; for processes that must survive a crash of llama.cpp.
        store: Keeps the KV caches of chats that have left the context; None computes them again.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.monotonic,
        *,
        trials: bool = False,
        parent: int | None = None,
        store: KvStore | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._loader = SessionLoader(config, trials=trials, parent=parent)
        self._residents: dict[str, _Resident] = {}  # least recently used first
        self._keep_seconds: dict[str, float | None] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the models in memory, least recently used first."""
        return tuple(self._residents)

    def session(
        self, spec: ModelSpec, path: Path, draft: Draft | None = None
    ) -> Generator[Residence, None, LlamaSession]:
        """Load a model unless it is in memory, and return its session.

        A load starts after the last unload, so that no joule is counted twice. A model that is in
        memory without the draft model is loaded again with it; one that has it keeps it. Other
        threads and another depth of drafts are set without a load.

        Raises:
            ModelUnavailable: The file is no usable model, or llama.cpp rejected it.
            EngineFailed: llama.cpp is missing, or memory ran out.
        """
        if (resident := self._find(spec, path, draft)) is not None:
            self._residents[spec.name] = self._residents.pop(spec.name)
            resident.used_seconds = self._clock()
            apply_settings(resident.session, spec, self._config)
            return resident.session
        start_ns = time.monotonic_ns()
        gguf = check_usable(path)
        check_adapters(spec, gguf)
        if spec.mmproj is not None:
            read_projector(spec.mmproj, spec.name)
        if self._loader.trials:
            try_model(spec, path, self._config)
            start_ns = time.monotonic_ns()
        need = self._loader.estimate(spec, gguf)
        check_split(spec, self.gpus())
        for unloaded in self._make_room(spec, need):
            yield unloaded
            start_ns = time.monotonic_ns()
        session, placement = self._loader.load(spec, path, gguf, need)
        if self._store is not None:
            session.keep_in(self._store, self._loader.state_key(spec, path, session))
        bytes_ = need.total_bytes
        if draft is not None:
            bytes_ += self._loader.add_draft(spec, draft, session, placement.gpu_layers)
        self._residents[spec.name] = _Resident(
            session,
            session_key(spec, path),
            None if draft is None else draft[1],
            spec.sha256,
            bytes_,
            gguf,
            placement,
            self._clock(),
        )
        end_ns = time.monotonic_ns()
        layers, cpu_moe = placement.gpu_layers, placement.cpu_moe
        yield Loaded(spec.name, start_ns, end_ns, layers, gguf.size_bytes, cpu_moe)
        return session

    def find(self, spec: ModelSpec, path: Path, draft: Draft | None = None) -> LlamaSession | None:
        """Return the session of a model that is in memory as asked; None if it has to be loaded."""
        resident = self._find(spec, path, draft)
        return None if resident is None else resident.session

    def _find(self, spec: ModelSpec, path: Path, draft: Draft | None) -> _Resident | None:
        resident = self._residents.get(spec.name)
        if resident is None or resident.key != session_key(spec, path):
            return None
        return resident if draft is None or resident.draft == draft[1] else None

    def hold(self, name: str) -> None:
        """Count an answer that begins on a model in memory, which is then not unloaded."""
        self._residents[name].uses += 1

    def release(self, name: str) -> None:
        """End the use that ``hold`` began, and restart the keep-warm time of the model."""
        resident = self._residents[name]
        resident.uses -= 1
        resident.used_seconds = self._clock()
        self._loader.note_speed(resident.gguf, resident.placement, resident.session)

    def gpus(self) -> tuple[Device, ...]:
        """Return the GPUs that models are put on, and their free memory; it loads llama.cpp."""
        return self._loader.library.gpus()

    @property
    def gpu_layers_placed(self) -> int | None:
        """Layers of the last load that llama.cpp put on a GPU; None if its log does not say."""
        library = self._loader.opened
        return None if library is None else library.gpu_layers_placed

    @property
    def cpu_moe_placed(self) -> int | None:
        """Blocks of the last load whose experts llama.cpp kept in RAM; None before one."""
        library = self._loader.opened
        return None if library is None else library.cpu_moe_placed

    def keep_warm(self, name: str, seconds: float | None) -> None:
        """Set how long a model, in memory or not, is kept after its last answer.

        It replaces the configured time; None keeps the model until another needs the memory.
        """
        self._keep_seconds[name] = seconds

    def _list_due(self) -> list[tuple[float, str]]:
        """List when each unused model is to be unloaded, with its name; ``auto`` keeps it."""
        configured = self._config.keep_warm
        usual = configured if isinstance(configured, int | float) else None
        return [
            (resident.used_seconds + keep, name)
            for name, resident in list(self._residents.items())  # another thread may load
            if not resident.uses and (keep := self._keep_seconds.get(name, usual)) is not None
        ]

    def seconds_to_unload(self) -> float | None:
        """Return the seconds until the next idle unload; None if none is due, or all are in use."""
        due = [at for at, _ in self._list_due()]
        return max(0.0, min(due) - self._clock()) if due else None

    def unload_idle(self) -> tuple[Unloaded, ...]:
        """Unload the models whose keep-warm time is over, except those in use."""
        now = self._clock()
        return tuple(self._unload(name, "idle") for at, name in self._list_due() if now >= at)

    def forget(self) -> None:
        """Clear the prefix caches; all models stay in memory."""
        for resident in self._residents.values():
            resident.session.forget()

    def unload(self, name: str) -> Iterator[Unloaded]:
        """Unload a model at the user's request; yield nothing if it is not in memory.

        EngineFailed while an answer uses it.
        """
        if name in self._residents:
            yield self._unload(name, "asked")

    def _unload(self, name: str, reason: UnloadReason) -> Unloaded:
        if self._residents[name].uses:
            raise EngineFailed(
                f"{name} cannot be unloaded while it answers", "wait until its answers have ended"
            )
        resident = self._residents.pop(name)
        self._loader.note_speed(resident.gguf, resident.placement, resident.session)
        start_ns = time.monotonic_ns()
        resident.session.free()
        if not self._residents:
            self._loader.templates.close()
        end_ns = time.monotonic_ns()
        return Unloaded(name, resident.sha256, start_ns, end_ns, reason, resident.bytes)

    def close(self) -> None:
        """Free every model, and write to disk what is kept in memory."""
        while self._residents:
            resident = self._residents.popitem()[1]
            self._loader.note_speed(resident.gguf, resident.placement, resident.session)
            resident.session.free()
        self._loader.close()
        if self._store is not None:
            self._store.spill(SPILL_SECONDS)

    def _make_room(self, spec: ModelSpec, need: Needs) -> Iterator[Unloaded]:
        """Unload models until this one fits into free memory, and reject one that cannot fit.

        Weights are mapped from the file, so a model larger than memory still runs, slowly; its
        KV cache and buffers must fit.
        """
        import psutil

        if spec.name in self._residents:
            yield self._unload(spec.name, "changed")
        while unused := [name for name, each in self._residents.items() if not each.uses]:
            if self._fits(spec, need):
                break
            yield self._unload(unused[0], "room")
        working = need.kv_bytes + need.compute_bytes
        free = psutil.virtual_memory().available
        if working > free and not self.gpus():
            raise ModelUnavailable(
                f"{spec.name} needs {units.bytes_text(working)} for its context, "
                f"but only {units.bytes_text(free)} of memory are free",
                "lower its `context` in models.yaml, or `context_tokens` in config.yaml",
            )

    def _fits(self, spec: ModelSpec, need: Needs) -> bool:
        """Check whether the model fits into free memory; with ``auto`` entirely on the GPUs."""
        import psutil

        gpus = self.gpus()
        placement = choose_placement(gpus, spec, need)
        roomy = [replace(gpu, free_bytes=1 << 62) for gpu in gpus]
        if placement != choose_placement(roomy, spec, need):
            return False  # it would have more on the GPUs
        shared = any(gpu.integrated for gpu in gpus)  # its memory is RAM
        kept = ram_bytes(need, Placement() if shared else placement)
        return kept <= psutil.virtual_memory().available

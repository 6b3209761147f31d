"""The data that the models screen shows for each model, read in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve
from etui.energy.cool_down import describe_cool_down
from etui.engine.library import built_for_gpu, library_folder
from etui.engine.offload import Needs, needs
from etui.errors import EtuiError
from etui.log.queries import LogReader
from etui.log.totals import Total
from etui.models.catalogue import load_catalogue
from etui.models.download import kept_bytes
from etui.models.files import FileState, file_state, model_path, recorded_sha256
from etui.models.gguf import Gguf, check_usable
from etui.models.spec import ModelSpec
from etui.models.tuned import TunedUse
from etui.runtime.host import read_host
from etui.runtime.keep_warm import (
    ModelIdle,
    build_cool_down,
    find_last_cool_down,
    read_all_idle,
)
from etui.sweep.run.find import sweeps_dir
from etui.tui.models.last_sweep import LastSweep, SweepResults
from etui.turn.record import LoadRecord, UnloadRecord

_LOADS = 200
"""Number of newest loads and unloads searched for those of each model."""

_SHOWN_LOADS = 5


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of models.yaml and everything known about it on this machine.

    Attributes:
        spec: The entry.
        path: Location of the file, whether it exists or not.
        state: Whether the file exists and was checked.
        file_bytes: Size of the file, or of the one to pull; None if unknown.
        kept_bytes: Bytes kept from an interrupted pull.
        gguf, need: Header of the file and its memory need; None without a valid file.
        fault: Why the header of an existing file cannot be used; empty if it can.
        curve: The newest operating curve of this file.
        total: Totals of its turns in the log.
        loads: Its last loads and unloads, newest first.
        idle: What keeping it warm costs; None if nothing was measured or logged.
        tuned: The settings that a sweep chose, and what of them is used; None without any.
        sweep: Its newest sweep; None without one.
    """

    spec: ModelSpec
    path: Path
    state: FileState
    file_bytes: int | None
    kept_bytes: int = 0
    gguf: Gguf | None = None
    need: Needs | None = None
    fault: str = ""
    curve: OperatingCurve | None = None
    total: Total | None = None
    loads: tuple[LoadRecord | UnloadRecord, ...] = ()
    idle: ModelIdle | None = None
    tuned: TunedUse | None = None
    sweep: LastSweep | None = None

    @property
    def can_apply(self) -> bool:
        """Whether its newest sweep has a better setting that is not in use yet."""
        if self.sweep is None or not self.sweep.is_better:
            return False
        return self.tuned is None or self.tuned.settings.sweep != self.sweep.id

    @property
    def has_file(self) -> bool:
        """Whether the file exists, valid or not."""
        return self.state != "absent"

    @property
    def need_bytes(self) -> int | None:
        """Memory need in bytes; without a readable header the file size, a lower bound."""
        return self.need.total_bytes if self.need is not None else self.file_bytes


@dataclass(frozen=True, slots=True)
class Cards:
    """All models, and the free memory of the machine in bytes; None if unknown.

    ``gpu_bytes`` is None for a GPU that this build of llama.cpp cannot use. ``cool_down`` says
    whether the machine went back to cold after the last unload; empty without one. ``problem`` is
    why no settings of sweeps are used; empty if they are.
    """

    models: tuple[ModelCard, ...]
    ram_bytes: float | None = None
    gpu_bytes: float | None = None
    cool_down: str = ""
    problem: str = ""


class CardReader:
    """Reads the cards; the headers of unchanged files are cached."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._log = LogReader(config)
        self._headers: dict[tuple[Path, int, int], Gguf | str] = {}
        self._gpu = built_for_gpu(library_folder())
        self._sweeps = SweepResults(sweeps_dir(config))

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def read(self) -> Cards:
        """Read the current cards.

        Raises:
            EtuiError: models.yaml or the log cannot be read.
        """
        host = read_host(self._config)
        totals = {total.key: total for total in self._log.totals("model")}
        loads: list[LoadRecord | UnloadRecord] = [
            *self._log.loads(_LOADS),
            *self._log.unloads(_LOADS),
        ]
        loads.sort(key=lambda record: record.created_at, reverse=True)
        catalogue = load_catalogue(self._config)
        idle = {
            found.model: found
            for found in read_all_idle(self._log, self._config, catalogue)
            if found.is_known
        }
        sweeps = self._sweeps.find_last()
        models = [
            replace(
                self._card(spec, totals.get(spec.name), loads),
                idle=idle.get(spec.name),
                tuned=catalogue.tuned.get(spec.name),
                sweep=sweeps.get(spec.name),
            )
            for spec in catalogue
        ]
        last = find_last_cool_down(self._log)
        on_gpu = host.gpu_free_memory_gb if self._gpu else None
        return Cards(
            tuple(models),
            _gigabytes_to_bytes(host.free_memory_gb),
            _gigabytes_to_bytes(on_gpu),
            "" if last is None or last[1] else describe_cool_down(build_cool_down(last[0])),
            catalogue.problem,
        )

    def _card(
        self, spec: ModelSpec, total: Total | None, loads: Sequence[LoadRecord | UnloadRecord]
    ) -> ModelCard:
        path, state = model_path(spec, self._config), file_state(spec, self._config)
        header = self._header(path) if state != "absent" else None
        gguf = header if isinstance(header, Gguf) else None
        model_loads = [load for load in loads if load.model == spec.name][:_SHOWN_LOADS]
        return ModelCard(
            spec=spec,
            path=path,
            state=state,
            file_bytes=gguf.size_bytes if gguf is not None else spec.file_bytes,
            kept_bytes=kept_bytes(spec, self._config) if state == "absent" else 0,
            gguf=gguf,
            need=None if gguf is None else needs(gguf, self._context(spec, gguf), spec.kv_type),
            fault=header if isinstance(header, str) else "",
            curve=self._curve(spec),
            total=total,
            loads=tuple(model_loads),
        )

    def _header(self, path: Path) -> Gguf | str:
        try:
            stat = path.stat()
            key = (path, stat.st_size, stat.st_mtime_ns)
            if key not in self._headers:
                self._headers[key] = check_usable(path)
            return self._headers[key]
        except EtuiError as error:
            return error.what
        except OSError as error:
            return f"cannot read {path}: {error.strerror or error}"

    def _context(self, spec: ModelSpec, gguf: Gguf) -> int:
        """Return the context length that a load would use, in tokens."""
        limits = (spec.context, gguf.context_tokens, self._config.context_tokens)
        return min(limit for limit in limits if limit)

    def _curve(self, spec: ModelSpec) -> OperatingCurve | None:
        sha256 = spec.sha256 or recorded_sha256(spec, self._config)
        curves = [c for c in self._log.curves(spec.name) if sha256 in (None, c.model_sha256)]
        return next(iter(curves), None)


def _gigabytes_to_bytes(gigabytes: float | None) -> float | None:
    return None if gigabytes is None else gigabytes * 1e9

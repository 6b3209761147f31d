"""Read the cards of all models, in a thread: files, headers, log, curves, sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from textual.message import Message

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve
from etui.energy.idle import describe_cool_down
from etui.energy.types import ChannelPower
from etui.engine.library import built_for_gpu, library_folder
from etui.engine.offload import needs
from etui.errors import EtuiError
from etui.log.queries import LogReader
from etui.log.totals import Total
from etui.models.catalogue import load_catalogue
from etui.models.download import kept_bytes
from etui.models.files import file_state, model_path, recorded_sha256
from etui.models.gguf import Gguf, check_usable
from etui.models.memory_speed import load_memory_speed
from etui.models.recommend import (
    estimate_need_bytes,
    recommend_model,
)
from etui.models.spec import ModelSpec
from etui.runtime.forecast import (
    MachineFacts,
)
from etui.runtime.host import read_host
from etui.runtime.keep_warm import (
    build_cool_down,
    find_last_cool_down,
    read_all_idle,
)
from etui.sweep.folder import sweeps_dir
from etui.tui.models.cards import Cards, ModelCard, add_forecast, build_candidates, list_measured
from etui.tui.models.last_sweep import SweepResults
from etui.tui.services import Services
from etui.turn.record import LoadRecord, UnloadRecord

_LOADS = 200
"""Number of newest loads and unloads searched for those of each model."""

_SHOWN_LOADS = 5
_GPU = "gpu:"


class CardsRead(Message):
    """The current models, or the error that prevented reading them."""

    def __init__(self, cards: Cards | None, what: str = "", fix: str = "") -> None:
        super().__init__()
        self.cards = cards
        self.what = what
        self.fix = fix


def limit_without_gpus(channels: Iterable[ChannelPower]) -> float | None:
    """Sum the limits of the channels of the total that are no GPUs; None if one is unknown."""
    limits = [
        power.channel.limit_watts
        for power in channels
        if power.in_total and not power.channel.scope.startswith(_GPU)
    ]
    known = [watts for watts in limits if watts is not None]
    return sum(known) if known and len(known) == len(limits) else None


class CardReader:
    """Reads the cards; the headers of unchanged files are cached.

    Args:
        limit_watts: Returns the power limit of the machine without its GPUs; None if unknown.
    """

    def __init__(
        self, config: Config, limit_watts: Callable[[], float | None] = lambda: None
    ) -> None:
        self._config = config
        self._limit_watts = limit_watts
        self._has_measured = False
        self._log = LogReader(config)
        self._headers: dict[tuple[Path, int, int], Gguf | str] = {}
        self._gpu = built_for_gpu(library_folder())
        self._sweeps = SweepResults(sweeps_dir(config))

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def read_all(self, services: Services | None) -> Iterator[Cards]:
        """Yield the current cards, and once more after the memory was measured for the first time.

        Args:
            services: Measures the memory; None if they are not open yet.

        Raises:
            EtuiError: models.yaml or the log cannot be read, or the memory cannot be measured.
        """
        cards = self.read()
        yield cards
        machine = cards.machine
        known = machine.memory_bytes_per_second is not None and not machine.memory_busy
        if services is None or known or self._has_measured or services.runner.is_busy():
            return
        self._has_measured = True  # a failure is said once, and not with every look
        services.shelf.measure_memory(services.threads, services.runner.is_busy)
        yield self.read()

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
        ram_bytes = _gigabytes_to_bytes(host.free_memory_gb)
        gpu_bytes = _gigabytes_to_bytes(host.gpu_free_memory_gb if self._gpu else None)
        speed = load_memory_speed(self._config)
        machine = MachineFacts(
            None if speed is None else speed.bytes_per_second,
            self._limit_watts(),
            list_measured(models, machine_name()),
            speed is not None and speed.busy,
        )
        cards = tuple(add_forecast(card, machine, ram_bytes, gpu_bytes) for card in models)
        return Cards(
            cards,
            ram_bytes,
            gpu_bytes,
            "" if last is None or last[1] else describe_cool_down(build_cool_down(last[0])),
            catalogue.problem,
            machine,
            recommend_model(build_candidates(cards), ram_bytes, gpu_bytes),
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
            expected_bytes=estimate_need_bytes(spec, self._config.context_tokens),
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

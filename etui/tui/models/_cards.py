"""Read the cards of all models, in a thread: files, headers, log, curves, sweeps."""

from __future__ import annotations

import json
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from etui import units
from etui.codec import from_document
from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.curves.prediction import (
    DecodeForecast,
    MachineFacts,
    MeasuredModel,
    ModelWork,
    Prediction,
    measured_from,
    predict,
    usable_context,
    work_of_entry,
    work_of_header,
)
from etui.energy.idle import describe_cool_down
from etui.engine.builds import describe_engine
from etui.engine.library import built_for_gpu, library_folder
from etui.engine.offload import Needs, needs
from etui.errors import EtuiError, ModelUnavailable
from etui.log.model_usage import ModelUsage, read_model_usage
from etui.log.past_answers import read_quiet_speed, read_speed
from etui.log.queries import LogReader
from etui.log.totals import Total
from etui.models import recommend
from etui.models.adapters import check_adapters, size_adapters
from etui.models.catalogue import load_catalogue
from etui.models.download import kept_bytes
from etui.models.files import FileState, content_sha256, file_state, may_be_content, model_path
from etui.models.found import FoundModel
from etui.models.gguf import Gguf, check_usable
from etui.models.memory_speed import load_memory_speed
from etui.models.recommend import Fit
from etui.models.spec import ModelSpec, PathSource
from etui.models.tuned import TunedUse
from etui.runtime import keep_warm
from etui.runtime.host import read_host
from etui.runtime.keep_warm import ModelIdle
from etui.runtime.measure_memory import gigabytes_to_bytes, limit_without_gpus
from etui.sweep.folder import REPORT, RESULT, sweeps_dir
from etui.tui._work import in_thread
from etui.tui.measurements import SweepResult
from etui.tui.services import Services
from etui.turn.record import LoadRecord, UnloadRecord


class SweepResults:
    """Reads the results; those of unchanged files are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[Path, int], SweepResult | None] = {}

    def find_last(self) -> Mapping[str, SweepResult]:
        """Return the newest sweep of each model; a result that cannot be read is left out."""
        read: dict[tuple[Path, int], SweepResult | None] = {}
        for path in sorted(self._folder.glob(f"*/{RESULT}")):  # names begin with the time
            with suppress(OSError):
                key = (path, path.stat().st_mtime_ns)
                read[key] = self._read[key] if key in self._read else _read_result(path)
        self._read = read
        return {result.model: result for result in read.values() if result is not None}


def _read_result(path: Path) -> SweepResult | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        result = from_document(SweepResult, document, extra="ignore")
    except (OSError, ValueError):
        return None
    has_report = (path.parent / REPORT).is_file()
    return replace(result, folder=str(path.parent), has_report=has_report)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of models.yaml and everything known about it on this machine."""

    spec: ModelSpec
    path: Path  # Location of the file, whether it exists or not
    state: FileState  # Whether the file exists and was checked
    file_bytes: int | None  # Size of the file, or of the one to pull; None if unknown
    kept_bytes: int = 0  # Bytes kept from an interrupted pull
    gguf: Gguf | None = None
    need: Needs | None = None
    fault: str = ""  # Why the header of an existing file cannot be used; empty if it can
    curve: OperatingCurve | None = None  # The newest operating curve of this file
    total: Total | None = None  # Totals of its turns in the log
    usage: ModelUsage | None = None  # What it was used for, as the log says; None if it never was
    past: Speed | None = None  # Speed of the last turns of this file on this machine
    quiet: Speed | None = None  # The same of those beside which no other program ran
    loads: tuple[LoadRecord | UnloadRecord, ...] = ()  # Its last loads and unloads, newest first
    idle: ModelIdle | None = None
    """What keeping it warm costs; None if nothing was measured or logged."""
    tuned: TunedUse | None = None
    """The settings that a sweep chose, and what of them is used; None without any."""
    sweep: SweepResult | None = None  # Its newest sweep; None without one
    found: FoundModel | None = None
    """The model of another program that this is, as long as models.yaml does not name it."""
    prediction: Prediction = field(default_factory=Prediction)
    """The memory that it needs, where it fits, and its decode, measured or predicted."""

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
    def was_on_gpu(self) -> bool:
        """Whether its last load put layers on a GPU."""
        loads = (load for load in self.loads if isinstance(load, LoadRecord))
        return any(load.gpu_layers > 0 for load in islice(loads, 1))

    @property
    def work(self) -> ModelWork | None:
        """What a decoded token takes; without a header by the entry."""
        if self.gguf is None:
            return work_of_entry(self.spec, self.file_bytes)
        return work_of_header(self.gguf, self.spec.kv_type)

    @property
    def need_bytes(self) -> int | None:
        return self.prediction.need_bytes

    @property
    def fit(self) -> Fit:
        return self.prediction.fit

    @property
    def forecast(self) -> DecodeForecast:
        return self.prediction.forecast


@dataclass(frozen=True, slots=True)
class Cards:
    """All models, and what is known of the machine."""

    models: tuple[ModelCard, ...]
    cool_down: str = ""  # Compares the idle power after the last unload; empty without one
    problem: str = ""  # Why no settings of sweeps are used; empty if they are
    machine: MachineFacts = field(default_factory=MachineFacts)  # What predictions are based on
    recommended: str | None = None
    """The model to begin with; None where no measurement speaks for one yet, or none fits."""
    prebuilt: bool = False
    """Whether llama.cpp is the ready-made one, which a build for this machine may outrun."""

    def find(self, name: str) -> ModelCard | None:
        return next((card for card in self.models if card.spec.name == name), None)


def add_forecast(
    card: ModelCard, machine: MachineFacts, most_context: int | None = None
) -> ModelCard:
    """Return the card with where it fits, its speed and its joules; a remote one has none."""
    curve = card.curve
    if curve is not None and machine_name() != curve.conditions.machine:
        curve = None
    prediction = predict(card.spec, card.gguf, machine, curve, card.past, most_context=most_context)
    return replace(card, prediction=prediction)


def list_measured(cards: Iterable[ModelCard], machine: str) -> tuple[MeasuredModel, ...]:
    """List the models that were measured on a machine, to predict others from them."""
    found = (
        measured_from(
            card.spec.name, card.work, card.curve, machine, card.quiet, on_gpu=card.was_on_gpu
        )
        for card in cards
        if card.spec.backend is None
    )
    return tuple(one for one in found if one is not None)


def build_candidates(cards: Iterable[ModelCard]) -> list[recommend.Candidate]:
    """Build what a recommendation looks at, for each model of this machine of a known size."""
    return [
        recommend.Candidate(
            card.spec.name,
            card.file_bytes,
            card.need_bytes,
            card.forecast.tokens_per_second,
            card.spec.recommend,
        )
        for card in cards
        if card.spec.backend is None and card.file_bytes is not None and card.need_bytes is not None
    ]


_REMEASURE_NS = 60_000_000_000
"""Time after which a busy machine is measured again, as the load is that of the last minute."""
_LOADS = 200  # Number of newest loads and unloads searched for those of each model
_SHOWN_LOADS = 5


class CardReader:
    """Reads the cards; the headers of unchanged files are cached."""

    def __init__(self, config: Config, services: Callable[[], Services | None]) -> None:
        self._config = config
        self._services = services
        self._measured_ns: int | None = None
        self._log: LogReader | None = None
        self._headers: dict[tuple[Path, int, int], Gguf | str] = {}
        self._gpu = self._prebuilt = False
        self._sweeps = SweepResults(sweeps_dir(config))

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    async def read_all(self, fix: str) -> AsyncIterator[Cards]:
        """Yield the current cards, and again after the memory was measured.

        It is measured until that was done once while nothing else ran, but not with every look.
        """
        cards = await in_thread(self.read, fix)
        yield cards
        services, now_ns = self._services(), time.monotonic_ns()
        if services is None or cards.machine.memory_bytes_per_second is not None:
            return
        is_recent = self._measured_ns is not None and now_ns - self._measured_ns < _REMEASURE_NS
        if is_recent or services.runner.is_busy():
            return
        self._measured_ns = now_ns
        shelf, runner, threads = services.shelf, services.runner, services.threads
        await in_thread(lambda: shelf.measure_memory(threads, runner.is_busy), fix)
        yield await in_thread(self.read, fix)

    def read(self) -> Cards:
        if self._log is None:
            self._log = LogReader(self._config)
            self._gpu = built_for_gpu(library_folder(self._config.engines_dir))
            self._prebuilt = "(prebuilt)" in (describe_engine(self._config.engines_dir) or "")
        log, host = self._log, read_host(self._config)
        totals = {total.key: total for total in log.totals("model")}
        used = read_model_usage(log)
        loads: list[LoadRecord | UnloadRecord] = [*log.loads(_LOADS), *log.unloads(_LOADS)]
        loads.sort(key=lambda record: record.created_at, reverse=True)
        catalogue = load_catalogue(self._config)
        idle = {
            found.model: found
            for found in keep_warm.read_all_idle(log, self._config, catalogue)
            if found.is_known
        }
        sweeps = self._sweeps.find_last()
        models = [
            replace(
                self._card(log, spec, totals.get(spec.name), loads),
                usage=sum(used[spec.name].values(), ModelUsage()) if spec.name in used else None,
                idle=idle.get(spec.name),
                tuned=catalogue.tuned.get(spec.name),
                sweep=sweeps.get(spec.name),
            )
            for spec in catalogue
        ]
        models += self._list_found({card.path for card in models})
        last = keep_warm.find_last_cool_down(log)
        speed, services = load_memory_speed(self._config), self._services()
        summed = [] if services is None else [p for p in services.meter.latest() if p.in_total]
        machine = MachineFacts(
            None if speed is None or speed.busy else speed.bytes_per_second,
            limit_without_gpus(power.channel for power in summed),
            list_measured(models, machine_name()),
            speed is not None and speed.busy,
            gigabytes_to_bytes(host.free_memory_gb),
            gigabytes_to_bytes(host.gpu_free_memory_gb if self._gpu else None),
        )
        most_context = self._config.context_tokens
        cards = tuple(add_forecast(card, machine, most_context) for card in models)
        cooled = None if last is None or last[1] else keep_warm.build_cool_down(last[0])
        return Cards(
            cards,
            "" if cooled is None else describe_cool_down(cooled),
            catalogue.problem,
            machine,
            self._recommend(cards, machine),
            self._prebuilt,
        )

    def _recommend(self, cards: Iterable[ModelCard], machine: MachineFacts) -> str | None:
        kept, candidates = recommend.load_recommended(self._config), build_candidates(cards)
        name = recommend.recommend_model(candidates, machine.ram_bytes, machine.gpu_bytes, kept)
        if name not in (None, kept):
            recommend.save_recommended(self._config, name)
        return name

    def _card(
        self,
        log: LogReader,
        spec: ModelSpec,
        total: Total | None,
        loads: Sequence[LoadRecord | UnloadRecord],
    ) -> ModelCard:
        path, state = model_path(spec, self._config), file_state(spec, self._config)
        header = self._header(path) if state != "absent" else None
        gguf = header if isinstance(header, Gguf) else None
        model_loads = [load for load in loads if load.model == spec.name][:_SHOWN_LOADS]
        past = quiet = None
        if total is not None and state != "absent":
            of_file = (spec.name, content_sha256(spec, self._config), machine_name())
            past, quiet = read_speed(log, *of_file), read_quiet_speed(log, *of_file)
        return ModelCard(
            spec=spec,
            path=path,
            state=state,
            file_bytes=gguf.size_bytes if gguf is not None else spec.file_bytes,
            kept_bytes=kept_bytes(spec, self._config) if state == "absent" else 0,
            gguf=gguf,
            need=None if gguf is None else self._need(spec, gguf),
            fault=header if isinstance(header, str) else _find_adapter_fault(spec, gguf),
            curve=self._curve(log, spec),
            total=total,
            past=past,
            quiet=quiet,
            loads=tuple(model_loads),
        )

    def _list_found(self, known: Collection[Path]) -> Iterator[ModelCard]:
        """Yield a card for each file of another program that no entry uses."""
        services = self._services()
        for found in () if services is None else services.shelf.found(self._read_usable):
            if found.path in known:
                continue
            spec = ModelSpec(
                found.name,
                f"{units.bytes_text(found.size_bytes)}, {found.quantisation or 'not usable'}",
                (PathSource(found.path),),
                file_bytes=found.size_bytes,
                origin="found",
                recommend=False,
            )
            header = None if found.problem else self._header(found.path)
            gguf = header if isinstance(header, Gguf) else None
            need = None if gguf is None else self._need(spec, gguf)
            yield ModelCard(
                spec, found.path, "unchecked", found.size_bytes, gguf=gguf, need=need, found=found
            )

    def _read_usable(self, path: Path) -> Gguf:
        header = self._header(path)
        if isinstance(header, Gguf):
            return header
        raise ModelUnavailable(header)

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

    def _need(self, spec: ModelSpec, gguf: Gguf) -> Needs:
        context = usable_context(spec, gguf, self._config.context_tokens)
        return needs(gguf, context, spec.kv_type, adapter_bytes=size_adapters(spec))

    def _curve(self, log: LogReader, spec: ModelSpec) -> OperatingCurve | None:
        sha256 = content_sha256(spec, self._config)
        curves = [c for c in log.curves(spec.name) if may_be_content(sha256, spec, c.model_sha256)]
        return next(iter(curves), None)


def _find_adapter_fault(spec: ModelSpec, gguf: Gguf | None) -> str:
    try:
        if gguf is not None:
            check_adapters(spec, gguf)
    except EtuiError as error:
        return error.what
    return ""

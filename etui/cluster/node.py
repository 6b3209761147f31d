"""The side of a node: a Ray actor that answers questions or runs commands on its own machine."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, NoReturn, TypeVar

from etui.arm import Arm
from etui.backends.local import LocalBackend
from etui.bench.config import BenchModel
from etui.bench.plan import RunPlan, restore_plan
from etui.bench.progress import RunProgress
from etui.bench.run import BenchRunner, build_work, price_sample
from etui.bench.scoring import Answered, QuestionAnswerer
from etui.calibration.grid import Grid
from etui.calibration.run import ModelCalibration
from etui.cluster.host import HostMeter, read_host_id
from etui.cluster.messages import (
    Answers,
    CurvePoint,
    Failed,
    Measured,
    Measurement,
    Message,
    Method,
    Opening,
    Task,
    Wasted,
)
from etui.cluster.open_nodes import read_versions, refuse_other_hash
from etui.config.config import load_config, make_home
from etui.design.curve_visits import CurveVisits, build_curve_visits
from etui.energy.power_limits.limit import CapRequest
from etui.energy.tariff import Tariff
from etui.energy.tariff_files import read_tariff
from etui.engine.library import choose_threads
from etui.errors import EtuiError, ExitCode, UsageError, format_internal_error
from etui.measure.progress import Progress
from etui.measure.run import StopRequested
from etui.models.download import Progress as PullProgress
from etui.models.files import has_file
from etui.models.spec import ModelSpec
from etui.runtime.model_resolution import catalogue_name, find_model_file
from etui.runtime.runtime import Runtime, open_runtime
from etui.sweep.run import SweepRunner
from etui.sweep.workbench import open_workbench
from etui.turn.interfaces import Meter
from etui.units import percent_text

T = TypeVar("T")

OPENER = "etui.cluster.node:NodeMachine"  # What opens a machine: module and name
_MOST_FILE_BYTES = 32 << 20
_STEP = 0.05  # Share of a pull between two notes of its progress


class NodeActor:
    """Serves one driver; every method is a generator of messages.

    Errors are messages too, since not every exception can be pickled. A test has its own opener.
    """

    def __init__(self, opener: str = OPENER) -> None:
        module, _, name = opener.partition(":")
        self._machine: NodeMachine = getattr(importlib.import_module(module), name)()
        self._is_open = False
        self._engine = ThreadPoolExecutor(1, "etui-engine")  # its parts belong to one thread
        self._lock = threading.Lock()
        self._current = 0
        self._stopped = 0

    def call(self, number: int, method: Method, request: Any = None) -> Iterator[Message]:
        """Do what a driver asks by the number of its request, from 1 also after a restart."""
        with self._lock:
            self._current = number
            self._machine.allow()
            if self._stopped >= number:
                self._machine.stop()
        try:
            match method:
                case "describe":
                    yield {**read_versions(), "host": self._machine.host}
                case "open":
                    yield from self._open(request)
                case "answer":
                    yield from self._answer(request)
                case "finish":
                    yield from _stream(self._engine, self._machine.finish)
                case "measure":
                    yield from _stream(self._engine, partial(self._machine.measure, request))
        except EtuiError as error:
            yield Failed(error.what, error.fix, error.exit_code)
        except KeyboardInterrupt:
            yield Failed("stopped", "", ExitCode.PARTIAL)
        except Exception as error:  # noqa: BLE001 - the driver names it; this node can go on
            what = format_internal_error(error)
            yield Failed(what, "see the log of this node", EtuiError.exit_code)

    def stop(self, number: int) -> None:
        """End a request; one that has ended already is left alone, and the next one too."""
        with self._lock:
            self._stopped = max(self._stopped, number)
            if number == self._current:
                self._machine.stop()

    def _open(self, opening: Opening) -> Iterator[Message]:
        yield from _stream(self._engine, partial(self._machine.open, opening))
        self._is_open = True

    def _answer(self, task: Task) -> Iterator[Message]:
        """Answer a piece; the meter is waited for here while the engine computes the next group."""
        assert task.opening is not None
        share = task.opening.host
        work: Callable[[], AbstractContextManager[None]]
        work = nullcontext if share is None else share.work
        if not self._is_open:  # Ray started this process in the place of one that died
            with work():
                yield from self._open(task.opening)
        start_ns = time.monotonic_ns()
        counted: list[float | None] = []

        def compute(emit: Callable[[Answered | CurvePoint], None]) -> None:
            with work():  # and no longer: others of the host pay while the meter is waited for
                for answered in self._machine.answer(task):
                    emit(answered)
                self._machine.measure_curves(task, emit)

        meter = self._machine.meter
        try:
            for found in _stream(self._engine, compute):
                if isinstance(found, CurvePoint):
                    yield found
                    continue
                meter.settle(found.end_ns)
                samples = found.samples(meter.energy)
                samples = [price_sample(sample, self._machine.tariff) for sample in samples]
                counted += [sample.joules for sample in samples]
                yield Answers(tuple(samples))
        except StopRequested:
            yield _measure_waste(meter, start_ns, counted)
        except EtuiError:
            yield _measure_waste(meter, start_ns, counted)
            raise


def _stream(engine: Executor, function: Callable[[Callable[[T], None]], None]) -> Iterator[T]:
    """Run a function on the engine's thread and yield what it emits, as it does."""
    items: SimpleQueue[tuple[T] | None] = SimpleQueue()
    future = engine.submit(function, lambda item: items.put((item,)))
    future.add_done_callback(lambda _: items.put(None))
    while (item := items.get()) is not None:
        yield item[0]
    future.result()


def _measure_waste(meter: Meter, start_ns: int, counted: list[float | None]) -> Wasted:
    """Measure the joules of a piece that are in none of its answers.

    These are those of the discarded question, and what the other questions would have paid of the
    shared prefix. The answers' joules are parts of the same readings, so the error is the whole's.
    """
    end_ns = time.monotonic_ns()
    meter.settle(end_ns)
    energy = meter.energy(start_ns, end_ns)
    known = [joules for joules in counted if joules is not None]
    if energy.joules is None or len(known) < len(counted):
        return Wasted(None, None)
    kind = None if energy.kind is None else energy.kind.value
    return Wasted(max(0.0, energy.joules - sum(known)), energy.uncertainty, kind)


def _read_files(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder; hidden ones and very large ones are left out."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.is_file()
        if path.stat().st_size <= _MOST_FILE_BYTES
    }


def _refuse_asking(request: CapRequest) -> NoReturn:
    raise UsageError("a node has no person who could set a power limit", "use --cap set")


@dataclass(slots=True)
class NodeMachine:
    """This machine: its own folders, meter, engine, models and data."""

    host: str = field(default_factory=read_host_id)
    tariff: Tariff | None = None  # Prices the answers
    _stopped: Event = field(default_factory=Event)
    _cancels: list[Callable[[], None]] = field(default_factory=list)
    _meter: Meter | None = None
    _plan: RunPlan | None = None
    _systems: dict[str, QuestionAnswerer] = field(default_factory=dict)
    _curves: CurveVisits | None = None
    _models: tuple[BenchModel, ...] = ()

    @property
    def meter(self) -> Meter:
        """The power meter, started, or this node's part of it; only after :meth:`open`."""
        assert self._meter is not None
        return self._meter

    def open(self, opening: Opening, emit: Callable[[Message], None]) -> None:
        """Load the questions and the models of a run; emit its configuration here at the end.

        UsageError if the data or a model are others than the driver's; EtuiError if they cannot be
        had.
        """

        def say(text: str) -> None:
            emit(Progress(text))

        asked = opening.config
        # Only the arms of a run decide, as in a run on one machine.
        config = replace(load_config(), loop_guard=False)
        if opening.host is not None:
            threads = choose_threads(config.threads, config.sysfs_dir)
            config = replace(config, threads=min(threads, opening.host.cpus))
        make_home(config)
        self.tariff = read_tariff(config)
        runtime = open_runtime(config)
        plan = restore_plan(asked, config, runtime.catalogue)
        refuse_other_hash(f"the data of {asked.suite}", plan.suite.sha256, asked.data_sha256)
        for name in plan.models:
            _bring(runtime.catalogue.get(name), runtime, opening.models.get(name), say)
        runner = BenchRunner(runtime, RunProgress(emit), self._stopped, self._cancels.append)
        found = runner.configure(plan, asked.run_id)
        self._plan, self._models = plan, found.models
        self._meter = runtime.meter
        if opening.host is not None:
            self._meter = runner.meter = HostMeter(runtime.meter, opening.host)
        self._systems = runner.build_systems(plan)
        if opening.points is not None:
            self._curves = build_curve_visits(plan, runtime, say)
        emit(found)

    def answer(self, task: Task) -> Iterator[Answered]:
        """Answer a piece.

        StopRequested if :meth:`stop` was called; the current question is discarded; EtuiError if
        the engine failed.
        """
        if self._plan is None or task.opening is None:
            raise EtuiError("nothing is open on this node", "this is a bug in etui")
        work = build_work(self._plan, task.piece, set(task.done))
        yield from self._systems[task.piece.system].answer(work)

    def measure_curves(self, task: Task, emit: Callable[[CurvePoint], None]) -> None:
        """Measure as many points of the curves of a design as are due by now."""
        curves, opening = self._curves, task.opening
        if curves is None or opening is None:
            return
        if curves.keep is None:
            curves.begin_after(self._models, opening.points or {}, opening.seconds)
        curves.keep = lambda *found: emit(CurvePoint(*found))
        curves.work(self._stopped.is_set)

    def finish(self, emit: Callable[[Message], None]) -> None:
        """Fit the curves that were measured, and save them to the log of this machine."""
        if self._curves is not None and self._curves.keep is not None:
            self._curves.say = lambda text: emit(Progress(text))
            self._curves.finish()

    def measure(self, request: Measurement, emit: Callable[[Message], None]) -> None:
        """Calibrate a model or sweep its settings, as the commands do on one machine.

        KeyboardInterrupt if it was stopped before anything was kept; EtuiError if it cannot start,
        or has failed; what was measured is kept here.
        """

        def watch(progress: Progress) -> None:
            emit(progress)
            if self._stopped.is_set():
                raise KeyboardInterrupt  # as Ctrl-C does in the commands

        def note(text: str) -> None:
            watch(Progress(text, fields={"text": text}))

        config = load_config()
        make_home(config)
        with open_runtime(config) as runtime:
            name = request.model and catalogue_name(request.model, config, runtime.catalogue)
            if name:
                _bring(runtime.catalogue.get(name), runtime, None, note)
            runtime.writer.ready()
            if isinstance(request.asked, Grid):
                spec, path = find_model_file(Arm("direct", name or ""), config, runtime.catalogue)
                curve, complete = ModelCalibration(
                    spec, path, config, request.asked, runtime.writer, watch,
                    request.force, request.fresh,
                ).measure()  # fmt: skip
                emit(Measured(complete, curve))
                return
            open_bench = partial(
                open_workbench, config, runtime.writer, note, _refuse_asking, force=request.force
            )
            runner = SweepRunner(config, watch, runtime.writer, open_bench)
            outcome = runner.start(request.asked, fresh=request.fresh)
            if request.asked.cap is not None and config.power_limits_file.exists():
                note("the power limit is not as it was found: etui says so at its next start here")
            place = outcome.folder
            emit(Measured(not outcome.why_stopped, None, place.name, _read_files(place)))

    def allow(self) -> None:
        """Take back an earlier :meth:`stop`, at the start of a request."""
        self._stopped.clear()

    def stop(self) -> None:
        """End the current request as soon as possible; called on another thread."""
        self._stopped.set()
        for cancel in self._cancels:
            cancel()


def _bring(
    spec: ModelSpec, runtime: Runtime[LocalBackend], sha256: str | None, say: Callable[[str], None]
) -> None:
    """Pull a model that is missing here, and compare its hash with the driver's."""
    from etui.models.download import pull

    if spec.backend is not None:
        return
    config = runtime.config
    said = 0.0

    def report(progress: PullProgress) -> None:
        """Say how far the pull is, every few percent, so that the node is not silent."""
        nonlocal said
        if progress.step == "failed":
            say(f"{progress.model}: {progress.note}")
        elif progress.step == "download" and progress.total_bytes:
            share = progress.done_bytes / progress.total_bytes
            if share - said >= _STEP:
                said = share
                say(f"{progress.model}: {percent_text(share)} pulled")

    if not has_file(spec, config):
        say(f"{spec.name} is missing here: pulling it")
        pull(spec, config, report)
    found, _ = find_model_file(Arm("direct", spec.name), config, runtime.catalogue)
    refuse_other_hash(spec.name, found.sha256, sha256)

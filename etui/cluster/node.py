"""The side of a node: a Ray actor that answers questions or runs commands on its own machine."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

from etui.arm import Arm
from etui.backends.local import LocalBackend
from etui.bench.config import BenchModel, RunConfig
from etui.bench.plan import RunPlan, restore_plan
from etui.bench.progress import RunProgress
from etui.bench.run import BenchRunner, build_work
from etui.bench.scoring import Answered, QuestionAnswerer
from etui.cluster.host import HostMeter, read_host_id
from etui.cluster.messages import (
    Answers,
    Command,
    CurvePoint,
    Failed,
    Line,
    Message,
    Method,
    NodeResult,
    Note,
    Opened,
    Opening,
    Task,
    Wasted,
)
from etui.cluster.open_nodes import read_versions, refuse_other_hash
from etui.config.config import load_config, make_home
from etui.design.curve_visits import CurveVisits, build_curve_visits
from etui.engine.library import choose_threads
from etui.errors import EtuiError, format_internal_error
from etui.measure.run import StopRequested
from etui.models.download import Progress
from etui.models.files import has_file
from etui.models.spec import ModelSpec
from etui.runtime.model_resolution import find_model_file
from etui.runtime.runtime import Runtime, open_runtime
from etui.turn.interfaces import Meter
from etui.units import percent_text

T = TypeVar("T")

OPENER = "etui.cluster.node:NodeMachine"
"""What opens a machine: module and name."""
_ERROR_LINES = 20
_MOST_FILE_BYTES = 32 << 20
_STEP = 0.05
"""Share of a pull between two notes of its progress."""


class NodeActor:
    """Serves one driver; every method is a generator of messages.

    Errors are messages too, since not every exception can be pickled.

    Args:
        opener: As :data:`OPENER`; a test has its own.
    """

    def __init__(self, opener: str = OPENER) -> None:
        module, _, name = opener.partition(":")
        self._machine: NodeMachine = getattr(importlib.import_module(module), name)()
        self._command = NodeCommand()
        self._is_open = False
        self._engine = ThreadPoolExecutor(1, "etui-engine")  # its parts belong to one thread
        self._lock = threading.Lock()
        self._current = 0
        self._stopped = 0

    def call(self, number: int, method: Method, request: Any = None) -> Iterator[Message]:
        """Do what a driver asks, and yield what comes of it.

        Args:
            number: Number of the request of this process, from 1; a restart goes on.
        """
        with self._lock:
            self._current = number
            self._machine.allow()
            if self._stopped >= number:
                self._end_current()
        try:
            match method:
                case "describe":
                    yield {**read_versions(), "host": self._machine.host}
                case "open":
                    yield from self._open(request)
                case "answer":
                    share = request.opening.host
                    with nullcontext() if share is None else share.work():
                        yield from self._answer(request)
                case "finish":
                    yield from _stream(self._engine, self._machine.finish)
                case "command":
                    yield from self._command.run(request)
        except EtuiError as error:
            yield Failed(error.what, error.fix, error.exit_code)
        except Exception as error:  # noqa: BLE001 - the driver names it; this node can go on
            what = format_internal_error(error)
            yield Failed(what, "see the log of this node", EtuiError.exit_code)

    def stop(self, number: int) -> None:
        """End a request; one that has ended already is left alone, and the next one too."""
        with self._lock:
            self._stopped = max(self._stopped, number)
            if number == self._current:
                self._end_current()

    def _end_current(self) -> None:
        self._machine.stop()
        self._command.stop()

    def _open(self, opening: Opening) -> Iterator[Message]:
        def load(emit: Callable[[Message], None]) -> None:
            emit(Opened(self._machine.open(opening, lambda text: emit(Note(text)))))

        yield from _stream(self._engine, load)
        self._is_open = True

    def _answer(self, task: Task) -> Iterator[Message]:
        """Answer a piece; the meter is waited for here while the engine computes the next group."""
        assert task.opening is not None
        if not self._is_open:  # Ray started this process in the place of one that died
            yield from self._open(task.opening)
        start_ns = time.monotonic_ns()
        counted: list[float | None] = []

        def compute(emit: Callable[[Answered | CurvePoint], None]) -> None:
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


@dataclass(slots=True)
class NodeCommand:
    """The command that runs on this node, if there is one."""

    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, command: Command) -> Iterator[Message]:
        """Run a command and yield the lines that it prints, and how it ended."""
        errors: deque[str] = deque(maxlen=_ERROR_LINES)
        folder: Path | None = None
        process = subprocess.Popen(
            [sys.executable, "-m", "etui.cluster.command_child", *command.words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "NO_COLOR": "1"},
        )
        with self._lock:
            self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            for line in process.stdout:
                folder = _find_folder(line) or folder
                yield Line(line.rstrip("\n"))
            code = process.wait()
            reader.join()
            files = _read_files(folder) if command.collect and folder is not None else {}
            yield NodeResult(code, "".join(errors), files)
        finally:
            with self._lock:
                self._process = None
            with suppress(OSError):
                process.stdin.close()

    def stop(self) -> None:
        """Interrupt the command, as Ctrl-C does; it keeps what it measured.

        Windows cannot send that to another process: there the command sees its input end.
        """
        with self._lock:
            if self._process is None:
                return
            if sys.platform == "win32":
                assert self._process.stdin is not None
                self._process.stdin.close()
            else:
                self._process.send_signal(signal.SIGINT)


def _find_folder(line: str) -> Path | None:
    """Find the folder that a command says it writes to, in its line ``begun``."""
    with suppress(ValueError, TypeError, AttributeError):
        document = json.loads(line)
        if document.get("event") == "begun" and isinstance(document.get("folder"), str):
            return Path(document["folder"])
    return None


def _read_files(folder: Path) -> dict[str, str]:
    """Read the text files of a folder; hidden ones and very large ones are left out."""
    return {
        path.name: path.read_bytes().decode("utf-8", "surrogateescape")
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.is_file()
        if path.stat().st_size <= _MOST_FILE_BYTES
    }


@dataclass(slots=True)
class NodeMachine:
    """This machine: its own folders, meter, engine, models and data."""

    host: str = field(default_factory=read_host_id)
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

    def open(self, opening: Opening, say: Callable[[str], None]) -> RunConfig:
        """Load the questions and the models of a run; return its configuration here.

        Raises:
            UsageError: The data or a model are others than the driver's.
            EtuiError: They cannot be had.
        """
        asked = opening.config
        # Only the arms of a run decide, as in a run on one machine.
        config = replace(load_config(), loop_guard=False)
        if opening.host is not None:
            threads = choose_threads(config.threads, config.sysfs_dir)
            config = replace(config, threads=min(threads, opening.host.cpus))
        make_home(config)
        runtime = open_runtime(config)
        plan = restore_plan(asked, config, runtime.catalogue)
        refuse_other_hash(f"the data of {asked.suite}", plan.suite.sha256, asked.data_sha256)
        for name in plan.models:
            _bring(runtime.catalogue.get(name), runtime, opening.models.get(name), say)
        progress = RunProgress(lambda found: say(found.text))
        runner = BenchRunner(runtime, progress, self._stopped, self._cancels.append)
        found = runner.configure(plan, asked.run_id)
        self._plan, self._models = plan, found.models
        self._meter = runtime.meter
        if opening.host is not None:
            self._meter = runner.meter = HostMeter(runtime.meter, opening.host)
        self._systems = runner.build_systems(plan)
        if opening.points is not None:
            self._curves = build_curve_visits(plan, runtime, say)
        return found

    def answer(self, task: Task) -> Iterator[Answered]:
        """Answer a piece.

        Raises:
            StopRequested: :meth:`stop` was called; the current question is discarded.
            EtuiError: The engine failed.
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
            self._curves.say = lambda text: emit(Note(text))
            self._curves.finish()

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

    def report(progress: Progress) -> None:
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

"""A node as a machine that answers: its own folders, meter, engine, models and data."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from etui.bench.config import RunConfig, parse_run_config
from etui.bench.plan import RunPlan, restore_plan
from etui.bench.progress import RunProgress
from etui.bench.run import BenchRunner, build_work
from etui.bench.schedule import Piece
from etui.bench.scoring import Answered, QuestionAnswerer
from etui.cluster.messages import Command, Facts, Finished, Line, Message, Opening, Task
from etui.cluster.open_nodes import read_versions, refuse_other_hash
from etui.config.config import load_config, make_home
from etui.errors import EtuiError
from etui.units import percent_text

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend
    from etui.models.download import Progress
    from etui.models.spec import ModelSpec
    from etui.runtime.runtime import Runtime
    from etui.turn.interfaces import Meter


_ERROR_LINES = 20

_MOST_FILE_BYTES = 32 << 20


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
            yield Finished(code, "".join(errors), files)
        finally:
            with self._lock:
                self._process = None
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()

    def stop(self) -> None:
        """Interrupt the command, as Ctrl-C does; it keeps what it measured."""
        with self._lock:
            if self._process is not None:
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
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.stat().st_size <= _MOST_FILE_BYTES:
            found[path.name] = path.read_bytes().decode("utf-8", "surrogateescape")
    return found


_STEP = 0.05
"""Share of a pull between two notes of its progress."""


def open_worker() -> MachineWorker:
    """Open this machine, as the process of a node does; nothing is loaded yet."""
    return MachineWorker()


@dataclass(slots=True)
class MachineWorker:
    """This machine; see :class:`etui.cluster.ray_carrier.NodeWorker`."""

    _stopped: Event = field(default_factory=Event)
    _cancels: list[Callable[[], None]] = field(default_factory=list)
    _runtime: Runtime[LocalBackend] | None = None
    _plan: RunPlan | None = None
    _systems: dict[str, QuestionAnswerer] = field(default_factory=dict)
    _command: NodeCommand = field(default_factory=NodeCommand)

    @property
    def meter(self) -> Meter:
        """The power meter of this machine, started."""
        assert self._runtime is not None
        return self._runtime.meter

    def describe(self) -> Facts:
        """Describe the node without loading anything."""
        return Facts(platform.node(), read_versions(), os.getpid())

    def open(self, opening: Opening, say: Callable[[str], None]) -> RunConfig:
        """Load the questions and the models of a run; return its configuration here.

        Raises:
            UsageError: The data or a model are others than the driver's.
            EtuiError: They cannot be had.
        """
        asked = parse_run_config(opening.config)
        # Only the arms of a run decide, as in a run on one machine.
        config = replace(load_config(), loop_guard=False)
        make_home(config)
        from etui.runtime.runtime import open_runtime

        runtime = open_runtime(config)
        self._runtime = runtime
        plan = restore_plan(asked, config, runtime.catalogue)
        refuse_other_hash(f"the data of {asked.suite}", plan.suite.sha256, asked.data_sha256)
        for name in plan.models:
            self._bring(runtime.catalogue.get(name), opening.models.get(name), say)
        progress = RunProgress(lambda found: say(found.text))
        runner = BenchRunner(runtime, progress, self._stopped, self._cancels.append)
        found = runner.configure(plan, asked.run_id)
        self._plan, self._systems = plan, runner.build_systems(plan)
        return found

    def answer(self, task: Task) -> Iterator[Answered]:
        """Answer a piece.

        Raises:
            StopRequested: The request was stopped; the current question is discarded.
            EtuiError: The engine failed.
        """
        if self._plan is None:
            raise EtuiError("nothing is open on this node", "this is a bug in etui")
        piece = Piece(task.system, task.subject, task.rows, 0)
        yield from self._systems[task.system].answer(build_work(self._plan, piece, set(task.done)))

    def run(self, command: Command) -> Iterator[Message]:
        """Run an etui command on this machine and yield what it prints."""
        return self._command.run(command)

    def allow(self) -> None:
        """Take back an earlier stop."""
        self._stopped.clear()

    def stop(self) -> None:
        """End the current request as soon as possible."""
        self._stopped.set()
        for cancel in self._cancels:
            cancel()
        self._command.stop()

    def _bring(self, spec: ModelSpec, sha256: str | None, say: Callable[[str], None]) -> None:
        """Pull a model that is missing here, and compare its hash with the driver's."""
        from etui.models.download import pull
        from etui.models.files import has_file, recorded_sha256, require

        if spec.backend is not None:
            return
        assert self._runtime is not None
        config = self._runtime.config
        if has_file(spec, config):
            require(spec, config)
        else:
            say(f"{spec.name} is missing here: pulling it")
            pull(spec, config, _PullNotes(say).report)
        refuse_other_hash(spec.name, recorded_sha256(spec, config) or spec.sha256, sha256)


@dataclass(slots=True)
class _PullNotes:
    """Says how far a pull is, every few percent, so that its node is not silent."""

    say: Callable[[str], None]
    said: float = 0.0

    def report(self, progress: Progress) -> None:
        if progress.step != "download" or not progress.total_bytes:
            if progress.step == "failed":
                self.say(f"{progress.model}: {progress.note}")
            return
        share = progress.done_bytes / progress.total_bytes
        if share - self.said >= _STEP:
            self.said = share
            self.say(f"{progress.model}: {percent_text(share)} pulled")

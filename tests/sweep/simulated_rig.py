"""A rig on a simulated GPU in a fake sysfs, whose programs, heat and battery a test controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etui.chat import Message
from etui.config.config import Config
from etui.models.spec import ModelSpec
from etui.sweep._measurer import CapControl, Devices, LocalMeasurer, MachineWatch, SweptWork
from etui.sweep.config import Setting, SweepConfig
from etui.sweep.workload import WorkItem, Workload, hash_items
from tests.support.engine_session import SimulatedSequence, SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu

QUIET = replace(GpuLoad(), noise=0.0, warm_share=0.0)
BASELINE = Setting((("threads", 2),))
OTHER = Setting((("threads", 1),))


@dataclass(frozen=True)
class Runnable:
    """A setting as the engine takes it."""

    spec: ModelSpec
    path: Path
    config: Config
    draft: None = None
    power_limit_watts: float | None = None


class WatchedSession(SimulatedSession):
    """Keeps every sequence that was opened, and the tokens of each when it was closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.live: set[int] = set()
        self.closed: list[tuple[int, ...]] = []

    def open(self, *args: Any) -> SimulatedSequence:
        sequence = super().open(*args)
        self.live.add(sequence.id)
        return sequence

    def close(self, sequence: Any, *, keep: bool = True) -> None:
        assert not keep, "a kept prefix would spare the next prompt"
        self.live.remove(sequence.id)
        self.closed.append(tuple(sequence.tokens))


@dataclass
class Machine:
    """A simulated machine.

    ``during`` is called in each decode window: what happens while a visit is measured.
    """

    sysfs: Path
    config: Config
    gpu: SimulatedGpu = field(default_factory=lambda: SimulatedGpu(QUIET))
    session: dict[str, Any] = field(default_factory=dict)
    fails: Mapping[str, Exception] = field(default_factory=dict)
    during: Callable[[], object] = lambda: None
    own_seconds: float = 0.0
    others_seconds: float = 0.0
    suspended_ns: int = 0
    loads: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    opened: WatchedSession | None = None
    runnables: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def load(self, setting: Any) -> WatchedSession:
        key = setting.spec.name
        if key in self.fails:
            raise self.fails[key]
        self.loads.append(key)
        if self.opened is None:
            self.opened = WatchedSession(self.gpu, **self.session)
            self.opened.gpu = self
        return self.opened

    def unload(self) -> None:
        self.loads.append("unload")
        self.opened = None

    # The session's GPU: the work of a batch, and what else happens meanwhile.
    def clock(self) -> int:
        return self.gpu.clock()

    def work(self, context: int, tokens: int) -> None:
        before_ns = self.gpu.clock()
        self.gpu.work(context, tokens)
        self.own_seconds += (self.gpu.clock() - before_ns) / 1e9
        if tokens == 1:
            self.during()

    def cpu_seconds(self) -> tuple[float, float]:
        """Busy and total CPU seconds of a machine with 4 CPUs."""
        return self.own_seconds + self.others_seconds, 4 * self.gpu.clock.seconds

    def configure(self, setting: Setting) -> Runnable:
        changes = self.runnables.get(setting.key, {})
        name = changes.get("name", "model")
        spec = ModelSpec(name, "small", (), speculate=changes.get("speculate"))
        rest = {key: value for key, value in changes.items() if key not in ("name", "speculate")}
        return Runnable(spec, Path(name), self.config, **rest)

    def rig(self, items: tuple[WorkItem, ...] | None = None, **options: Any) -> LocalMeasurer:
        items = items or ITEMS
        watch = MachineWatch(
            self.sysfs,
            self.gpu.recorder,
            clock=self.gpu.clock,
            own_seconds=lambda: self.own_seconds,
            cpu_seconds=self.cpu_seconds,
            suspended=lambda: self.suspended_ns,
        )
        self.gpu.rest(1.5)  # a meter has to see a counter move before it can say anything
        sleep, cap = options.pop("sleep", self.gpu.rest), options.pop("cap", CapControl())
        work = {name: options.pop(name) for name in ("shape", "recording") if name in options}
        times = ("window_s", "cool_down_s", "cool_down_celsius")
        asked = {name: options.pop(name) for name in times if name in options}
        return LocalMeasurer(
            SweptWork(
                Workload("mine", hash_items(items), items),
                BASELINE,
                self.configure,  # type: ignore[arg-type]
                **work,
            ),
            Devices(self.gpu.recorder, watch, self.gpu, self, cap, sleep),  # type: ignore[arg-type]
            SweepConfig(**{"window_s": 1.0, **asked}),
            self.notes.append,
            **options,
        )


def question(words: int, answer: str | None = None, output_tokens: int = 20) -> WorkItem:
    return WorkItem((Message("user", "word " * words),), answer, output_tokens)


ITEMS = (question(40), question(90, "an answer of six given words"), question(10))


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")

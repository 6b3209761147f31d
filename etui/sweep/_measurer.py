"""Measure settings on this machine: one visit, and what can spoil it.

A visit cannot be used after other programs, a suspend, a change of the power supply or of a limit,
or a gap in the record.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from etui.config.config import Config
from etui.energy.devices import Heat, HeatSensors, describe_throttling
from etui.energy.power_limits.limit import AppliedLimit
from etui.energy.recorder import Recorder, read_suspended_ns
from etui.energy.scopes import family
from etui.energy.sharing import CpuUse, GpuShare, OwnProcesses, others_use, read_cpu_seconds
from etui.energy.sources.nvml import NvmlSource
from etui.energy.types import Channel, Kind
from etui.engine.llama_session import LlamaSession
from etui.engine.residency import Residency, finish_load
from etui.engine.session import Session
from etui.engine.thread_count import ThreadLimits
from etui.errors import (
    ContextOverflow,
    EngineFailed,
    EtuiError,
    ModelUnavailable,
    Stopped,
    UsageError,
)
from etui.events import Loaded
from etui.measure.run import Disturbed
from etui.models.spec import ModelSpec
from etui.runtime.host import read_battery
from etui.sweep._accuracy import QuestionSet, measure_answers
from etui.sweep._machine import Configured
from etui.sweep._work_timer import Overdue, WorkCost, WorkTimer, compute_cost
from etui.sweep.blocks import Collapsed, SettingAnswer, SettingFailed, Visit, VisitPower
from etui.sweep.config import PLAIN_WORK, Setting, SweepConfig, WorkShape
from etui.sweep.workload import (
    AnswerScript,
    Job,
    Workload,
    build_jobs,
    load_recorded,
    record_answers,
    save_recorded,
    write_scripts,
)
from etui.turn.interfaces import Meter
from etui.units import percent_text, seconds_text, watts_text

MOST_OTHERS = 0.05  # Share of all CPUs, or of a GPU, that other programs may use during a visit
LEAST_COVERAGE = 0.98  # Share of a visit that the meter has to have recorded
LEAST_WINDOW_S, MOST_WINDOW_S = 1.0, 10.0
MOST_COOL_DOWN_S = 60.0  # Longest wait for a temperature, seconds
POINTS = 60  # Slices of the watts of a visit

_REFRESHES = 20.0
"""Refreshes of a slow counter or sensor within a window: its edges are then a few percent of it."""
_AVERAGES = 4.0  # Lengths of a running average within a window
_LEAST_OTHERS_S = 0.1
"""CPU seconds of others below which their share is noise: CPU time is counted in ticks."""
_SUSPENDED_NS = 100_000_000
_COLLAPSE = 3  # How many times as long as one thread several threads may take beside other programs
_EQUAL_WATTS = 0.5  # Two readings of a power limit are equal within this
_POLL_S = 1.0


def choose_window_s(channels: Sequence[Channel]) -> float:
    """Choose the length of a window by the slowest channel that is summed, seconds.

    A counter that is refreshed every few milliseconds is exact in a second; one refreshed every
    100 ms, as a GPU's, is given 2 s, a running average of one second 4 s.
    """
    wanted = [LEAST_WINDOW_S]
    for channel in channels:
        # An unknown period is learned; 100 ms is that of NVIDIA's counters (docs/meter.md).
        period_s = 0.1 if channel.period_s is None else channel.period_s
        if channel.kind is not Kind.ESTIMATE:
            wanted += [_REFRESHES * period_s, _AVERAGES * channel.average_s]
    return min(max(wanted), MOST_WINDOW_S)


@dataclass(slots=True)
class ModelLoader:
    """Loads one model at a time: a second one in memory could take power, or slow the first down.

    What a session can change (threads, the depth of drafts) does not load the model again.
    """

    on_load: Callable[[ModelSpec, Loaded], object] = lambda spec, event: None
    _residency: Residency | None = None
    _config: Config | None = None

    def load(self, setting: Configured) -> LlamaSession:
        """Return the session of a setting, which is loaded unless it is in memory."""
        if self._residency is None or setting.config != self._config:
            self.unload()
            self._residency = Residency(setting.config, trials=True)
            self._config = setting.config
        residency = self._residency
        for name in residency.resident:
            if name != setting.spec.name:
                for _ in residency.unload(name):
                    pass
        session, loaded = finish_load(residency.session(setting.spec, setting.path, setting.draft))
        if loaded is not None:
            self.on_load(setting.spec, loaded)
        return session

    def unload(self) -> None:
        """Free the model."""
        if self._residency is not None:
            self._residency.close()
            self._residency = None


@dataclass(slots=True)
class CapControl:
    """The power limit of the swept devices during a sweep."""

    set_limit: Callable[[float], AppliedLimit] | None = None
    """Sets a limit in watts, and reads it back; None if the sweep has no such axis."""
    read_limit: Callable[[], float | None] = lambda: None  # In force, watts; None if unknown
    _watts: float | None = None  # The limit set last, as requested
    _read_watts: float | None = None  # As read afterwards
    _note: str = ""

    def apply(self, watts: float | None) -> str:
        """Set a limit, unless it is the one set last, and return a note on it (rounded) or ""."""
        if watts is None or self.set_limit is None:
            return ""
        if watts != self._watts:
            self._forget()
            applied = self.set_limit(watts)
            if applied.is_refused:
                raise SettingFailed(
                    f"the power limit of {watts_text(watts)}: {applied.note}",
                    "`etui doctor` shows the range, who may set it, and the command",
                )
            self._watts, self._read_watts, self._note = watts, self.read_limit(), applied.note
        return self._note

    def check(self) -> tuple[float | None, str]:
        """Read the limit in watts, and how it differs from the one that was set; empty if not.

        One that differs is set again next time.
        """
        now, held = self.read_limit(), self._read_watts
        if now is None or held is None or abs(now - held) <= _EQUAL_WATTS:
            return now, ""
        self._forget()
        return now, f"the power limit changed from {watts_text(held)} to {watts_text(now)}"

    def _forget(self) -> None:
        self._watts, self._read_watts, self._note = None, None, ""


@dataclass(frozen=True, slots=True)
class MachineState:
    """The state of the machine at a moment."""

    t_ns: int
    cpu: CpuUse | None = None  # CPU time so far; None if it cannot be read
    suspended_ns: int = 0  # Time that the machine has been suspended so far
    on_battery: bool | None = None  # Whether a battery discharges; None if unknown, or without one
    heat: Heat = field(default_factory=Heat)  # Temperatures and throttling


class MachineWatch:
    """Reads the state of the machine before and after a visit.

    Args:
        own_seconds: CPU seconds of etui's own processes so far; None asks the system.
        cpu_seconds: Busy and total CPU seconds of the machine.
        suspended: Time that the machine has been suspended, nanoseconds.
    """

    def __init__(
        self,
        sysfs_dir: Path,
        recorder: Recorder,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        own_seconds: Callable[[], float] | None = None,
        cpu_seconds: Callable[[], tuple[float, float]] = read_cpu_seconds,
        suspended: Callable[[], int] = read_suspended_ns,
    ) -> None:
        self.clock = clock
        self._supplies = sysfs_dir / "class" / "power_supply"
        self._recorder = recorder
        self._own_seconds = own_seconds or OwnProcesses(clock).seconds
        self._cpu_seconds = cpu_seconds
        self._suspended = suspended
        nvml = [source for source in recorder.sources if isinstance(source, NvmlSource)]
        self._sensors = HeatSensors(sysfs_dir, nvml[0] if nvml else None)
        scopes = [channel.scope for channel in recorder.selection.summed]
        self._gpus = [scope for scope in scopes if family(scope) in ("gpu", "module")]

    def read(self) -> MachineState:
        """Read the state of the machine now."""
        t_ns = self.clock()
        try:
            busy, total = self._cpu_seconds()
            cpu = CpuUse(t_ns, self._own_seconds(), busy, total)
        except (OSError, RuntimeError):
            cpu = None
        _, on_battery = read_battery(self._supplies)
        return MachineState(t_ns, cpu, self._suspended(), on_battery, self._sensors.read())

    def read_celsius(self, heat: Heat | None = None) -> float | None:
        """Return the hottest sensor of the GPUs if they are measured, else of the CPUs.

        ``heat`` is an earlier reading; None reads the sensors. None if unknown.
        """
        heat = heat or self._sensors.read()
        return heat.gpu_celsius if self._gpus else heat.cpu_celsius

    def share_of_gpus(self, start_ns: int, end_ns: int) -> tuple[GpuShare, ...]:
        """Return for each measured GPU whether it was shared, and etui's part."""
        watch = self._recorder.watch
        if watch is None:
            return ()
        return tuple(watch.share(scope, start_ns, end_ns) for scope in self._gpus)


def find_disturbance(
    before: MachineState,
    after: MachineState,
    gpus: Sequence[GpuShare],
    coverage: float | None,
    most_others: float = MOST_OTHERS,
) -> str:
    """Find why a visit cannot be used; empty if it can.

    A GPU that others share, of which the driver does not report their part, is no reason.
    ``coverage`` is the share of the visit that the meter recorded, 0..1; None without a meter.
    """
    if after.suspended_ns - before.suspended_ns > _SUSPENDED_NS:
        seconds = (after.suspended_ns - before.suspended_ns) / 1e9
        return f"the machine was suspended for {seconds_text(seconds)}"
    if None not in (before.on_battery, after.on_battery) and before.on_battery != after.on_battery:
        return f"the machine was {'unplugged' if after.on_battery else 'plugged in'}"
    if before.cpu is not None and after.cpu is not None:
        seconds, share = others_use([before.cpu, after.cpu], before.t_ns, after.t_ns)
        if share > most_others and seconds > _LEAST_OTHERS_S:
            return f"other programs used {percent_text(share)} of the CPUs"
    for gpu in gpus:
        if gpu.shared and gpu.own is not None and 1 - gpu.own > most_others:
            return f"other programs had {percent_text(1 - gpu.own)} of the use of a GPU"
    if coverage is not None and coverage < LEAST_COVERAGE:
        return f"the meter recorded only {percent_text(coverage)} of it"
    return ""


def describe_state(before: MachineState, after: MachineState) -> tuple[str, ...]:
    """Describe what a reader of a visit should know: throttling by heat, the battery."""
    notes = [describe_throttling(before.heat, after.heat)]
    if after.on_battery:
        notes.append("the machine ran on its battery")
    return tuple(note for note in notes if note)


@dataclass(frozen=True, slots=True)
class SweptWork:
    """What every setting computes."""

    workload: Workload
    baseline: Setting  # The setting whose model records the answers that are not given
    configure: Callable[[Setting], Configured]  # Turns a setting into what the engine takes
    shape: WorkShape = PLAIN_WORK  # Work of an answer, for an arm of a policy
    recording: Path | None = None  # File that keeps the recorded answers for a resumption
    questions: QuestionSet | None = None  # Questions of the suite; None without one


@dataclass(frozen=True, slots=True)
class Devices:
    """What a visit is measured with."""

    recorder: Recorder
    watch: MachineWatch  # Reads the state of the machine
    meter: Meter  # Measures the intervals: the recorder
    loader: ModelLoader = field(default_factory=ModelLoader)
    cap: CapControl = field(default_factory=CapControl)  # Sets and reads the power limit
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class LocalMeasurer:
    """This machine with its models: measures the settings of a sweep, and frees the model after."""

    work: SweptWork
    devices: Devices
    config: SweepConfig  # For the window of each phase, and the cool-down before it
    note: Callable[[str], object]  # Takes a line that a reader of the sweep should know
    most_others: float = MOST_OTHERS  # Share that other programs may use; 1 takes every visit
    _began_on_battery: bool = False
    _last: MachineState | None = None  # Before the last visit that was measured, or at the start
    _single_ns: dict[Path, tuple[float, float]] = field(default_factory=dict)
    """File of a model -> what the warm-up and all jobs take with one thread, beside others."""
    _scripts: tuple[AnswerScript, ...] | None = None
    _configured: dict[str, Configured] = field(default_factory=dict)
    _jobs: dict[tuple[str, Path], tuple[tuple[Job, ...], str]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        watch = self.devices.watch
        self._last = watch.read()
        self._began_on_battery = bool(self._last.on_battery)
        if self._began_on_battery:
            self.note("the machine runs on its battery: power management may differ on mains")
        if self.config.cool_down_celsius is not None and watch.read_celsius() is None:
            seconds = self.config.cool_down_s
            self.note(f"no temperature can be read: each cool-down lasts {seconds:g} s instead")
        return self

    def __exit__(self, *_: object) -> None:
        self.devices.loader.unload()

    def session_for(self, setting: Setting) -> LlamaSession:
        """Load the model of a setting, to measure its accuracy."""
        with self._failing(setting):
            session = self.devices.loader.load(self._configure(setting))
            _follow_load(session)
            return session

    def measure_answers(
        self, settings: Sequence[Setting], answers: Sequence[SettingAnswer]
    ) -> Iterator[SettingAnswer]:
        """Answer the questions of the suite that are not among the answers."""
        if self.work.questions is not None:
            done = {(answer.setting, answer.number) for answer in answers}
            yield from measure_answers(self.session_for, settings, self.work.questions, done)

    def read_power(self, block: int, visit: Visit) -> VisitPower:
        """Read the watts of a visit of a block, rounded to milliwatts."""
        curve = self.devices.recorder.power_curve(visit.start_ns, visit.end_ns, POINTS)
        watts = tuple(None if watts is None else round(watts, 3) for _, watts in curve)
        return VisitPower(block, visit.setting, visit.copy, visit.start_ns, visit.end_ns, watts)

    def visit(self, setting: Setting, copy: int) -> Visit:
        """Measure a visit; as :data:`etui.sweep.blocks.MeasureVisit`."""
        scripts = self._require_scripts()
        devices = self.devices
        with self._failing(setting):
            configured = self._configure(setting)
            notes = [devices.cap.apply(configured.power_limit_watts)]
            session = devices.loader.load(configured)
            jobs, other_tokens = self._require_jobs(session, configured, scripts)
            timer = WorkTimer(
                session,
                devices.meter,
                self.config.window_s,
                sequences=self.work.shape.sequences,
                speculate=configured.spec.speculate or "off",
                clock=devices.watch.clock,
            )
            if isinstance(session, LlamaSession):
                session.threads.begin_answer()
            most_ns = self._warm_up(session, configured, timer, jobs)
            notes += [other_tokens, self._cool_down()]
            before = self._last = self._read_state()
            with self._limiting(timer, most_ns):
                work = timer.measure(jobs)
            after = self._read_state()
            notes += [_describe_threads(session), *describe_state(before, after)]
        start_ns, end_ns = work.intervals[0][0], work.intervals[-1][1]
        devices.meter.settle(end_ns)
        cost = compute_cost(work, devices.meter.energy)
        limit_watts, other_cap = devices.cap.check()
        coverage, gap = None, ""
        if devices.recorder.selection.summed:
            coverage, gap = devices.meter.energy(start_ns, end_ns).coverage, _describe_gap(cost)
        gpus = devices.watch.share_of_gpus(start_ns, end_ns)
        disturbed = find_disturbance(before, after, gpus, coverage, self.most_others)
        return Visit(
            setting=setting.key,
            copy=copy,
            answers=work.answers,
            prefill=cost.prefill,
            decode=cost.decode,
            start_ns=start_ns,
            end_ns=end_ns,
            kind=None if cost.kind is None else str(cost.kind),
            mean_watts=cost.mean_watts,
            temperature_celsius=devices.watch.read_celsius(after.heat),
            power_limit_watts=limit_watts,
            drafted=sum(window.drafted for window in work.decodes) / work.answers,
            accepted=sum(window.accepted for window in work.decodes) / work.answers,
            shared=cost.shared,
            disturbed=disturbed or other_cap or gap,
            notes=tuple(dict.fromkeys(note for note in notes if note)),
        )

    def _warm_up(
        self, session: Session, setting: Configured, timer: WorkTimer, jobs: Sequence[Job]
    ) -> float:
        """Warm up, and return the most nanoseconds that the visit may take.

        The threads of llama.cpp meet at barriers. When another program takes the core of one, all
        wait for it, and several threads can take hundreds of times as long as one. How long one
        takes is measured only beside other programs; without them a visit has all the time.
        """
        last, now = self._last, self.devices.watch.read()
        is_busy = last is not None and find_disturbance(last, now, (), None)
        if not is_busy or not isinstance(session, LlamaSession) or session.threads.limits.most < 2:
            timer.warm_up(jobs)
            return math.inf
        if setting.path not in self._single_ns:
            limits = session.threads.limits
            session.threads.set_limits(ThreadLimits(1, 1, adapt=False))
            self._single_ns[setting.path] = timer.warm_up(jobs)
            session.threads.set_limits(limits)
        single_ns, all_ns = self._single_ns[setting.path]
        with self._limiting(timer, _COLLAPSE * single_ns):
            timer.warm_up(jobs)
        return 4e9 * self.config.window_s + 2 * _COLLAPSE * all_ns

    @contextmanager
    def _limiting(self, timer: WorkTimer, most_ns: float) -> Iterator[None]:
        """Give up work that takes longer: a visit is repeated, or with ``--force`` left out."""
        timer.deadline_ns = timer.clock() + most_ns
        try:
            yield
        except Overdue:
            why = f"beside other programs its threads take over {_COLLAPSE} times as long as one"
            if self.most_others < 1:
                raise Disturbed(why) from None
            raise Collapsed(why, "end the other programs, or use one thread") from None

    @contextmanager
    def _failing(self, setting: Setting) -> Iterator[None]:
        """Unload the model after an error: sequences may be left open in it."""
        is_baseline = setting == self.work.baseline
        failed: type[EtuiError] = EtuiError if is_baseline else SettingFailed
        try:
            yield
        except BaseException as error:
            self.devices.loader.unload()
            if isinstance(error, Collapsed):
                raise
            if isinstance(error, MemoryError):
                raise failed("out of memory", "close other programs") from error
            if isinstance(error, ContextOverflow):
                if not is_baseline:
                    raise SettingFailed(error.what, error.fix) from error
                name = self.work.workload.name
                raise UsageError(
                    f"the workload {name} does not fit into the context: {error.what}",
                    "shorten its prompts, pass fewer --output-tokens, or raise `context` of the "
                    "model in models.yaml",
                ) from error
            if isinstance(error, SettingFailed) or (
                isinstance(error, EngineFailed | ModelUnavailable) and not is_baseline
            ):
                raise failed(error.what, error.fix) from error
            raise

    def _require_scripts(self) -> tuple[AnswerScript, ...]:
        """Return the answers to replay; the first call records those that are not given."""
        work = self.work
        if self._scripts is None:
            with self._failing(work.baseline):
                configured = self._configure(work.baseline)
                session = self.devices.loader.load(configured)
                items, path = work.workload.items, work.recording
                model = configured.spec.sha256 or configured.spec.name
                key = f"{work.workload.sha256} {model} {work.shape}"
                recorded = None if path is None else load_recorded(path, key, len(items))
                if recorded is None:
                    _follow_load(session)
                    recorded = record_answers(session, items, work.shape)
                    if path is not None:
                        save_recorded(path, key, recorded)
                self._scripts = write_scripts(session, items, work.shape, recorded)
        return self._scripts

    def _configure(self, setting: Setting) -> Configured:
        """Configure a setting at its first visit: that hashes the file of a model."""
        if setting.key not in self._configured:
            self._configured[setting.key] = self.work.configure(setting)
        return self._configured[setting.key]

    def _require_jobs(
        self, session: Session, configured: Configured, scripts: Sequence[AnswerScript]
    ) -> tuple[tuple[Job, ...], str]:
        key = (configured.spec.name, configured.path)
        if key not in self._jobs:
            items = self.work.workload.items
            self._jobs[key] = build_jobs(session, items, self.work.shape, scripts)
        return self._jobs[key]

    def _cool_down(self) -> str:
        """Let the machine rest; return a note if it did not become as cool as it should."""
        plan, watch, sleep = self.config, self.devices.watch, self.devices.sleep
        start_ns = watch.clock()
        sleep(plan.cool_down_s)
        if plan.cool_down_celsius is None:
            return ""
        while (celsius := watch.read_celsius()) is not None:
            if celsius <= plan.cool_down_celsius:
                break
            waited_s = (watch.clock() - start_ns) / 1e9
            if waited_s >= MOST_COOL_DOWN_S:
                waited = seconds_text(waited_s)
                return f"it was still at {celsius:.0f} °C after a cool-down of {waited}"
            sleep(_POLL_S)
        return ""

    def _read_state(self) -> MachineState:
        state = self.devices.watch.read()
        if state.on_battery and not self._began_on_battery:
            raise Stopped(
                "the battery began to discharge during the sweep",
                "connect the machine to mains power, then resume the sweep",
            )
        return state


def _follow_load(session: Session) -> None:
    """Let the threads follow the load of the machine, until the next visit sets its own."""
    if isinstance(session, LlamaSession):
        limits = session.threads.limits
        session.threads.set_limits(replace(limits, adapt=not session.options.offload_kv))


def _describe_gap(cost: WorkCost) -> str:
    """Describe what the meter lacks of a phase, which may be a small part of the visit."""
    if cost.kind is None:
        return "the meter did not record a phase"
    if cost.coverage < LEAST_COVERAGE:
        return f"the meter recorded only {percent_text(cost.coverage)} of a phase"
    return ""


def _describe_threads(session: Session) -> str:
    """Describe threads that follow the load of the machine; empty if they are those configured."""
    changes = session.threads.take_changes() if isinstance(session, LlamaSession) else ()
    if not changes:
        return ""
    last = changes[-1]
    return (
        f"the model ran with {last.decode_threads} threads in decode and "
        f"{last.prefill_threads} in prefill: {last.why}"
    )

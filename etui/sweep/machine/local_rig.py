"""Measure settings on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from etui.energy.recorder import Recorder
from etui.engine.llama_session import LlamaSession
from etui.engine.session import Session
from etui.errors import (
    ContextOverflow,
    EngineFailed,
    EtuiError,
    ModelUnavailable,
    Stopped,
    UsageError,
)
from etui.sweep.axes.configure import Configured
from etui.sweep.blocks import Visit
from etui.sweep.machine.cap_control import CapControl
from etui.sweep.machine.jobs import (
    AnswerScript,
    Job,
    build_jobs,
    load_recorded,
    record_answers,
    save_recorded,
    write_scripts,
)
from etui.sweep.machine.machine_watch import (
    LEAST_COVERAGE,
    MOST_OTHERS,
    MachineState,
    MachineWatch,
    describe_state,
    find_disturbance,
)
from etui.sweep.machine.model_loader import Loader, ModelLoader
from etui.sweep.machine.procedure import Procedure
from etui.sweep.machine.work_timer import TimedWork, WorkCost, WorkTimer, compute_cost
from etui.sweep.machine.workload import Workload
from etui.sweep.rig import SettingFailed
from etui.sweep.setting import Setting
from etui.sweep.work_shape import PLAIN_WORK, WorkShape
from etui.turn.ports import Meter
from etui.units import percent_text, seconds_text

_POLL_S = 1.0


class LocalRig:
    """This machine with its models: measures the settings of a sweep.

    A context manager: it frees the model at the end. The caller keeps the recorder and the power
    limits.

    Args:
        configure: Turns a setting into what the engine takes.
        baseline: The setting whose model records the answers that are not given.
        shape: Work of an answer, for an arm of a policy.
        procedure: Lengths of windows and cool-down.
        cap: Sets and reads the power limit; None where there is none.
        recording: File that keeps the recorded answers for a resumption; None keeps none.
        most_others: Largest share of the CPUs or of a GPU that other programs may use in a visit; 1
            takes every visit.
        note: Called with a line that a reader of the sweep should know.
        loader: Loads models; None loads them into this process.
        watch: Reads the state of the machine; None is that of this machine.
        meter: Measures the intervals; None is the recorder.
        sleep: Function that waits for a number of seconds.
    """

    def __init__(
        self,
        configure: Callable[[Setting], Configured],
        recorder: Recorder,
        workload: Workload,
        baseline: Setting,
        *,
        sysfs_dir: Path,
        shape: WorkShape = PLAIN_WORK,
        procedure: Procedure | None = None,
        cap: CapControl | None = None,
        recording: Path | None = None,
        most_others: float = MOST_OTHERS,
        note: Callable[[str], object] = lambda line: None,
        loader: Loader | None = None,
        watch: MachineWatch | None = None,
        meter: Meter | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.recorder = recorder
        self.meter: Meter = meter or recorder
        self._configure = configure
        self._workload = workload
        self._baseline = baseline
        self._shape = shape
        self._procedure = procedure or Procedure()
        self._cap = cap or CapControl()
        self._recording = recording
        self._most_others = most_others
        self._note = note
        self._loader: Loader = loader or ModelLoader()
        self._watch = watch or MachineWatch(sysfs_dir, recorder, clock=clock)
        self._clock = clock
        self._sleep = sleep
        self._began_on_battery = False
        self._scripts: tuple[AnswerScript, ...] | None = None
        self._runnables: dict[str, Configured] = {}
        self._jobs: dict[tuple[str, Path], tuple[tuple[Job, ...], str]] = {}

    def __enter__(self) -> Self:
        self._began_on_battery = bool(self._watch.is_on_battery())
        if self._began_on_battery:
            self._note("the machine runs on its battery: power management may differ on mains")
        celsius = self._procedure.cool_down_celsius
        if celsius is not None and self._watch.read_celsius() is None:
            seconds = self._procedure.cool_down_s
            self._note(f"no temperature can be read: each cool-down lasts {seconds:g} s instead")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._loader.unload()

    def session_for(self, setting: Setting) -> LlamaSession:
        """Load the model of a setting, to measure its accuracy.

        Raises:
            SettingFailed: This machine cannot run the setting.
            EtuiError: It is the baseline that failed.
        """
        with self._failing(setting):
            return self._loader.load(self._require_runnable(setting))

    def visit(self, setting: Setting, copy: int) -> Visit:
        """Apply a setting, warm up, cool down, and measure the workload.

        Args:
            copy: 1 for the second visit of the baseline in a block.

        Returns:
            The measurement; ``disturbed`` says why it cannot be used.

        Raises:
            SettingFailed: This machine cannot run the setting.
            Stopped: The battery began to discharge.
            EtuiError: The engine or the meter failed.
        """
        scripts = self._require_scripts()
        with self._failing(setting):
            runnable = self._require_runnable(setting)
            notes = [self._cap.apply(runnable.power_limit_watts)]
            session = self._loader.load(runnable)
            jobs, other_tokens = self._require_jobs(session, runnable, scripts)
            timer = WorkTimer(
                session,
                self.meter,
                self._procedure.window_s,
                sequences=self._shape.sequences,
                speculate=runnable.speculate,
                clock=self._clock,
            )
            if isinstance(session, LlamaSession):
                session.threads.begin_answer()
            timer.warm_up(jobs)
            notes += [other_tokens, self._cool_down()]
            before = self._read_state()
            work = timer.measure(jobs)
            after = self._read_state()
            notes += [_describe_threads(session), *describe_state(before, after)]
        return self._build_visit(setting, copy, work, (before, after), notes)

    def _build_visit(
        self,
        setting: Setting,
        copy: int,
        work: TimedWork,
        states: tuple[MachineState, MachineState],
        notes: Sequence[str],
    ) -> Visit:
        start_ns, end_ns = work.intervals[0][0], work.intervals[-1][1]
        self.meter.settle(end_ns)
        cost = compute_cost(work, self.meter.energy)
        before, after = states
        gpus = self._watch.share_of_gpus(start_ns, end_ns)
        has_meter = bool(self.recorder.selection.summed)
        coverage = self.meter.energy(start_ns, end_ns).coverage if has_meter else None
        limit_watts, other_cap = self._cap.check()
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
            temperature_celsius=self._watch.choose_celsius(after.heat),
            power_limit_watts=limit_watts,
            drafted=sum(work.drafted) / work.answers,
            accepted=sum(work.accepted) / work.answers,
            shared=cost.shared,
            disturbed=find_disturbance(before, after, gpus, coverage, self._most_others)
            or other_cap
            or (_describe_gap(cost) if has_meter else ""),
            notes=tuple(dict.fromkeys(note for note in notes if note)),
        )

    @contextmanager
    def _failing(self, setting: Setting) -> Iterator[None]:
        """Unload the model after an error: sequences may be left open in it."""
        try:
            yield
        except MemoryError as error:
            self._loader.unload()
            raise self._choose_error(setting)("out of memory", "close other programs") from error
        except ContextOverflow as error:
            self._loader.unload()
            if setting != self._baseline:
                raise SettingFailed(error.what, error.fix) from error
            raise UsageError(
                f"the workload {self._workload.name} does not fit into the context: {error.what}",
                "shorten its prompts, pass fewer --output-tokens, or raise `context` of the model "
                "in models.yaml",
            ) from error
        except (EngineFailed, ModelUnavailable, SettingFailed) as error:
            self._loader.unload()
            if setting == self._baseline and not isinstance(error, SettingFailed):
                raise
            raise self._choose_error(setting)(error.what, error.fix) from error
        except BaseException:
            self._loader.unload()
            raise

    def _choose_error(self, setting: Setting) -> type[EtuiError]:
        return EtuiError if setting == self._baseline else SettingFailed

    def _require_scripts(self) -> tuple[AnswerScript, ...]:
        """Return the answers to replay; the first call records those that are not given."""
        if self._scripts is None:
            with self._failing(self._baseline):
                runnable = self._require_runnable(self._baseline)
                session = self._loader.load(runnable)
                items, shape = self._workload.items, self._shape
                model = runnable.spec.sha256 or runnable.spec.name
                key = f"{self._workload.sha256} {model} {shape}"
                path = self._recording
                recorded = load_recorded(path, key, len(items)) if path is not None else None
                if recorded is None:
                    recorded = record_answers(session, items, shape)
                    if path is not None:
                        save_recorded(path, key, recorded)
                self._scripts = write_scripts(session, items, shape, recorded)
        return self._scripts

    def _require_runnable(self, setting: Setting) -> Configured:
        """Configure a setting at its first visit: that hashes the file of a model."""
        if setting.key not in self._runnables:
            self._runnables[setting.key] = self._configure(setting)
        return self._runnables[setting.key]

    def _require_jobs(
        self, session: Session, runnable: Configured, scripts: Sequence[AnswerScript]
    ) -> tuple[tuple[Job, ...], str]:
        key = (runnable.spec.name, runnable.path)
        if key not in self._jobs:
            self._jobs[key] = build_jobs(session, self._workload.items, self._shape, scripts)
        return self._jobs[key]

    def _cool_down(self) -> str:
        """Let the machine rest; return a note if it did not become as cool as it should."""
        plan = self._procedure
        start_ns = self._clock()
        self._sleep(plan.cool_down_s)
        if plan.cool_down_celsius is None:
            return ""
        while (celsius := self._watch.read_celsius()) is not None:
            if celsius <= plan.cool_down_celsius:
                break
            waited_s = (self._clock() - start_ns) / 1e9
            if waited_s >= plan.most_cool_down_s:
                waited = seconds_text(waited_s)
                return f"it was still at {celsius:.0f} °C after a cool-down of {waited}"
            self._sleep(_POLL_S)
        return ""

    def _read_state(self) -> MachineState:
        state = self._watch.read()
        if state.on_battery and not self._began_on_battery:
            raise Stopped(
                "the battery began to discharge during the sweep",
                "connect the machine to mains power, then resume the sweep",
            )
        return state


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

"""Runs, sweeps and calibrations from the app: ask, run etui's command in a process, read its lines.

The app cannot measure by itself: drawing costs energy, and its engine process holds models. All
models are unloaded and questions are refused while a command measures, but only after the user
said yes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from etui import units
from etui.calibration.grid import QUICK, Grid, expected_seconds, list_visits
from etui.codec import from_document
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.energy.idle import BUSY_SHARE
from etui.errors import EtuiError, ExitCode
from etui.tui.bench_job import NewRun, RunState, plan_run, read_verdict
from etui.tui.jobs import (
    STOP_SECONDS,
    CommandEnd,
    JobEnded,
    JobProgress,
    JobStopped,
    Running,
    ask_etui,
    run_command,
)

if TYPE_CHECKING:
    from etui.tui.job_bar import JobBar

T = TypeVar("T")
MeasuredKind = Literal["run", "sweep", "calibration"]
QUICK_OPTION = "--quick"
_DOING: Mapping[MeasuredKind, str] = {
    "run": "running", "sweep": "sweeping", "calibration": "calibrating"
}  # fmt: skip
_LOOK_SECONDS = 1.0  # How long to watch the CPUs before a calibration
_SWEEP_STOP_SECONDS = 60.0
"""How long a stopped sweep may take: it writes its result, and restores a power limit."""

_STAGES = {
    "floor": "detection floor: the settings in use against themselves",
    "race": "race: all settings that are left",
    "confirm": "confirming the best settings",
    "accuracy": "answering the questions of the suite",
}

_KEPT_DROPS = 3  # Newest dropped settings to show


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The part of a sweep's ``result.json``, and of its last line, that is shown."""

    id: str
    created: str  # When it began, ISO 8601
    model: str
    verdict: str  # Its result in one sentence
    is_complete: bool
    baseline: str
    best: str | None
    is_best_claimed: bool = True
    folder: str = ""
    has_report: bool = False  # Whether there is a report to open in a browser

    @property
    def is_better(self) -> bool:
        """Whether it found a setting that beats the one in use then beyond doubt."""
        is_another = self.best not in (None, self.baseline)
        return self.is_complete and is_another and self.is_best_claimed


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """What a sweep would measure, from ``etui sweep --dry-run --json``."""

    settings: tuple[str, ...]  # Keys of the settings, the one in use first
    axes: Mapping[str, tuple[str | int | float, ...]]
    workload: str
    seconds: float  # Estimated time
    notes: tuple[str, ...] = ()  # What was left out, and why


@dataclass(frozen=True, slots=True)
class SweepState:
    """How far a sweep is: the newest fields of the lines of ``etui sweep --jsonl``."""

    model: str
    settings: tuple[str, ...] = ()  # Keys of the settings at the beginning; none before it began
    stage: str = ""  # What the last block was for; empty before the first
    block: int = 0
    blocks_left: int = 0  # At most
    remaining: int | None = None  # Settings left; None before the first block
    best: str | None = None  # Key of the best setting so far; None before one is known
    seconds_left: float | None = None  # Estimated time; None before it began
    dropped: tuple[tuple[str, str], ...] = ()  # Settings dropped last, with the reasons
    text: str = ""  # The last note
    done: int = 0  # Answers of the suite that are there
    answers: int = 0  # All of them; 0 outside that part

    def after(self, line: bytes) -> SweepState:
        """Return the state after a line; a line that the app does not know changes nothing."""
        try:
            match json.loads(line):
                case {"event": "begun" | "block"} as fields:
                    known = {"block": fields.get("blocks", 0), **fields}
                case {"event": "answered"} as fields:
                    known = {**fields, "stage": "accuracy"}
                case {"event": "dropped", "setting": setting, "reason": reason}:
                    known = {"dropped": [*self.dropped, (setting, reason)][-_KEPT_DROPS:]}
                case {"event": "note", "text": text}:
                    known = {"text": text}
                case _:
                    return self
            found = from_document(SweepState, {**known, "model": self.model}, extra="ignore")
        except ValueError:
            return self
        names = known.keys() & SweepState.__dataclass_fields__.keys() - {"model"}
        return replace(self, **{name: getattr(found, name) for name in names})


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """The last line of ``etui calibrate --jsonl``: its progress, or the curve at its end."""

    event: str = ""
    done: int = 0
    points: int = 0
    seconds_left: float | None = None  # None if unknown
    next: Mapping[str, int] | None = None  # The lengths measured next; None after the last
    status: str = ""
    n: int = 0
    r2_decode: float | None = None

    def after(self, line: bytes) -> CalibrationState:
        """Return the state after a line; a line that the app does not know changes nothing."""
        found = _parse(CalibrationState, line)
        return self if found is None or found.event not in ("begun", "measured", "curve") else found


def _parse(kind: type[T], line: bytes) -> T | None:
    try:
        return from_document(kind, json.loads(line), extra="ignore")
    except ValueError:
        return None


def plan_sweep(config: Config, name: str, job: Running) -> JobEnded:
    """Plan a sweep of a model, and ask whether to measure it."""
    try:
        answer = ask_etui(config, ("sweep", "--dry-run", "--json", name), job.stopped)
        plan = from_document(PlannedSweep, answer, extra="ignore")
    except ValueError as error:
        raise EtuiError(f"the plan of the sweep cannot be read: {error}") from error
    return JobEnded(
        f"a sweep of {name} is planned",
        question=f"Sweep {name}: which settings cost the fewest joules here?",
        question_details="\n".join(_describe_plan(plan)),
    )


def apply_sweep(config: Config, name: str, folder: str, job: Running) -> JobEnded:
    """Use the best setting of a sweep from now on."""
    try:
        answer = ask_etui(config, ("sweep", "--apply", folder, "--json"), job.stopped)
        applied, why = answer["applied"], str(answer["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise EtuiError(f"the answer of etui sweep cannot be read: {error}") from error
    return JobEnded(why if applied is None else f"applied to {name}: {why}")


def revert_tuned(config: Config, name: str, _job: Running) -> JobEnded:
    """Use the settings of models.yaml again."""
    from etui.models.tuned import remove_tuned

    if remove_tuned(config, name) is None:
        return JobEnded(f"{name} has no settings of a sweep on this machine")
    return JobEnded(f"{name} uses the settings of models.yaml again")


def read_cpu_share() -> float:
    """Watch the CPUs for a second; return the utilisation of all of them, 0..1."""
    import psutil

    return float(psutil.cpu_percent(interval=_LOOK_SECONDS)) / 100


def plan_calibration(
    name: str, curve: OperatingCurve | None, job: Running, *, quick: bool
) -> JobEnded:
    """Describe a calibration and ask whether to measure it; nothing is unloaded before that."""
    runner = job.services.runner
    if runner.is_busy():
        raise EtuiError("an answer or a model load is running", "wait until it ends, or stop it")
    cpu_share = read_cpu_share()
    if job.stopped():
        raise JobStopped("stopped; nothing was measured")
    grid = QUICK if quick else Grid()
    speed = Speed() if curve is None else curve.speed
    lines = _describe_calibration(grid, speed, tuple(runner.residents()))
    busy = cpu_share > BUSY_SHARE
    if busy:
        lines.insert(
            0,
            f"! The CPUs are busy ({units.percent_text(cpu_share)}): the curve will be too high. "
            "Stop the other programs first.",
        )
    return JobEnded(
        f"a calibration of {name} is planned",
        question=f"Calibrate {name}{' quickly' if quick else ''}: what do its tokens cost here?",
        question_details="\n".join(lines),
        options=("--force",) if busy else (),
    )


def _describe_calibration(grid: Grid, speed: Speed, resident: Sequence[str]) -> list[str]:
    """Describe what a calibration measures, how long, and what it takes from the user."""
    visits = list_visits(grid, 0)
    seconds = expected_seconds(visits, grid, speed)
    usual = "about a minute or two" if grid is QUICK else "a few minutes"
    duration = usual if seconds is None else f"about {units.seconds_text(seconds)}"
    prompts, outputs = (f"{lengths[0]:,} to {lengths[-1]:,}" for lengths in
                        (grid.computed, grid.output))  # fmt: skip
    unloaded = f" Unloads {', '.join(resident)}." if resident else ""
    return [
        f"{units.count_text(len(visits), 'measurement')}: prompts of {prompts} tokens, "
        f"outputs of {outputs}.",
        f"Takes {duration}; questions are refused until it ends.{unloaded}",
        "Esc stops it; what was measured is kept.",
    ]


def _describe_plan(plan: PlannedSweep) -> list[str]:
    """Describe what a sweep measures, about how long it takes, and what it prevents."""
    lines = [f"{axis}: {', '.join(str(v) for v in values)}" for axis, values in plan.axes.items()]
    return [
        *lines,
        *plan.notes,
        "",
        f"{units.count_text(len(plan.settings), 'setting')}, workload {plan.workload}, about "
        f"{units.seconds_text(plan.seconds)} (an estimate before anything is measured).",
        "Models are unloaded and questions are refused until it ends. Esc stops it; what was "
        "measured is kept. Nothing changes until you apply the result.",
    ]


def start_calibration(
    bar: JobBar, config: Config, name: str, curve: OperatingCurve | None = None, *,
    quick: bool = False
) -> None:  # fmt: skip
    """Plan a calibration of a model, and measure it once it is confirmed."""
    options = (QUICK_OPTION,) if quick else ()
    plan = partial(plan_calibration, name, curve, quick=quick)
    measure = partial(_start_confirmed, bar, config, "calibration", name, options)
    bar.start(f"checking that the machine is idle, to calibrate {name} …", plan, measure)


def start_sweep(bar: JobBar, config: Config, name: str) -> None:
    """Plan a sweep of a model, and measure it once it is confirmed."""
    measure = partial(_start_confirmed, bar, config, "sweep", name, ())
    bar.start(f"planning a sweep of {name} …", partial(plan_sweep, config, name), measure)


def start_run(bar: JobBar, config: Config, new: NewRun) -> None:
    """Price a run, and start it once it is confirmed."""
    measure = partial(_start_confirmed, bar, config, "run", new.title, new.options)
    bar.start(f"pricing {new.title} …", partial(plan_run, config, new), measure)


def resume_run(bar: JobBar, config: Config, title: str, folder: Path) -> None:
    """Answer what is left of a run."""
    _start_confirmed(bar, config, "run", title, ("--resume", str(folder)), JobEnded())


def _start_confirmed(
    bar: JobBar, config: Config, kind: MeasuredKind, name: str, options: tuple[str, ...],
    ended: JobEnded,
) -> None:  # fmt: skip
    """Measure what was confirmed; a refusal is asked about, and then forced."""
    chosen = (*options, *ended.options)

    def measure(job: Running) -> JobEnded:
        measurement = Measurement(config, name, chosen, job)
        match kind:
            case "run":
                return measurement.run(Path(chosen[-1]))
            case "sweep":
                return measurement.sweep()
            case "calibration":
                return measurement.calibrate()

    forced = partial(_start_confirmed, bar, config, kind, name, chosen)
    bar.start(f"{_DOING[kind]} {name} …", measure, forced, kind=kind, subject=name)


@dataclass(slots=True)
class Measurement:
    """A command that measures while the app rests; its progress is posted."""

    config: Config
    name: str  # The model, or the suite and what answers it
    options: Sequence[str]
    job: Running
    was_stopped: bool = field(default=False, init=False)

    def sweep(self) -> JobEnded:
        """Measure a sweep; at return its result is in its folder.

        It never has ``--cap user``: the app could not answer when to set a power limit.
        """
        state, verdict = SweepState(self.name), None

        def see(line: bytes) -> JobProgress | None:
            nonlocal state, verdict
            before, state = state, state.after(line)
            if state is not before:
                return sweep_progress(state)
            verdict = _parse(SweepResult, line) or verdict
            return None

        command = ("sweep", "--jsonl", self.name)
        end = self._run("sweep", command, sweep_progress(state), see, _SWEEP_STOP_SECONDS)
        if verdict is not None and verdict.is_complete:
            apply = ", a applies the best setting" if verdict.is_better else ""
            return JobEnded(f"swept {self.name}{apply}: {verdict.verdict}")
        return self._end_early(
            end, verdict is not None, "press s to resume", "Small differences will not be seen."
        )

    def run(self, folder: Path) -> JobEnded:
        """Answer the questions of a run, new or stopped; its answers are in its folder."""
        from etui.bench.folder import read_run
        from etui.measure.folder import CONFIG

        state = RunState(self.name, str(folder))
        if (folder / CONFIG).exists():
            state = state.begun(read_run(folder))

        def see(line: bytes) -> JobProgress | None:
            nonlocal state
            if not state.answers:
                state = replace(state.begun(read_run(folder)), done=0, right=0)
            before, state = state, state.after(line, time.monotonic())
            return state.progress if state is not before else None

        begin = replace(state.progress, text=f"running {self.name} … loading the model")
        end = self._run("run", ("bench", "--jsonl", "--quiet"), begin, see)
        if end.code == ExitCode.DONE and not self.was_stopped:
            return JobEnded(f"{self.name}: {read_verdict(folder)}")
        return self._end_early(end, False, "press m to continue it", "")

    def calibrate(self) -> JobEnded:
        """Measure the operating curve; at return it is in the log."""
        state = CalibrationState()

        def see(line: bytes) -> JobProgress | None:
            nonlocal state
            before, state = state, state.after(line)
            is_news = state is not before and state.event != "curve"
            return _calibration_progress(self.name, state) if is_news else None

        begin = JobProgress(f"calibrating {self.name} … loading the model")
        end = self._run("calibration", ("calibrate", self.name, "--jsonl"), begin, see)
        if state.status == "complete":
            fit = "" if state.r2_decode is None else f", R² {state.r2_decode:.3f}"
            return JobEnded(f"calibrated {self.name}: {state.n} points{fit}")
        key = "C" if QUICK_OPTION in self.options else "c"
        return self._end_early(
            end, bool(state.status), f"press {key} to resume", "The curve will be too high."
        )

    def _run(
        self,
        what: str,
        arguments: Sequence[str],
        begin: JobProgress,
        see: Callable[[bytes], JobProgress | None],
        stop_seconds: float = STOP_SECONDS,
    ) -> CommandEnd:
        what = f"{what} of {self.name}"

        def read(line: bytes) -> None:
            progress = see(line)
            if progress is not None and not self.was_stopped:
                self.job.post(progress)

        def say_stopping() -> None:
            self.was_stopped = True
            self.job.post(JobProgress(f"stopping the {what} …", subject=begin.subject))

        with self.job.services.runner.at_rest(f"a {what} is running") as leaving:
            self.job.post(begin)
            return run_command(
                self.config,
                (*arguments, *self.options),
                read,
                lambda: self.job.stopped() or leaving(),
                say_stopping,
                stop_seconds,
            )

    def _end_early(self, end: CommandEnd, partial: bool, resume: str, risk: str) -> JobEnded:
        """Say how a command ended that did not complete.

        Args:
            partial: Whether it printed the result of a part.
            risk: What a forced measurement is not good for.
        """
        if end.may_force and not self.was_stopped:
            question = f"{end.what}.\nMeasure anyway? {risk}"
            return JobEnded(
                what=end.what,
                fix="stop the other programs",
                question=question,
                options=("--force",),
            )
        if partial or self.was_stopped or end.code == ExitCode.PARTIAL:
            why = "" if self.was_stopped or end.code != ExitCode.PARTIAL else end.what
            raise JobStopped(f"{why or 'stopped'}; what was measured is kept", resume)
        raise EtuiError(end.what or f"the command ended with exit code {end.code}", end.fix)


def sweep_progress(state: SweepState) -> JobProgress:
    """Describe the progress in the status line, and in full for the card of the model."""
    lines = ["Sweep running: Esc stops it, questions are refused"]
    lines.append(f"stage     {_STAGES.get(state.stage, state.stage) or 'preparing'}")
    total = state.block + state.blocks_left
    left = "" if state.seconds_left is None else f"about {units.seconds_text(state.seconds_left)}"
    if state.settings:
        remaining = len(state.settings) if state.remaining is None else state.remaining
        lines.append(f"blocks    {state.block} of about {total}")
        lines.append(f"settings  {remaining} of {len(state.settings)} left")
    if state.answers:
        lines.append(f"answers   {state.done} of {state.answers}")
    if state.best is not None:
        lines.append(f"best      {state.best} so far")
    if left and not state.answers:
        lines.append(f"time      {left} left")
    lines += [f"dropped   {setting}: {reason}" for setting, reason in state.dropped]
    if state.text:
        lines.append(f"note      {state.text}")
    if not state.settings:
        text = f"sweeping {state.model} … preparing"
        return JobProgress(text, subject=state.model, details=tuple(lines))
    if state.answers:
        done, whole = state.done, state.answers
        text = f"answer {done} of {whole}"
    else:
        done, whole = state.block, total
        text = f"block {done} of about {total}{f', {left} left' if left else ''}"
    return JobProgress(f"sweeping {state.model} … {text}", done, whole, state.model, tuple(lines))


def _calibration_progress(name: str, state: CalibrationState) -> JobProgress:
    left = "" if state.seconds_left is None else f"about {units.seconds_text(state.seconds_left)}"
    text = f"calibrating {name} … {state.done} of {state.points}{f', {left} left' if left else ''}"
    details = ["Calibration running: Esc stops it, questions are refused"]
    if state.next is not None:
        details.append(
            f"measuring {units.count_text(state.next.get('prompt_tokens', 0), 'prompt token')}, "
            f"{units.count_text(state.next.get('output_tokens', 0), 'output token')}"
        )
    details.append(f"points    {state.done} of {state.points}")
    if left:
        details.append(f"time      {left} left")
    return JobProgress(text, state.done, state.points, name, tuple(details))

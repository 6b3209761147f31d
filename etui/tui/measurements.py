"""Runs, sweeps and calibrations from the app: ask, run etui's command in a process, read its lines.

The app cannot measure by itself: drawing costs energy, and its engine process holds models. All
models are unloaded and questions are refused while a command measures, but only after the user
said yes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from etui import units
from etui.calibration.grid import QUICK, Grid, expected_seconds, list_visits
from etui.codec import from_document
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.design.price import ArmPrice
from etui.energy.idle import BUSY_SHARE
from etui.errors import EtuiError, ExitCode
from etui.tui import jobs

if TYPE_CHECKING:
    from etui.bench.folder import Recorded

State = TypeVar("State", "RunState", "SweepState", "CalibrationState")
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
class NewRun:
    """What to measure: questions of a suite for a model or a policy, or a model alone."""

    suite: str
    system: str
    questions: int
    by: Literal["model", "policy"] = "model"
    kind: MeasuredKind = "run"  # Suite and questions count for a run only

    @property
    def title(self) -> str:
        return f"{self.suite} on {self.system}"

    @property
    def options(self) -> tuple[str, ...]:
        system = f"--{self.by}", self.system
        return "--suite", self.suite, *system, "--limit", str(self.questions)


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, by the lines of ``etui bench --jsonl``: one for each answer."""

    title: str
    folder: str
    answers: int = 0  # Of the finished run; 0 before it began
    done: int = 0
    right: int = 0
    new: int = 0  # Answers of this process
    began: float | None = None  # When the first of them was complete, monotonic seconds
    now: float = 0.0  # When the last one was

    def begun(self, run: Recorded) -> RunState:
        total = run.config.questions * len(run.config.contenders)
        right = sum(sample.correct for sample in run.samples)
        return replace(self, answers=total, done=len(run.samples), right=right)

    def after(self, line: bytes, now: float | None = None) -> RunState:
        """Return the state after a line; a line that the app does not know changes nothing."""
        from etui.bench.folder import read_run

        now = time.monotonic() if now is None else now
        try:
            right = json.loads(line)["correct"]
        except (ValueError, KeyError, TypeError):
            return self
        state = self
        if not self.answers:
            state = replace(self.begun(read_run(Path(self.folder))), done=0, right=0)
        return replace(
            state, done=state.done + 1, right=state.right + bool(right), new=state.new + 1,
            began=now if state.began is None else state.began, now=now,
        )  # fmt: skip

    @property
    def progress(self) -> jobs.JobProgress:
        numbers = f"{self.done:,} of {self.answers:,}"
        details = ["Running: Esc stops it, questions in the chat are refused"]
        details.append(f"answers   {numbers}")
        if self.done:
            right = f"{units.accuracy_text(self.right / self.done)} right"
            numbers += f" · {right}"
            details.append(f"so far    {right}")
        if self.began is not None and self.new > 1 and self.now > self.began:
            each = (self.now - self.began) / (self.new - 1)
            left = f"about {units.seconds_text(each * (self.answers - self.done))} left"
            numbers += f" · {left}"
            details.append(f"time      {left}")
        return jobs.JobProgress(
            f"running {self.title} … {numbers}", self.done, self.answers or None, self.folder,
            tuple(details),
        )  # fmt: skip


def plan_run(config: Config, new: NewRun, job: jobs.Running) -> jobs.JobEnded:
    """Price a run, and ask whether to start it; its folder is chosen now."""
    from etui.bench.folder import new_run_id, runs_dir

    try:
        command = ("bench", "--dry-run", "--json", "--quiet", *new.options)
        answer = jobs.ask_etui(config, command, job.stopped)
        arms = from_document(list[ArmPrice], answer["price"]["left"]["arms"], extra="ignore")
        run_id = new_run_id(new.suite, answer["format"], [new.system], datetime.now())
        asked = int(answer["questions"])
    except (ValueError, KeyError, TypeError) as error:
        raise EtuiError(f"the plan of the run cannot be read: {error}") from error
    return jobs.JobEnded(
        f"a run of {new.title} is planned",
        question=f"Run {units.count_text(asked, 'question')} of {new.title}?",
        question_details="\n".join(_describe_run(asked, arms, job.services.runner.residents())),
        options=("--out", str(runs_dir(config) / run_id)),
    )


def _describe_run(asked: int, arms: Sequence[ArmPrice], resident: Sequence[str]) -> list[str]:
    """Describe what a run costs, how precise it is, and what it takes from the user."""
    joules = [arm.total_joules.value for arm in arms if arm.total_joules is not None]
    seconds = [arm.total_seconds.value for arm in arms if arm.total_seconds is not None]
    lines = []
    if joules and seconds and len(joules) == len(seconds) == len(arms):
        cost, duration = (
            " to ".join(dict.fromkeys(form(value) for value in (min(values), max(values))))
            for values, form in ((joules, units.about_joules), (seconds, units.seconds_text))
        )
        origin = ", ".join(dict.fromkeys(arm.origin for arm in arms))
        by = ", by the arms that the policy chooses" if len(arms) > 1 else ""
        lines.append(f"Costs {cost} and takes about {duration}{by} (from {origin}).")
    else:
        unknown = ", ".join(arm.arm for arm in arms if arm.joules is None or arm.seconds is None)
        lines.append(
            f"Joules and time are not known before ({unknown} has no answers or curve here): they "
            "are shown from the first answers on."
        )
    unloaded = f" Unloads {', '.join(resident)}." if resident else ""
    return [
        *lines,
        f"An accuracy near 50 % will be known to ± {98 / math.sqrt(asked):.0f} points.",
        f"Questions in the chat are refused until it ends.{unloaded}",
        "Esc stops it; its answers are kept, and m continues it.",
    ]


def read_verdict(folder: Path) -> str:
    """Read the result of a finished run in one sentence."""
    from etui.bench.folder import SUMMARY
    from etui.bench.summary import Summary
    from etui.bench.summary_text import describe_answer

    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return describe_answer(from_document(Summary, document, extra="ignore"))
    except (OSError, ValueError) as error:
        raise EtuiError(f"the summary of the run cannot be read: {error}") from error


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
    result: SweepResult | None = None  # That of the last line

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
                case other:
                    return replace(self, result=from_document(SweepResult, other, extra="ignore"))
            found = from_document(SweepState, {**known, "model": self.model}, extra="ignore")
        except ValueError:
            return self
        names = known.keys() & SweepState.__dataclass_fields__.keys() - {"model"}
        return replace(self, **{name: getattr(found, name) for name in names})

    @property
    def progress(self) -> jobs.JobProgress:
        lines = ["Sweep running: Esc stops it, questions are refused"]
        lines.append(f"stage     {_STAGES.get(self.stage, self.stage) or 'preparing'}")
        total = self.block + self.blocks_left
        left = "" if self.seconds_left is None else f"about {units.seconds_text(self.seconds_left)}"
        if self.settings:
            remaining = len(self.settings) if self.remaining is None else self.remaining
            lines.append(f"blocks    {self.block} of about {total}")
            lines.append(f"settings  {remaining} of {len(self.settings)} left")
        if self.answers:
            lines.append(f"answers   {self.done} of {self.answers}")
        if self.best is not None:
            lines.append(f"best      {self.best} so far")
        if left and not self.answers:
            lines.append(f"time      {left} left")
        lines += [f"dropped   {setting}: {reason}" for setting, reason in self.dropped]
        if self.text:
            lines.append(f"note      {self.text}")
        if not self.settings:
            text = f"sweeping {self.model} … preparing"
            return jobs.JobProgress(text, subject=self.model, details=tuple(lines))
        if self.answers:
            done, whole = self.done, self.answers
            text = f"answer {done} of {whole}"
        else:
            done, whole = self.block, total
            text = f"block {done} of about {total}{f', {left} left' if left else ''}"
        return jobs.JobProgress(
            f"sweeping {self.model} … {text}", done, whole, self.model, tuple(lines)
        )


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """How far a calibration is, by the lines of ``etui calibrate --jsonl``."""

    model: str
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
        try:
            match json.loads(line):
                case {"event": "begun" | "measured" | "curve" as event} as fields:
                    known = {**fields, "model": self.model}
                    found = from_document(CalibrationState, known, extra="ignore")
                case _:
                    return self
        except ValueError:
            return self
        if event != "curve":
            return found
        return replace(self, status=found.status, n=found.n, r2_decode=found.r2_decode)

    @property
    def progress(self) -> jobs.JobProgress:
        left = "" if self.seconds_left is None else f"about {units.seconds_text(self.seconds_left)}"
        text = f"calibrating {self.model} … {self.done} of {self.points}"
        details = ["Calibration running: Esc stops it, questions are refused"]
        if self.next is not None:
            details.append(
                f"measuring {units.count_text(self.next.get('prompt_tokens', 0), 'prompt token')}, "
                f"{units.count_text(self.next.get('output_tokens', 0), 'output token')}"
            )
        details.append(f"points    {self.done} of {self.points}")
        if left:
            text += f", {left} left"
            details.append(f"time      {left} left")
        return jobs.JobProgress(text, self.done, self.points, self.model, tuple(details))


def plan_sweep(config: Config, name: str, job: jobs.Running) -> jobs.JobEnded:
    """Plan a sweep of a model, and ask whether to measure it."""
    try:
        answer = jobs.ask_etui(config, ("sweep", "--dry-run", "--json", name), job.stopped)
        plan = from_document(PlannedSweep, answer, extra="ignore")
    except ValueError as error:
        raise EtuiError(f"the plan of the sweep cannot be read: {error}") from error
    return jobs.JobEnded(
        f"a sweep of {name} is planned",
        question=f"Sweep {name}: which settings cost the fewest joules here?",
        question_details="\n".join(_describe_plan(plan)),
    )


def apply_sweep(config: Config, name: str, folder: str, job: jobs.Running) -> jobs.JobEnded:
    """Use the best setting of a sweep from now on."""
    try:
        answer = jobs.ask_etui(config, ("sweep", "--apply", folder, "--json"), job.stopped)
        applied, why = answer["applied"], str(answer["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise EtuiError(f"the answer of etui sweep cannot be read: {error}") from error
    return jobs.JobEnded(why if applied is None else f"applied to {name}: {why}")


def revert_tuned(config: Config, name: str, _job: jobs.Running) -> jobs.JobEnded:
    """Use the settings of models.yaml again."""
    from etui.models.tuned import remove_tuned

    if remove_tuned(config, name) is None:
        return jobs.JobEnded(f"{name} has no settings of a sweep on this machine")
    return jobs.JobEnded(f"{name} uses the settings of models.yaml again")


def read_cpu_share() -> float:
    """Watch the CPUs for a second; return the utilisation of all of them, 0..1."""
    import psutil

    return float(psutil.cpu_percent(interval=_LOOK_SECONDS)) / 100


def plan_calibration(
    name: str, curve: OperatingCurve | None, job: jobs.Running, *, quick: bool
) -> jobs.JobEnded:
    """Describe a calibration and ask whether to measure it; nothing is unloaded before that."""
    runner = job.services.runner
    if runner.is_busy():
        raise EtuiError("an answer or a model load is running", "wait until it ends, or stop it")
    cpu_share = read_cpu_share()
    if job.stopped():
        raise jobs.JobStopped("stopped; nothing was measured")
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
    return jobs.JobEnded(
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
    bar: jobs.JobBar, config: Config, name: str, curve: OperatingCurve | None = None, *,
    quick: bool = False
) -> None:  # fmt: skip
    """Plan a calibration of a model, and measure it once it is confirmed."""
    options = (QUICK_OPTION,) if quick else ()
    plan = partial(plan_calibration, name, curve, quick=quick)
    measure = partial(_start_confirmed, bar, config, "calibration", name, options)
    bar.start(f"checking that the machine is idle, to calibrate {name} …", plan, measure)


def start_sweep(bar: jobs.JobBar, config: Config, name: str) -> None:
    """Plan a sweep of a model, and measure it once it is confirmed."""
    measure = partial(_start_confirmed, bar, config, "sweep", name, ())
    bar.start(f"planning a sweep of {name} …", partial(plan_sweep, config, name), measure)


def start_run(bar: jobs.JobBar, config: Config, new: NewRun) -> None:
    """Price a run, and start it once it is confirmed."""
    measure = partial(_start_confirmed, bar, config, "run", new.title, new.options)
    bar.start(f"pricing {new.title} …", partial(plan_run, config, new), measure)


def resume_run(bar: jobs.JobBar, config: Config, title: str, folder: Path) -> None:
    """Answer what is left of a run."""
    _start_confirmed(bar, config, "run", title, ("--resume", str(folder)), jobs.JobEnded())


def _start_confirmed(
    bar: jobs.JobBar, config: Config, kind: MeasuredKind, name: str, options: tuple[str, ...],
    ended: jobs.JobEnded,
) -> None:  # fmt: skip
    """Measure what was confirmed; a refusal is asked about, and then forced."""
    chosen = (*options, *ended.options)

    def measure(job: jobs.Running) -> jobs.JobEnded:
        measurement = Measurement(config, kind, name, chosen, job)
        match kind:
            case "run":
                return measurement.run(Path(chosen[-1]))
            case "sweep":
                return measurement.sweep()
            case "calibration":
                return measurement.calibration()

    forced = partial(_start_confirmed, bar, config, kind, name, chosen)
    bar.start(f"{_DOING[kind]} {name} …", measure, forced, kind=kind, subject=name)


@dataclass(slots=True)
class Measurement:
    """A command that measures while the app rests; its progress is posted."""

    config: Config
    kind: MeasuredKind
    name: str  # The model, or the suite and what answers it
    options: Sequence[str]
    job: jobs.Running
    was_stopped: bool = field(default=False, init=False)

    def sweep(self) -> jobs.JobEnded:
        """Measure a sweep; at return its result is in its folder.

        It never has ``--cap user``: the app could not answer when to set a power limit.
        """
        state, command = SweepState(self.name), ("sweep", "--jsonl", self.name)
        state, end = self._follow(command, state, state.progress, _SWEEP_STOP_SECONDS)
        if (found := state.result) is not None and found.is_complete:
            apply = ", a applies the best setting" if found.is_better else ""
            return jobs.JobEnded(f"swept {self.name}{apply}: {found.verdict}")
        return self._end_early(
            end, found is not None, "press s to resume", "Small differences will not be seen."
        )

    def run(self, folder: Path) -> jobs.JobEnded:
        """Answer the questions of a run, new or stopped; its answers are in its folder."""
        from etui.bench.folder import read_run
        from etui.measure.folder import CONFIG

        state = RunState(self.name, str(folder))
        if (folder / CONFIG).exists():
            state = state.begun(read_run(folder))
        begin = replace(state.progress, text=f"running {self.name} … loading the model")
        _, end = self._follow(("bench", "--jsonl", "--quiet"), state, begin)
        if end.code == ExitCode.DONE and not self.was_stopped:
            return jobs.JobEnded(f"{self.name}: {read_verdict(folder)}")
        return self._end_early(end, False, "press m to continue it", "")

    def calibration(self) -> jobs.JobEnded:
        """Measure the operating curve; at return it is in the log."""
        begin = jobs.JobProgress(f"calibrating {self.name} … loading the model")
        command = ("calibrate", self.name, "--jsonl")
        state, end = self._follow(command, CalibrationState(self.name), begin)
        if state.status == "complete":
            fit = "" if state.r2_decode is None else f", R² {state.r2_decode:.3f}"
            return jobs.JobEnded(f"calibrated {self.name}: {state.n} points{fit}")
        key = "C" if QUICK_OPTION in self.options else "c"
        return self._end_early(
            end, bool(state.status), f"press {key} to resume", "The curve will be too high."
        )

    def _follow(
        self,
        arguments: Sequence[str],
        state: State,
        begin: jobs.JobProgress,
        stop_seconds: float = jobs.STOP_SECONDS,
    ) -> tuple[State, jobs.CommandEnd]:
        """Run a command, and post its state after each line; return the last one."""
        what = f"{self.kind} of {self.name}"

        def read(line: bytes) -> None:
            nonlocal state
            before, state = state, state.after(line)
            if state is not before and not self.was_stopped:
                self.job.post(state.progress)

        def say_stopping() -> None:
            self.was_stopped = True
            self.job.post(jobs.JobProgress(f"stopping the {what} …", subject=begin.subject))

        with self.job.services.runner.at_rest(f"a {what} is running") as leaving:
            self.job.post(begin)
            end = jobs.run_command(
                self.config,
                (*arguments, *self.options),
                read,
                lambda: self.job.stopped() or leaving(),
                say_stopping,
                stop_seconds,
            )
        return state, end

    def _end_early(
        self, end: jobs.CommandEnd, partial: bool, resume: str, risk: str
    ) -> jobs.JobEnded:
        """Say how a command ended that did not complete, but may have printed a part.

        ``risk`` is what a forced measurement is not good for.
        """
        if "--force" in end.fix and not self.was_stopped:  # it would go on with that
            question = f"{end.what}.\nMeasure anyway? {risk}"
            return jobs.JobEnded(
                what=end.what,
                fix="stop the other programs",
                question=question,
                options=("--force",),
            )
        if partial or self.was_stopped or end.code == ExitCode.PARTIAL:
            why = "" if self.was_stopped or end.code != ExitCode.PARTIAL else end.what
            raise jobs.JobStopped(f"{why or 'stopped'}; what was measured is kept", resume)
        raise EtuiError(end.what or f"the command ended with exit code {end.code}", end.fix)

"""Sweeps and calibrations from the app: ask, run etui's command in a process, read its lines.

The app cannot measure by itself: drawing costs energy, and its engine process holds models. All
models are unloaded and questions are refused while a command measures, but only after the user
said yes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etui import units
from etui.calibration.grid import QUICK, Grid, expected_seconds, list_visits
from etui.codec import from_document
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.energy.idle import BUSY_SHARE
from etui.errors import EtuiError, ExitCode
from etui.tui.jobs import (
    STOP_SECONDS,
    CommandEnd,
    JobEnded,
    JobProgress,
    JobStopped,
    Post,
    Stopped,
    run_command,
)
from etui.tui.services import TurnRunner

QUICK_OPTION = "--quick"
_LOOK_SECONDS = 1.0
"""How long to watch the CPUs before a calibration, in seconds."""

_SWEEP_STOP_SECONDS = 60.0
"""How long a stopped sweep may take: it writes its result, and restores a power limit."""

_STAGES = {
    "floor": "detection floor: the settings in use against themselves",
    "race": "race: all settings that are left",
    "confirm": "confirming the best settings",
    "accuracy": "answering the questions of the suite",
}

_KEPT_DROPS = 3
"""Newest dropped settings to show."""


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
    """How far a sweep is, from the lines of ``etui sweep --jsonl``.

    Attributes:
        block, blocks_left: Blocks measured, and left at most.
    """

    model: str
    settings: int = 0  # Number of settings at the beginning; 0 before it began
    stage: str = ""  # What the last block was for; empty before the first
    block: int = 0
    blocks_left: int = 0
    remaining: int | None = None  # Settings left; None before the first block
    best: str | None = None  # Key of the best setting so far; None before one is known
    seconds_left: float | None = None  # Estimated time; None before it began
    dropped: tuple[tuple[str, str], ...] = ()  # Settings dropped last, with the reasons
    note: str = ""
    answered: tuple[int, int] | None = None
    """Answers of the suite that are there, and all of them; None outside that part."""
    folder: str | None = None  # Folder of the sweep; None before it began


@dataclass(frozen=True, slots=True)
class _Begun:
    settings: tuple[str, ...]
    folder: str
    blocks: int = 0
    blocks_left: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    stage: str
    block: int
    blocks_left: int
    remaining: int
    best: str | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class _Dropped:
    setting: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Note:
    text: str


@dataclass(frozen=True, slots=True)
class _Answered:
    done: int
    answers: int


@dataclass(frozen=True, slots=True)
class SweepVerdict:
    """The result of a sweep, from its last line."""

    verdict: str
    is_complete: bool
    baseline: str
    best: str | None
    is_best_claimed: bool = True

    @property
    def is_better(self) -> bool:
        """Whether a setting was found that beats the one in use beyond doubt."""
        is_another = self.best not in (None, self.baseline)
        return self.is_complete and is_another and self.is_best_claimed


SweepEvent = _Begun | _Block | _Dropped | _Note | _Answered | SweepVerdict

_KINDS: Mapping[str, type[Any]] = {
    "begun": _Begun,
    "block": _Block,
    "dropped": _Dropped,
    "note": _Note,
    "answered": _Answered,
    "result": SweepVerdict,
}


@dataclass(frozen=True, slots=True)
class _Next:
    """The lengths that are measured next."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class _Progress:
    """Progress from a line of ``etui calibrate --jsonl``.

    ``seconds_left`` is None if unknown, ``next`` after the last measurement.
    """

    done: int
    points: int
    seconds_left: float | None
    next: _Next | None = None


@dataclass(frozen=True, slots=True)
class _FittedCurve:
    """The fitted curve, from the last line of a calibration."""

    status: str
    n: int
    r2_decode: float | None


def plan_sweep(config: Config, name: str, stopped: Stopped) -> JobEnded:
    """Plan a sweep of a model, and ask whether to measure it."""
    output: list[bytes] = []
    end = _run(config, ("--dry-run", "--json", name), output, stopped)
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"etui sweep ended with exit code {end.code}", end.fix)
    try:
        plan = from_document(PlannedSweep, json.loads(b"".join(output)), extra="ignore")
    except ValueError as error:
        raise EtuiError(f"the plan of the sweep cannot be read: {error}") from error
    return JobEnded(
        f"a sweep of {name} is planned",
        question=f"Sweep {name}: which settings cost the fewest joules here?",
        question_details="\n".join(describe_plan(plan)),
    )


def run_sweep(
    runner: TurnRunner,
    config: Config,
    name: str,
    post: Post,
    stopped: Stopped,
    options: Sequence[str] = (),
) -> JobEnded:
    """Measure a sweep of a model; at return its result is in its folder.

    It never has ``--cap user``: the app could not answer when to set a power limit.
    """
    state = SweepState(name)
    verdict: SweepVerdict | None = None

    def see(line: bytes) -> JobProgress | None:
        nonlocal state, verdict
        event = parse_line(line)
        if isinstance(event, SweepVerdict):
            verdict = event
        elif event is not None:
            state = advance(state, event)
            return build_progress(state)
        return None

    arguments = ("sweep", "--jsonl", name, *options)
    plan = _Plan(arguments, f"sweep of {name}", build_progress(state), _SWEEP_STOP_SECONDS)
    end, was_stopped = _measure(runner, config, plan, see, post, stopped)
    return _sweep_result(verdict, end, name, stopped=was_stopped)


def apply_sweep(config: Config, name: str, folder: Path, stopped: Stopped) -> JobEnded:
    """Apply the best setting of a finished sweep."""
    output: list[bytes] = []
    end = _run(config, ("--apply", str(folder), "--json"), output, stopped)
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"etui sweep ended with exit code {end.code}", end.fix)
    try:
        document = json.loads(b"".join(output))
        applied, why = document["applied"], str(document["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise EtuiError(f"the answer of etui sweep cannot be read: {error}") from error
    if applied is None:
        return JobEnded(why)
    return JobEnded(f"applied to {name}: {why}")


def revert_tuned(config: Config, name: str) -> JobEnded:
    """Go back to the settings of models.yaml."""
    from etui.models.tuned import remove_tuned

    if remove_tuned(config, name) is None:
        return JobEnded(f"{name} has no settings of a sweep on this machine")
    return JobEnded(f"{name} uses the settings of models.yaml again")


def read_cpu_share() -> float:
    """Watch the CPUs for a second; return the utilisation of all of them, 0..1."""
    import psutil

    return float(psutil.cpu_percent(interval=_LOOK_SECONDS)) / 100


def plan_calibration(
    runner: TurnRunner,
    name: str,
    curve: OperatingCurve | None,
    stopped: Stopped,
    *,
    quick: bool,
) -> JobEnded:
    """Describe a calibration and ask whether to measure it; nothing is unloaded before the answer.

    Args:
        curve: Its last curve, whose speed tells how long it takes; None without one.
    """
    if runner.is_busy():
        raise EtuiError("an answer or a model load is running", "wait until it ends, or stop it")
    cpu_share = read_cpu_share()
    if stopped():
        raise JobStopped("stopped; nothing was measured")
    busy = cpu_share > BUSY_SHARE
    grid = QUICK if quick else Grid()
    speed = Speed() if curve is None else curve.speed
    lines = describe_calibration(grid, speed, tuple(runner.residents()))
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


def describe_calibration(grid: Grid, speed: Speed, resident: Sequence[str]) -> list[str]:
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


def calibrate(
    runner: TurnRunner,
    config: Config,
    name: str,
    post: Post,
    stopped: Stopped,
    options: Sequence[str] = (),
) -> JobEnded:
    """Measure the operating curve of a model; at return it is in the log."""
    curve: _FittedCurve | None = None

    def see(line: bytes) -> JobProgress | None:
        nonlocal curve
        fact = _parse_calibration(line)
        if isinstance(fact, _FittedCurve):
            curve = fact
            return None
        return None if fact is None else _calibration_progress(name, fact)

    begin = JobProgress(f"calibrating {name} … loading the model")
    plan = _Plan(("calibrate", name, "--jsonl", *options), f"calibration of {name}", begin)
    end, was_stopped = _measure(runner, config, plan, see, post, stopped)
    return _calibration_result(curve, end, name, options, stopped=was_stopped)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A command that measures."""

    arguments: Sequence[str]
    what: str
    begin: JobProgress
    stop_seconds: float = STOP_SECONDS


def _measure(
    runner: TurnRunner,
    config: Config,
    plan: _Plan,
    see: Callable[[bytes], JobProgress | None],
    post: Post,
    stopped: Stopped,
) -> tuple[CommandEnd, bool]:
    """Run a command while the app rests, and post its progress; return whether it was stopped."""
    stopping = False

    def read(line: bytes) -> None:
        progress = see(line)
        if progress is not None and not stopping:
            post(progress)

    def say_stopping() -> None:
        nonlocal stopping
        stopping = True
        post(JobProgress(f"stopping the {plan.what} …", subject=plan.begin.subject))

    with runner.at_rest(f"a {plan.what} is running") as leaving:
        post(plan.begin)
        end = run_command(
            config,
            plan.arguments,
            read,
            lambda: stopped() or leaving(),
            say_stopping,
            plan.stop_seconds,
        )
    return end, stopping


def _run(
    config: Config, arguments: Sequence[str], output: list[bytes], stopped: Stopped
) -> CommandEnd:
    """Run ``etui sweep`` for an answer that is not a measurement."""
    was_stopped: list[bool] = []
    end = run_command(
        config, ("sweep", *arguments), output.append, stopped, lambda: was_stopped.append(True)
    )
    if was_stopped and end.code != ExitCode.DONE:
        raise JobStopped("stopped; nothing was changed")
    return end


def _sweep_result(
    verdict: SweepVerdict | None, end: CommandEnd, name: str, *, stopped: bool
) -> JobEnded:
    if verdict is not None and verdict.is_complete:
        apply = ", a applies the best setting" if verdict.is_better else ""
        return JobEnded(f"swept {name}{apply}: {verdict.verdict}")
    if end.may_force and not stopped:
        question = f"{end.what}.\nMeasure anyway? Small differences will not be seen."
        return JobEnded(
            what=end.what, fix="stop the other programs", question=question, options=("--force",)
        )
    if verdict is not None or stopped or end.code == ExitCode.PARTIAL:
        what = end.what if end.code == ExitCode.PARTIAL and not stopped and end.what else "stopped"
        raise JobStopped(f"{what}; what was measured is kept", "press s to resume")
    raise EtuiError(end.what or f"the sweep ended with exit code {end.code}", end.fix)


def describe_plan(plan: PlannedSweep) -> list[str]:
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


def parse_line(line: bytes) -> SweepEvent | None:
    """Parse a line of ``etui sweep --jsonl``; None for events that the app does not show."""
    try:
        fields = json.loads(line)
        event = fields.get("event") if isinstance(fields, dict) else None
        kind = _KINDS.get(event) if isinstance(event, str) else None
        found: SweepEvent | None = (
            None if kind is None else from_document(kind, fields, extra="ignore")
        )
    except ValueError:
        return None
    return found


def advance(state: SweepState, event: SweepEvent) -> SweepState:
    """Return the state after an event."""
    match event:
        case _Begun():
            return replace(
                state,
                settings=len(event.settings),
                block=event.blocks,
                blocks_left=event.blocks_left,
                seconds_left=event.seconds_left,
                folder=event.folder,
            )
        case _Block():
            return replace(
                state,
                stage=event.stage,
                block=event.block,
                blocks_left=event.blocks_left,
                remaining=event.remaining,
                best=event.best,
                seconds_left=event.seconds_left,
            )
        case _Dropped():
            dropped = (*state.dropped, (event.setting, event.reason))
            return replace(state, dropped=dropped[-_KEPT_DROPS:])
        case _Note():
            return replace(state, note=event.text)
        case _Answered():
            return replace(state, stage="accuracy", answered=(event.done, event.answers))
    return state


def build_progress(state: SweepState) -> JobProgress:
    """Describe the progress in the status line, and in full for the card of the model."""
    if not state.settings:
        text = f"sweeping {state.model} … preparing"
        return JobProgress(text, subject=state.model, details=tuple(describe_state(state)))
    total = state.block + state.blocks_left
    parts = [f"block {state.block} of about {total}"]
    done, whole = float(state.block), float(total)
    if state.answered is not None:
        done, whole = map(float, state.answered)
        parts = [f"answer {state.answered[0]} of {state.answered[1]}"]
    elif state.seconds_left is not None:
        parts.append(f"about {units.seconds_text(state.seconds_left)} left")
    text = f"sweeping {state.model} … {', '.join(parts)}"
    return JobProgress(text, done, whole, state.model, tuple(describe_state(state)))


def describe_state(state: SweepState) -> list[str]:
    """Describe a running sweep for the card of its model."""
    lines = ["Sweep running: Esc stops it, questions are refused"]
    lines.append(f"stage     {_STAGES.get(state.stage, state.stage) or 'preparing'}")
    if state.settings:
        lines.append(f"blocks    {state.block} of about {state.block + state.blocks_left}")
        left = state.settings if state.remaining is None else state.remaining
        lines.append(f"settings  {left} of {state.settings} left")
    if state.answered is not None:
        lines.append(f"answers   {state.answered[0]} of {state.answered[1]}")
    if state.best is not None:
        lines.append(f"best      {state.best} so far")
    if state.seconds_left is not None and state.answered is None:
        lines.append(f"time      about {units.seconds_text(state.seconds_left)} left")
    lines += [f"dropped   {setting}: {reason}" for setting, reason in state.dropped]
    if state.note:
        lines.append(f"note      {state.note}")
    return lines


def _parse_calibration(line: bytes) -> _FittedCurve | _Progress | None:
    """Parse a line; None if it is neither progress nor a curve."""
    try:
        fields = json.loads(line)
        event = fields.get("event") if isinstance(fields, dict) else None
        kinds = {"curve": _FittedCurve, "begun": _Progress, "measured": _Progress}
        return from_document(kinds[event], fields, extra="ignore") if event in kinds else None
    except ValueError:
        return None


def _calibration_progress(name: str, fact: _Progress) -> JobProgress:
    seconds_left, lengths = fact.seconds_left, fact.next
    remaining = (
        f", about {units.seconds_text(seconds_left)} left" if seconds_left is not None else ""
    )
    text = f"calibrating {name} … {fact.done} of {fact.points}{remaining}"
    details = ["Calibration running: Esc stops it, questions are refused"]
    if lengths is not None:
        details.append(
            f"measuring {units.count_text(lengths.prompt_tokens, 'prompt token')}, "
            f"{units.count_text(lengths.output_tokens, 'output token')}"
        )
    details.append(f"points    {fact.done} of {fact.points}")
    if seconds_left is not None:
        details.append(f"time      about {units.seconds_text(seconds_left)} left")
    return JobProgress(text, fact.done, fact.points, name, tuple(details))


def _calibration_result(
    curve: _FittedCurve | None,
    end: CommandEnd,
    name: str,
    options: Sequence[str],
    *,
    stopped: bool,
) -> JobEnded:
    if curve is not None and curve.status == "complete":
        r2 = curve.r2_decode
        fit = "" if r2 is None else f", R² {r2:.3f}"
        return JobEnded(f"calibrated {name}: {curve.n} points{fit}")
    if curve is not None or stopped or end.code == ExitCode.PARTIAL:
        key = "C" if QUICK_OPTION in options else "c"
        raise JobStopped("stopped; the measurements are kept", f"press {key} to resume")
    if end.may_force:
        question = f"{end.what}.\nMeasure anyway? The curve will be too high."
        return JobEnded(
            what=end.what, fix="stop the other programs", question=question, options=("--force",)
        )
    raise EtuiError(end.what or f"the calibration ended with exit code {end.code}", end.fix)

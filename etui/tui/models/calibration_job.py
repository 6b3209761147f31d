"""Calibration from the app: ask, then run ``etui calibrate`` in a process and read its output.

All models are unloaded and questions are refused meanwhile, but only after the user said yes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui import units
from etui.calibration.grid import QUICK, Grid, expected_seconds, list_visits
from etui.codec import from_document
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.energy.idle import BUSY_SHARE
from etui.errors import EtuiError, ExitCode
from etui.tui.command_run import CommandEnd, build_environment, follow_command
from etui.tui.jobs import JobEnded, JobProgress, JobStopped, Post
from etui.tui.services import TurnRunner

QUICK_OPTION = "--quick"
_LOOK_SECONDS = 1.0
"""How long to watch the CPUs before a calibration, in seconds."""


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


def read_cpu_share() -> float:
    """Watch the CPUs for a second; return the utilisation of all of them, 0..1."""
    import psutil

    return float(psutil.cpu_percent(interval=_LOOK_SECONDS)) / 100


def plan_calibration(
    runner: TurnRunner,
    name: str,
    curve: OperatingCurve | None,
    stopped: Callable[[], bool],
    *,
    quick: bool,
) -> JobEnded:
    """Describe a calibration and ask whether to measure it; nothing is unloaded before the answer.

    Args:
        runner: Says which models are in memory.
        curve: Its last curve, whose speed tells how long it takes; None without one.
        stopped: Returns whether to stop.
        quick: Whether to measure a rougher curve in less time.

    Raises:
        EtuiError: An answer is running.
        JobStopped: It was stopped.
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
    """Describe what a calibration measures, how long, and what it takes from the user.

    Args:
        speed: Speed of the model, for the time; all None if unknown.
        resident: Names of the models in memory, which are unloaded.
    """
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
    stopped: Callable[[], bool],
    options: Sequence[str] = (),
) -> JobEnded:
    """Measure the operating curve of a model; at return it is in the log.

    Args:
        runner: Unloads its models and refuses questions during the calibration.
        stopped: Returns whether to stop; the measurements so far are kept for the next run.
        options: Options of ``etui calibrate``.

    Raises:
        EtuiError: An answer is running, or the calibration failed.
        JobStopped: It was stopped before the curve was complete.
    """
    curve: _FittedCurve | None = None
    stopping = False

    def see(line: bytes) -> None:
        nonlocal curve
        fact = _parse_line(line)
        if isinstance(fact, _FittedCurve):
            curve = fact
        elif fact is not None and not stopping:
            post(_build_progress(name, fact))

    def say_stopping() -> None:
        nonlocal stopping
        stopping = True
        post(JobProgress(f"stopping the calibration of {name} …"))

    with runner.at_rest(f"a calibration of {name} is running") as leaving:
        post(JobProgress(f"calibrating {name} … loading the model"))
        end = follow_command(
            command(name, options),
            build_environment(config),
            see,
            lambda: stopped() or leaving(),
            say_stopping,
        )
    return _build_result(curve, end, name, options, stopped=stopping)


def command(name: str, options: Sequence[str]) -> list[str]:
    """Return the command line that calibrates a model."""
    return [sys.executable, "-m", "etui", "calibrate", name, "--jsonl", *options]


def _parse_line(line: bytes) -> _FittedCurve | _Progress | None:
    """Parse a line; None if it is neither progress nor a curve."""
    try:
        fields = json.loads(line)
        event = fields.get("event") if isinstance(fields, dict) else None
        kinds = {"curve": _FittedCurve, "begun": _Progress, "measured": _Progress}
        return from_document(kinds[event], fields, extra="ignore") if event in kinds else None
    except ValueError:
        return None


def _build_progress(name: str, fact: _Progress) -> JobProgress:
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


def _build_result(
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

"""Calibration from the app: run ``etui calibrate`` in a separate process and read its output.

All models are unloaded and questions are refused meanwhile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.text.codec import from_document
from etui.tui.command_run import CommandEnd, build_environment, follow_command
from etui.tui.jobs import JobEnded, JobProgress, JobStopped, Post
from etui.tui.services import TurnRunner


@dataclass(frozen=True, slots=True)
class _Progress:
    """Progress from a line of ``etui calibrate --jsonl``; ``seconds_left`` is None if unknown."""

    done: int
    points: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class _FittedCurve:
    """The fitted curve, from the last line of a calibration."""

    status: str
    n: int
    r2_decode: float | None


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
        config: Folders and settings.
        name: The model.
        post: Called with the progress.
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
    return _build_result(curve, end, name, stopped=stopping)


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
    seconds_left = fact.seconds_left
    remaining = (
        f", about {units.seconds_text(seconds_left)} left" if seconds_left is not None else ""
    )
    text = f"calibrating {name} … {fact.done} of {fact.points}{remaining}"
    return JobProgress(text, fact.done, fact.points)


def _build_result(
    curve: _FittedCurve | None, end: CommandEnd, name: str, *, stopped: bool
) -> JobEnded:
    if curve is not None and curve.status == "complete":
        r2 = curve.r2_decode
        fit = "" if r2 is None else f", R² {r2:.3f}"
        return JobEnded(f"calibrated {name}: {curve.n} points{fit}")
    if curve is not None or stopped or end.code == ExitCode.PARTIAL:
        raise JobStopped("stopped; the measurements are kept", "press c to resume")
    if end.may_force:
        question = f"{end.what}.\nMeasure anyway? The curve will be too high."
        return JobEnded(what=end.what, fix="stop the other programs", question=question)
    raise EtuiError(end.what or f"the calibration ended with exit code {end.code}", end.fix)

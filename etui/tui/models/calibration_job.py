"""Calibration from the app: run ``etui calibrate`` in a separate process and read its output.

The app cannot measure by itself: drawing costs energy, and its engine process holds models. So all
models are unloaded, questions are refused, and another process measures.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.text.codec import from_document
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


_POLL_SECONDS = 0.1
"""Interval between checks for a request to stop, in seconds."""

_STOP_SECONDS = 20.0
"""How long a stopped calibration may take to save its measurements, in seconds."""

_FORCE = "--force"


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
    with runner.at_rest(f"a calibration of {name} is running") as leaving:
        post(JobProgress(f"calibrating {name} … loading the model"))
        return _run_calibration(
            command(name, options),
            environment(config),
            name,
            post,
            lambda: stopped() or leaving(),
        )


def command(name: str, options: Sequence[str]) -> list[str]:
    """Return the command line that calibrates a model."""
    return [sys.executable, "-m", "etui", "calibrate", name, "--jsonl", *options]


def environment(config: Config) -> dict[str, str]:
    """Return an environment in which another etui uses the same folders."""
    return {
        **os.environ,
        "ETUI_HOME": str(config.home),
        "ETUI_MODELS": str(config.models_dir),
        "ETUI_SYSFS": str(config.sysfs_dir),
    }


def _run_calibration(
    arguments: Sequence[str],
    env: dict[str, str],
    name: str,
    post: Post,
    stopped: Callable[[], bool],
) -> JobEnded:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            arguments, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        try:
            lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            threading.Thread(target=_queue_lines, args=(process.stdout, lines), daemon=True).start()
            curve = _post_progress(process, lines, name, post, stopped)
            code = process.wait(_STOP_SECONDS)
        finally:
            process.kill()  # it has ended already, or does not react to SIGTERM
            process.wait()
        errors.seek(0)
        stderr_text = errors.read().decode("utf-8", "replace")
    return _build_result(curve, code, stderr_text, name, stopped())


def _queue_lines(stdout: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stdout:
        for line in stdout:
            lines.put(line)
    lines.put(None)


def _post_progress(
    process: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes | None],
    name: str,
    post: Post,
    stopped: Callable[[], bool],
) -> _FittedCurve | None:
    """Post the progress until the output ends, and return the curve if there is one."""
    curve: _FittedCurve | None = None
    stop_sent_at: float | None = None
    while True:
        if stop_sent_at is None and stopped():
            stop_sent_at = time.monotonic()
            process.terminate()
            post(JobProgress(f"stopping the calibration of {name} …"))
        elif stop_sent_at is not None and time.monotonic() - stop_sent_at > _STOP_SECONDS:
            process.kill()
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return curve
        fact = _parse_line(line)
        if isinstance(fact, _FittedCurve):
            curve = fact
        elif fact is not None and stop_sent_at is None:
            post(_build_progress(name, fact))


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
    curve: _FittedCurve | None, code: int, stderr_text: str, name: str, stopped: bool
) -> JobEnded:
    if curve is not None and curve.status == "complete":
        r2 = curve.r2_decode
        fit = "" if r2 is None else f", R² {r2:.3f}"
        return JobEnded(f"calibrated {name}: {curve.n} points{fit}")
    if curve is not None or stopped or code == ExitCode.PARTIAL:
        raise JobStopped("stopped; the measurements are kept", "press c to resume")
    what, fix = _parse_error(stderr_text)
    if _FORCE in fix:
        return JobEnded(what=what, fix="stop the other programs", may_force=True)
    raise EtuiError(what or f"the calibration ended with exit code {code}", fix)


def _parse_error(stderr_text: str) -> tuple[str, str]:
    """Return the error and its fix: the last two lines that etui writes to stderr."""
    lines = stderr_text.strip().splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("etui: ")]
    if not starts:
        return (lines[-1] if lines else ""), ""
    what, *fix = lines[starts[-1] :]
    return what.removeprefix("etui: "), " ".join(fix)

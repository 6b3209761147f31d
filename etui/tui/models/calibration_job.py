"""A calibration from the app: ``etui calibrate`` in a process of its own, read line by line.

The app itself is no place to measure in: it draws, and its engine's process holds models. So the
models are given up, questions are refused meanwhile, and another process measures.
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
class _Counted:
    """A line of ``etui calibrate --jsonl``: how far it is; the seconds are None where unknown."""

    done: int
    points: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class _Fitted:
    """The last line of a calibration: its curve."""

    status: str
    n: int
    r2_decode: float | None


_LOOK_SECONDS = 0.1
"""How often it is asked whether the calibration is to stop."""

_LEAVE_SECONDS = 20.0
"""How long a stopped calibration may take to keep what it measured."""

_FORCE = "--force"


def calibrate(
    runner: TurnRunner,
    config: Config,
    name: str,
    post: Post,
    stopped: Callable[[], bool],
    options: Sequence[str] = (),
) -> JobEnded:
    """Measure a model; the curve is in the log by then.

    Args:
        stopped: Whether to stop; what was measured is kept for the next time.
        options: Of ``etui calibrate``.

    Raises:
        EtuiError: An answer is running, or nothing could be measured.
        JobStopped: It was stopped before there was a curve.
    """
    with runner.at_rest(f"a calibration of {name} is running") as leaving:
        post(JobProgress(f"calibrating {name} … loading it"))
        return _measure(
            command(name, options),
            environment(config),
            name,
            post,
            lambda: stopped() or leaving(),
        )


def command(name: str, options: Sequence[str]) -> list[str]:
    """The command line that measures a model."""
    return [sys.executable, "-m", "etui", "calibrate", name, "--jsonl", *options]


def environment(config: Config) -> dict[str, str]:
    """The environment in which another etui has the same folders."""
    return {
        **os.environ,
        "ETUI_HOME": str(config.home),
        "ETUI_MODELS": str(config.models_dir),
        "ETUI_SYSFS": str(config.sysfs_dir),
    }


def _measure(
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
            threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
            curve = _follow(process, lines, name, post, stopped)
            code = process.wait(_LEAVE_SECONDS)
        finally:
            process.kill()  # it has ended, or does not listen
            process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    return _ended(curve, code, said, name, stopped())


def _read(stdout: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stdout:
        for line in stdout:
            lines.put(line)
    lines.put(None)


def _follow(
    process: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes | None],
    name: str,
    post: Post,
    stopped: Callable[[], bool],
) -> _Fitted | None:
    """Post what the lines tell until they end; the curve, if there was one."""
    curve: _Fitted | None = None
    asked_at: float | None = None
    while True:
        if asked_at is None and stopped():
            asked_at = time.monotonic()
            process.terminate()
            post(JobProgress(f"stopping the calibration of {name} …"))
        elif asked_at is not None and time.monotonic() - asked_at > _LEAVE_SECONDS:
            process.kill()
        try:
            line = lines.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return curve
        fact = _fact(line)
        if isinstance(fact, _Fitted):
            curve = fact
        elif fact is not None and asked_at is None:
            post(_progress(name, fact))


def _fact(line: bytes) -> _Fitted | _Counted | None:
    """Parse a line; None for one that is no fact shown here."""
    try:
        found = json.loads(line)
        event = found.get("event") if isinstance(found, dict) else None
        kinds = {"curve": _Fitted, "begun": _Counted, "measured": _Counted}
        return from_document(kinds[event], found, extra="ignore") if event in kinds else None
    except ValueError:
        return None


def _progress(name: str, fact: _Counted) -> JobProgress:
    left = fact.seconds_left
    about = f", about {units.seconds_text(left)} left" if left is not None else ""
    text = f"calibrating {name} … {fact.done} of {fact.points}{about}"
    return JobProgress(text, fact.done, fact.points)


def _ended(curve: _Fitted | None, code: int, said: str, name: str, stopped: bool) -> JobEnded:
    if curve is not None and curve.status == "complete":
        r2 = curve.r2_decode
        fit = "" if r2 is None else f", R² {r2:.3f}"
        return JobEnded(f"{name} is calibrated: {curve.n} points{fit}")
    if curve is not None or stopped or code == ExitCode.PARTIAL:
        raise JobStopped("stopped; what was measured is kept", "press c to go on from there")
    what, fix = _error(said)
    if _FORCE in fix:
        return JobEnded(what=what, fix="end what else runs", may_force=True)
    raise EtuiError(what or f"the calibration ended with exit code {code}", fix)


def _error(said: str) -> tuple[str, str]:
    """The two lines in which etui says an error; other lines of its stderr come before them."""
    lines = said.strip().splitlines()
    places = [n for n, line in enumerate(lines) if line.startswith("etui: ")]
    if not places:
        return (lines[-1] if lines else ""), ""
    what, *fix = lines[places[-1] :]
    return what.removeprefix("etui: "), " ".join(fix)

"""Long jobs on models (pull, check, load, unload), in threads that only post facts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode, format_internal_error
from etui.text import sanitize
from etui.tui.services import Services

if TYPE_CHECKING:
    from etui.curves.prediction import DecodeForecast
    from etui.models.download import Progress, Report


_POLL_SECONDS = 0.1  # Interval between checks for a request to stop
STOP_SECONDS = 20.0  # How long a stopped command may take to save its measurements
REPORT_SECONDS = 0.1  # Least time between two redraws of a progress bar
Stopped = Callable[[], bool]  # Returns whether the user has asked to stop


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended, with the error that it printed and its fix; both empty without one."""

    code: int
    what: str
    fix: str

    @property
    def may_force(self) -> bool:
        """Whether the command refused, and would go on with ``--force``."""
        return "--force" in self.fix


def command(*arguments: str) -> list[str]:
    """Return a command line of etui."""
    return [sys.executable, "-m", "etui", *arguments]


def run_command(
    config: Config,
    arguments: Sequence[str],
    on_line: Callable[[bytes], object],
    stopped: Stopped,
    on_stop: Callable[[], object],
    stop_seconds: float = STOP_SECONDS,
) -> CommandEnd:
    """Run a command of etui with the folders of this one; its process has ended at return.

    Args:
        on_line: Called with each line of stdout, up to a stop and after it.
        stopped: Returns whether to stop: the process gets SIGTERM.
        on_stop: Called once before it is stopped, in another thread.
        stop_seconds: How long a stopped process may take before it is killed.
    """
    import tempfile  # not needed for the first paint

    folders = {
        "ETUI_HOME": str(config.home),
        "ETUI_MODELS": str(config.models_dir),
        "ETUI_SYSFS": str(config.sysfs_dir),
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command(*arguments),
            env={**os.environ, **folders},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout is not None
        ended = threading.Event()

        def stop_when_asked() -> None:
            while not stopped():
                if ended.wait(_POLL_SECONDS):
                    return
            on_stop()
            process.terminate()
            if not ended.wait(stop_seconds):
                process.kill()

        threading.Thread(target=stop_when_asked, daemon=True).start()
        try:
            with process.stdout:
                for line in process.stdout:
                    on_line(line)
            code = process.wait(stop_seconds)
        finally:
            ended.set()
            process.kill()  # it has ended already, or does not react to SIGTERM
            process.wait()
        errors.seek(0)
        what, fix = parse_error(errors.read().decode("utf-8", "replace"))
    return CommandEnd(code, what, fix)


def parse_error(stderr_text: str) -> tuple[str, str]:
    """Return the error and its fix: the last two lines that etui writes to stderr."""
    lines = stderr_text.strip().splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("etui: ")]
    if not starts:
        return (lines[-1] if lines else ""), ""
    what, *fix = lines[starts[-1] :]
    return what.removeprefix("etui: "), " ".join(fix)


class JobStopped(EtuiError):
    """The user stopped the job; the work done so far is kept."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of a job; ``total`` is None if unknown."""

    text: str
    done: float = 0.0
    total: float | None = None
    subject: str = ""  # The model, or the folder of the run, that `details` are about
    details: tuple[str, ...] = ()  # The progress in full, for the card of that model


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The last fact of every job."""

    said: str = ""  # The result as text; empty on an error
    what: str = ""
    fix: str = ""
    stopped: bool = False
    question: str = ""
    """What to ask before the next step of the job (a forced one, if it was refused)."""
    question_details: str = ""
    options: tuple[str, ...] = ()  # Options of the command of the next step
    model: str = ""  # The entry of the model that was pulled


def ask_etui(config: Config, arguments: Sequence[str], stopped: Stopped) -> Any:
    """Run a command of etui for an answer in JSON that is not a measurement."""
    output: list[bytes] = []
    was_stopped: list[bool] = []
    end = run_command(config, arguments, output.append, stopped, lambda: was_stopped.append(True))
    if was_stopped and end.code != ExitCode.DONE:
        raise JobStopped("stopped; nothing was changed")
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"etui {arguments[0]} ended with code {end.code}", end.fix)
    return json.loads(b"".join(output))


JobFact = JobProgress | JobEnded
Post = Callable[[JobFact], object]


@dataclass(frozen=True, slots=True)
class Running:
    """What a running job works with."""

    services: Services
    post: Post  # Shows a fact; safe from any thread
    stopped: Stopped


def run_job(job: Callable[[], JobEnded], post: Post, log_dir: Path) -> None:
    """Run ``job`` and post how it ended; the last fact is always ``JobEnded``."""
    try:
        ended = job()
    except JobStopped as stopped:
        ended = JobEnded(said=stopped.what, fix=stopped.fix, stopped=True)
    except EtuiError as error:
        ended = JobEnded(what=error.what, fix=error.fix)
    except Exception as error:  # noqa: BLE001 - a fault must reach the screen and end the job
        fix = f"try again; the log files are in {log_dir}"
        ended = JobEnded(what=format_internal_error(error), fix=fix)
    post(ended)


def pull(name: str, forecast: DecodeForecast, job: Running) -> JobEnded:
    """Download the model of an entry or a reference, resuming a pull that was stopped.

    Args:
        forecast: What the screen shows of it, to compare its answers with later.
    """
    report = _build_report(job, "the download was stopped", "press p to resume it")
    model = job.services.shelf.pull(name, report, forecast)
    return JobEnded(f"{model} is downloaded and verified", model=model)


def use_found(name: str, forecast: DecodeForecast, job: Running) -> JobEnded:
    """Check a model of another program, and write its entry to models.yaml."""
    report = _build_report(job, "the check was stopped", "press p to start over")
    model = job.services.shelf.pull(name, report, forecast)
    return JobEnded(f"{name} is in models.yaml now, and used where it is", model=model)


def verify(name: str, job: Running) -> JobEnded:
    """Check the sha256 of the whole file of a model."""
    report = _build_report(job, "the check was stopped", "press v to start over")
    checked = job.services.shelf.verify(name, report)
    against = "as expected" if checked.expected else "no expected value to compare with"
    return JobEnded(f"{name}: sha256 {checked.sha256[:16]}… ({against})")


def load(name: str, job: Running) -> JobEnded:
    """Load a model into memory."""
    loaded = job.services.runner.load(name)
    if loaded is None:
        return JobEnded(f"{name} is already in memory")
    seconds = units.seconds_text((loaded.end_ns - loaded.start_ns) / 1e9)
    return JobEnded(f"loaded {name} in {seconds}")


def unload(name: str, job: Running) -> JobEnded:
    """Unload a model."""
    unloaded = job.services.runner.unload(name)
    if unloaded is None:
        return JobEnded(f"{name} is not in memory")
    seconds = units.seconds_text((unloaded.end_ns - unloaded.start_ns) / 1e9)
    return JobEnded(f"unloaded {name} in {seconds}")


def _progress_line(progress: Progress) -> str:
    """Describe the progress of a pull: ``pulling smollm2-135m … 12.0 MB of 98.4 MB``."""
    done, total = progress.done_bytes, progress.total_bytes
    amount = units.bytes_text(done) + (f" of {units.bytes_text(total)}" if total else "")
    match progress.step:
        case "download":
            return f"pulling {progress.model} … {amount}"
        case "verify":
            return f"checking the sha256 … {amount}"
        case "wait":
            return f"waiting: {progress.note}"
        case "failed":
            return f"trying the next source: {progress.note}"


def _build_report(job: Running, what: str, fix: str) -> Report:
    """Build a download's progress callback: it limits the redraws, and raises to stop the job."""
    posted, posted_at = ("", ""), 0.0

    def report(progress: Progress) -> None:
        nonlocal posted, posted_at
        if job.stopped():
            raise JobStopped(what, fix)
        now = time.monotonic()
        if (progress.step, progress.note) != posted or now - posted_at >= REPORT_SECONDS:
            posted, posted_at = (progress.step, progress.note), now
            text = sanitize(_progress_line(progress))
            job.post(JobProgress(text, progress.done_bytes, progress.total_bytes))

    return report

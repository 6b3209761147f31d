"""Long jobs on models (pull, check, load, unload), in threads that only post facts."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, format_internal_error
from etui.text import sanitize
from etui.tui.services import ModelCatalogue, TurnRunner

if TYPE_CHECKING:
    from etui.models.download import Progress, Report


_POLL_SECONDS = 0.1
"""Interval between checks for a request to stop, in seconds."""

STOP_SECONDS = 20.0
"""How long a stopped command may take to save its measurements, in seconds."""

_FORCE = "--force"

Stopped = Callable[[], bool]
"""Returns whether the user has asked to stop."""


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended.

    Attributes:
        what, fix: The error that it printed; empty without one.
    """

    code: int
    what: str
    fix: str

    @property
    def may_force(self) -> bool:
        """Whether the command refused, and would go on with ``--force``."""
        return _FORCE in self.fix


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
        on_stop: Called once when it is stopped.
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
        try:
            lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            threading.Thread(target=_queue_lines, args=(process.stdout, lines), daemon=True).start()
            _read_lines(process, lines, on_line, stopped, on_stop, stop_seconds)
            code = process.wait(stop_seconds)
        finally:
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


def _queue_lines(stdout: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stdout:
        for line in stdout:
            lines.put(line)
    lines.put(None)


def _read_lines(
    process: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes | None],
    on_line: Callable[[bytes], object],
    stopped: Stopped,
    on_stop: Callable[[], object],
    stop_seconds: float,
) -> None:
    stop_sent_at: float | None = None
    while True:
        if stop_sent_at is None and stopped():
            stop_sent_at = time.monotonic()
            process.terminate()
            on_stop()
        elif stop_sent_at is not None and time.monotonic() - stop_sent_at > stop_seconds:
            process.kill()
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        on_line(line)


REPORT_SECONDS = 0.1
"""Least time between two redraws of a progress bar."""


class JobStopped(EtuiError):
    """The user stopped the job; the work done so far is kept."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of a job.

    Attributes:
        done, total: How far it is; ``total`` is None if unknown.
    """

    text: str
    done: float = 0.0
    total: float | None = None
    subject: str = ""  # The model that `details` are about
    details: tuple[str, ...] = ()  # The progress in full, for the card of that model


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The last fact of every job.

    Attributes:
        question, question_details: What to ask the user before the next step of the job (a
            forced one, if it was refused); empty without a question.
    """

    said: str = ""  # The result as text; empty on an error
    what: str = ""
    fix: str = ""
    stopped: bool = False
    question: str = ""
    question_details: str = ""
    options: tuple[str, ...] = ()  # Options of the command of the next step


JobFact = JobProgress | JobEnded
Post = Callable[[JobFact], object]


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


def pull(shelf: ModelCatalogue, name: str, post: Post, stopped: Stopped) -> JobEnded:
    """Download a model, resuming an earlier pull that was stopped."""
    shelf.pull(
        name, _build_report(post, stopped, "the download was stopped", "press p to resume it")
    )
    return JobEnded(f"{name} is downloaded and verified")


def verify(shelf: ModelCatalogue, name: str, post: Post, stopped: Stopped) -> JobEnded:
    """Check the sha256 of the whole file of a model."""
    checked = shelf.verify(
        name, _build_report(post, stopped, "the check was stopped", "press v to start over")
    )
    against = "as expected" if checked.expected else "no expected value to compare with"
    return JobEnded(f"{name}: sha256 {checked.sha256[:16]}… ({against})")


def load(runner: TurnRunner, name: str) -> JobEnded:
    """Load a model into memory."""
    loaded = runner.load(name)
    if loaded is None:
        return JobEnded(f"{name} is already in memory")
    return JobEnded(f"loaded {name} in {_seconds_text(loaded.start_ns, loaded.end_ns)}")


def unload(runner: TurnRunner, name: str) -> JobEnded:
    """Unload a model."""
    unloaded = runner.unload(name)
    if unloaded is None:
        return JobEnded(f"{name} is not in memory")
    return JobEnded(f"unloaded {name} in {_seconds_text(unloaded.start_ns, unloaded.end_ns)}")


def progress_line(progress: Progress) -> str:
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


def _build_report(post: Post, stopped: Stopped, what: str, fix: str) -> Report:
    """Build a download's progress callback: it limits the redraws, and raises to stop the job."""
    posted, posted_at = ("", ""), 0.0

    def report(progress: Progress) -> None:
        nonlocal posted, posted_at
        if stopped():
            raise JobStopped(what, fix)
        now = time.monotonic()
        if (progress.step, progress.note) != posted or now - posted_at >= REPORT_SECONDS:
            posted, posted_at = (progress.step, progress.note), now
            text = sanitize(progress_line(progress))
            post(JobProgress(text, progress.done_bytes, progress.total_bytes))

    return report


def _seconds_text(start_ns: int, end_ns: int) -> str:
    return units.seconds_text((end_ns - start_ns) / 1e9)

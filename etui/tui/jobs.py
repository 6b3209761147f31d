"""Long work on models, in threads that only post facts: pull, check, load, unload."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from etui import units
from etui.errors import EtuiError, fault_text
from etui.models.download import Progress, Report
from etui.text.sanitize import sanitize
from etui.tui.services import ModelCatalogue, TurnRunner

REPORT_SECONDS = 0.1
"""Between two redraws of a progress bar."""


class JobStopped(EtuiError):
    """The user stopped it; what was done is kept."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is; ``total`` is None where it is not known."""

    text: str
    done: float = 0.0
    total: float | None = None


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The last fact of every job.

    Attributes:
        said: What came of it; empty with an error.
        what, fix: The error that ended it.
        stopped: Whether it ended because the user wished so.
        may_force: Whether it was refused and could be done all the same.
    """

    said: str = ""
    what: str = ""
    fix: str = ""
    stopped: bool = False
    may_force: bool = False


JobFact = JobProgress | JobEnded
Post = Callable[[JobFact], object]


class JobNews(Message):
    """A fact about the job that runs."""

    def __init__(self, fact: JobFact) -> None:
        super().__init__()
        self.fact = fact


def run_job(job: Callable[[], JobEnded], post: Post, log_dir: Path) -> None:
    """Do it and post how it ended; the last fact is always ``JobEnded``."""
    try:
        ended = job()
    except JobStopped as stopped:
        ended = JobEnded(said=stopped.what, fix=stopped.fix, stopped=True)
    except EtuiError as error:
        ended = JobEnded(what=error.what, fix=error.fix)
    except Exception as error:  # noqa: BLE001 - a fault must reach the screen and end the job
        fix = f"try again; the log files are in {log_dir}"
        ended = JobEnded(what=fault_text(error), fix=fix)
    post(ended)


def pull(shelf: ModelCatalogue, name: str, post: Post, stopped: Callable[[], bool]) -> JobEnded:
    """Download a model, going on where an earlier pull was stopped."""
    shelf.pull(name, _report(post, stopped, "the download was stopped", "press p to go on with it"))
    return JobEnded(f"{name} is here and checked")


def verify(shelf: ModelCatalogue, name: str, post: Post, stopped: Callable[[], bool]) -> JobEnded:
    """Hash the whole file of a model."""
    checked = shelf.verify(
        name, _report(post, stopped, "the check was stopped", "press v to begin anew")
    )
    against = "as expected" if checked.expected else "nothing to compare with"
    return JobEnded(f"{name}: sha256 {checked.sha256[:16]}… ({against})")


def load(runner: TurnRunner, name: str) -> JobEnded:
    """Bring a model into memory."""
    loaded = runner.load(name)
    if loaded is None:
        return JobEnded(f"{name} was in memory already")
    return JobEnded(f"{name} is in memory: {_took(loaded.start_ns, loaded.end_ns)}")


def unload(runner: TurnRunner, name: str) -> JobEnded:
    """Give a model up."""
    gone = runner.unload(name)
    if gone is None:
        return JobEnded(f"{name} was not in memory")
    return JobEnded(f"{name} has left the memory: {_took(gone.start_ns, gone.end_ns)}")


def progress_line(progress: Progress) -> str:
    """What a pull is doing: ``pulling smollm2-135m … 12.0 MB of 98.4 MB``."""
    done, total = progress.done_bytes, progress.total_bytes
    amount = units.bytes_text(done) + (f" of {units.bytes_text(total)}" if total else "")
    match progress.step:
        case "download":
            return f"pulling {progress.model} … {amount}"
        case "verify":
            return f"checking its sha256 … {amount}"
        case "wait":
            return f"waiting: {progress.note}"
        case "failed":
            return f"trying the next source: {progress.note}"


def _report(post: Post, stopped: Callable[[], bool], what: str, again: str) -> Report:
    """What a download tells: seldom enough for a screen; it raises once it is to stop."""
    told, told_at = ("", ""), 0.0

    def report(progress: Progress) -> None:
        nonlocal told, told_at
        if stopped():
            raise JobStopped(what, again)
        now = time.monotonic()
        if (progress.step, progress.note) != told or now - told_at >= REPORT_SECONDS:
            told, told_at = (progress.step, progress.note), now
            text = sanitize(progress_line(progress))
            post(JobProgress(text, progress.done_bytes, progress.total_bytes))

    return report


def _took(start_ns: int, end_ns: int) -> str:
    return units.seconds_text((end_ns - start_ns) / 1e9)

"""The long jobs of the app, in threads that only post facts, and the line of the running one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import ProgressBar, Static
from textual.worker import get_current_worker

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode, format_internal_error
from etui.text import count_cells, sanitize
from etui.tui._work import notify_error, warn
from etui.tui.modals import confirm
from etui.tui.services import Services

if TYPE_CHECKING:
    from etui.curves.prediction import DecodeForecast
    from etui.events import Loaded, Unloaded
    from etui.models.download import Progress, Report
    from etui.tui.open_services import LiveMeter


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

    It is stopped by SIGTERM once ``stopped`` returns True, after ``on_stop`` was called in another
    thread, and killed ``stop_seconds`` later. ``on_line`` takes each line of stdout.
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
    """Download the model of an entry or a reference, resuming a pull that was stopped."""
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
    return JobEnded(f"loaded {name} in {_duration_text(loaded)}")


def unload(name: str, job: Running) -> JobEnded:
    """Unload a model."""
    unloaded = job.services.runner.unload(name)
    if unloaded is None:
        return JobEnded(f"{name} is not in memory")
    return JobEnded(f"unloaded {name} in {_duration_text(unloaded)}")


def _duration_text(event: Loaded | Unloaded) -> str:
    return units.seconds_text((event.end_ns - event.start_ns) / 1e9)


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


_TICK_SECONDS = 1.0  # Interval between two readings of the joules of a job, in seconds
Job = Callable[[Running], JobEnded]
NextStep = Callable[[JobEnded], object]


@dataclass(eq=False, slots=True)
class AppJob:
    """A job of the app, while it runs and after; a measurement has a meter."""

    name: str
    stop: Callable[[], object]
    progress: JobProgress
    kind: str = ""  # What it measures: run, sweep or calibration; empty for other jobs
    subject: str = ""  # The model that is measured
    meter: LiveMeter | None = None
    until_ns: int = 0  # Monotonic time until which its joules are counted
    joules: float | None = None  # Gross joules of the machine meanwhile
    joules_kind: str | None = None
    began: datetime = field(default_factory=lambda: datetime.now().astimezone())
    outcome: str = ""  # How it ended; empty while it runs

    def count(self, now_ns: int) -> None:
        """Add the joules since the last call: a meter does not remember a job of hours."""
        if self.meter is None:
            return
        energy = self.meter.energy(self.until_ns, now_ns)
        if energy.joules is not None:
            self.until_ns = now_ns
            self.joules = (self.joules or 0.0) + energy.joules
            self.joules_kind = None if energy.kind is None else str(energy.kind)

    def line(self, width: int) -> str:
        """Write its line; in few cells what it does is left out first, the numbers stay."""
        text, spent = self.progress.text, ""
        if self.joules is not None:
            spent = f" · {units.short_energy_text(self.joules, self.joules_kind)} so far"
        what, _, numbers = text.partition(" … ")
        forms = [f"{text}{spent} (Esc stops)", f"{text}{spent}"]
        if what and numbers:
            forms += [f"{numbers}{spent}", f"{numbers}{spent.removesuffix(' so far')}"]
        return next((form for form in forms if count_cells(form) <= width), forms[-1])


class JobList:
    """The jobs of the app: one runs at a time, and each screen with a bar shows and stops it."""

    def __init__(self) -> None:
        self.running: AppJob | None = None
        self.measurements: list[AppJob] = []
        """Those of this session, in the order of their starts."""

    def begin(self, job: AppJob) -> None:
        self.running = job
        if job.kind:
            self.measurements.append(job)

    def end(self, outcome: str) -> None:
        if self.running is not None:
            self.running.outcome, self.running = outcome, None


class JobBar(Vertical):
    """Runs a job in a thread unless one of the app runs, and shows how far that is.

    A ``quiet`` one leaves errors to the screen, which has room for all of their text.
    """

    class Changed(Message):
        """A job began, or there is news of it for the card of its model."""

    @dataclass
    class Ended(Message):
        """A job ended, and what it changed can be read again."""

        ended: JobEnded

    def __init__(
        self,
        backend: Callable[[], Services | None],
        log_dir: Path,
        *,
        quiet: bool = False,
        jobs: JobList | None = None,
    ) -> None:
        self._bar = ProgressBar(show_eta=False, id="job-bar")
        self._bar.display = False
        self._status = Static("", markup=False, classes="status")
        super().__init__(self._status, self._bar, id="job")
        self._quiet = quiet
        self._backend = backend
        self._log_dir = log_dir
        self._jobs = jobs or JobList()
        self._last: AppJob | None = None  # The job that was shown last
        self._next_step: NextStep = lambda _ended: None
        self._shows_job = False  # instead of the text of the screen

    @property
    def is_running(self) -> bool:
        return self._jobs.running is not None

    def lines_for(self, subject: str) -> tuple[str, ...]:
        """Return the progress of the running job in full if it is about this model or folder."""
        job = self._jobs.running
        return job.progress.details if job is not None and job.progress.subject == subject else ()

    def on_mount(self) -> None:
        self.set_interval(_TICK_SECONDS, self._follow)

    def show_idle(self, text: str) -> None:
        if not self._shows_job:
            self._status.update(sanitize(text))

    def show_outcome(self, text: str) -> None:
        """Show how the last job ended, or what a key found, until the next job starts."""
        if not self.is_running:
            self._shows_job = True
            self._status.update(sanitize(text))

    def start(
        self,
        text: str,
        job: Job,
        next_step: NextStep = lambda _ended: None,
        *,
        kind: str = "",
        subject: str = "",
    ) -> None:
        """Start a job unless one is running; one of a ``kind`` is metered and listed."""
        services, running = self._backend(), self._jobs.running
        if services is None:
            self.notify("etui is still starting: try again in a moment", severity="warning")
        elif running is not None:
            warn(self, f"{running.name.removesuffix(' …')} is still running", "Esc stops it")
        else:
            meter, now_ns = services.meter if kind else None, time.monotonic_ns()
            own = AppJob(text, self._cancel, JobProgress(text), kind, subject, meter, now_ns)
            self._jobs.begin(own)
            self._last, self._next_step, self._shows_job = own, next_step, True
            self._status.update(sanitize(text))
            self.post_message(self.Changed())
            self._run(services, job)

    def stop(self) -> None:
        if self._jobs.running is not None:
            self._jobs.running.stop()

    def _cancel(self) -> None:
        self.workers.cancel_group(self, "job")

    def post(self, fact: JobFact) -> None:
        """Take a fact of a job; safe from any thread."""
        self.call_later(self._take, fact)

    @work(thread=True, exclusive=True, group="job", exit_on_error=False)
    def _run(self, services: Services, job: Job) -> None:
        worker = get_current_worker()
        running = Running(services, self.post, lambda: worker.is_cancelled)
        run_job(lambda: job(running), self.post, self._log_dir)

    def _take(self, fact: JobFact) -> None:
        if isinstance(fact, JobEnded):
            self._end(fact)
            return
        job = self._jobs.running
        if job is None:
            return
        before, job.progress = job.progress, fact
        self._show_progress(job)
        if (before.subject, before.details) != (fact.subject, fact.details):
            self.post_message(self.Changed())

    def _follow(self) -> None:
        job, last = self._jobs.running, self._last
        if job is not None:
            job.count(time.monotonic_ns())
            self._shows_job = True
            self._show_progress(job)
        elif last is not None:
            self._bar.display = False
            self._status.update(sanitize(last.outcome))
        if job is not last:
            self._last = job
            self.post_message(self.Changed())

    def _show_progress(self, job: AppJob) -> None:
        self._status.update(sanitize(job.line(self._status.size.width)))
        self._bar.display = job.progress.total is not None
        self._bar.update(total=job.progress.total, progress=job.progress.done)

    def _end(self, ended: JobEnded) -> None:
        next_step = self._next_step
        said = f"{ended.said}: {ended.fix}" if ended.fix else ended.said
        self._jobs.end(f"✗ {ended.what}" if ended.what else said)
        self._last = None
        self._bar.display = False
        if ended.question:
            self._status.update(sanitize(ended.what or ended.said))
            self._ask(ended, next_step)
        elif ended.what:
            self._status.update("" if self._quiet else sanitize(f"✗ {ended.what}"))
            if not self._quiet:
                notify_error(self, ended.what, ended.fix)
        else:
            self._status.update(sanitize(said))
        self.post_message(self.Ended(ended))

    @work(exclusive=True, group="question")
    async def _ask(self, ended: JobEnded, next_step: NextStep) -> None:
        if await confirm(self, ended.question, ended.question_details):
            next_step(ended)
        else:
            self._status.update("nothing was measured")

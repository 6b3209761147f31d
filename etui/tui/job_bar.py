"""The jobs of the app, and the line of the running one: what it does, its joules, and a bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import ProgressBar, Static
from textual.worker import get_current_worker

from etui import units
from etui.text import count_cells, sanitize
from etui.tui._work import notice_text, notify_error
from etui.tui.jobs import JobEnded, JobFact, JobProgress, Running, run_job
from etui.tui.modals import confirm
from etui.tui.services import Services

if TYPE_CHECKING:
    from etui.tui.open_services import LiveMeter

_TICK_SECONDS = 1.0  # Interval between two readings of the joules of a job, in seconds
Job = Callable[[Running], JobEnded]
NextStep = Callable[[JobEnded], object]


def _do_nothing(_ended: JobEnded) -> None:
    """Take no next step."""


class JobJoules:
    """Adds up the gross joules of the machine while a job runs."""

    def __init__(self, meter: LiveMeter, start_ns: int) -> None:
        self._meter = meter
        self._until_ns = start_ns
        self.joules: float | None = None
        self.kind: str | None = None

    def read(self, now_ns: int) -> None:
        """Add the joules since the last call: a meter does not remember a job of hours."""
        energy = self._meter.energy(self._until_ns, now_ns)
        if energy.joules is None:
            return
        self._until_ns = now_ns
        self.joules = (self.joules or 0.0) + energy.joules
        self.kind = None if energy.kind is None else str(energy.kind)


def format_job(progress: JobProgress, joules: float | None, kind: str | None, width: int) -> str:
    """Write the line of a running job, with its gross joules if they are counted.

    Args:
        width: Cells of the line: what it does is left out first, the numbers stay.
    """
    spent = "" if joules is None else f" · {units.short_energy_text(joules, kind)} so far"
    what, _, numbers = progress.text.partition(" … ")
    forms = [f"{progress.text}{spent} (Esc stops)", f"{progress.text}{spent}"]
    if what and numbers:
        forms += [f"{numbers}{spent}", f"{numbers}{spent.removesuffix(' so far')}"]
    return next((form for form in forms if count_cells(form) <= width), forms[-1])


@dataclass(eq=False, slots=True)
class AppJob:
    """A job of the app, while it runs and after."""

    name: str
    stop: Callable[[], object]
    progress: JobProgress
    kind: str = ""  # What it measures: run, sweep or calibration; empty for other jobs
    subject: str = ""  # The model that is measured
    joules: JobJoules | None = None  # Those of a measurement
    began: datetime = field(default_factory=lambda: datetime.now().astimezone())
    outcome: str = ""  # How it ended; empty while it runs


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

    Args:
        quiet: Whether errors are left to the screen, which has room for all of their text.
        jobs: The jobs of the app; None for a bar whose jobs no other screen shows.
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
        super().__init__(id="job")
        self._quiet = quiet
        self._backend = backend
        self._log_dir = log_dir
        self._jobs = jobs or JobList()
        self._last: AppJob | None = None  # The job that was shown last
        self._next_step: NextStep = _do_nothing
        self._shows_job = False  # instead of the text of the screen
        self._bar = ProgressBar(show_eta=False, id="job-bar")
        self._status = Static("", markup=False, classes="status")

    @property
    def is_running(self) -> bool:
        return self._jobs.running is not None

    def lines_for(self, subject: str) -> tuple[str, ...]:
        """Return the progress of the running job in full if it is about this model or folder."""
        job = self._jobs.running
        return job.progress.details if job is not None and job.progress.subject == subject else ()

    def compose(self) -> ComposeResult:
        yield self._status
        yield self._bar

    def on_mount(self) -> None:
        self._bar.display = False
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
        next_step: NextStep = _do_nothing,
        *,
        kind: str = "",
        subject: str = "",
    ) -> None:
        """Start a job unless one is running.

        Args:
            kind: What it measures, which is metered and listed; empty for other jobs.
            subject: The model that is measured.
        """
        services, running = self._backend(), self._jobs.running
        if services is None:
            self.notify("etui is still starting: try again in a moment", severity="warning")
        elif running is not None:
            what = f"{running.name.removesuffix(' …')} is still running"
            self.notify(notice_text(what, "Esc stops it"), severity="warning", markup=False)
        else:
            joules = JobJoules(services.meter, time.monotonic_ns()) if kind else None
            own = AppJob(text, self._cancel, JobProgress(text), kind, subject, joules)
            self._jobs.begin(own)
            self._last, self._next_step, self._shows_job = own, next_step, True
            self._status.update(sanitize(text))
            self.post_message(self.Changed())
            self._run(services, job)

    def stop(self) -> None:
        """Stop the running job, whichever screen began it."""
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
        """Show the joules of the running job, and the jobs of other screens."""
        job, last = self._jobs.running, self._last
        if job is not None:
            if job.joules is not None:
                job.joules.read(time.monotonic_ns())
            self._shows_job = True
            self._show_progress(job)
        elif last is not None:
            self._bar.display = False
            self._status.update(sanitize(last.outcome))
        if job is not last:
            self._last = job
            self.post_message(self.Changed())

    def _show_progress(self, job: AppJob) -> None:
        counted, progress = job.joules, job.progress
        joules, kind = (None, None) if counted is None else (counted.joules, counted.kind)
        self._status.update(sanitize(format_job(progress, joules, kind, self._status.size.width)))
        self._bar.display = progress.total is not None
        self._bar.update(total=progress.total, progress=progress.done)

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

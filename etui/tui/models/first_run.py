"""The screen of a machine without any model: what to do, and a key that does it."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, ProgressBar, Static
from textual.worker import get_current_worker

from etui.config.config import Config
from etui.models.spec import STARTER
from etui.text.sanitize import sanitize
from etui.tui.jobs import JobEnded, JobFact, JobNews, JobProgress, pull, run_job
from etui.tui.notices import notice_text
from etui.tui.services import ModelCatalogue, ModelOnOffer


class FirstRunScreen(Screen[bool]):
    """Says that there is no model and how to get one; ends with True once there is one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull the starter", id="first_run.pull"),
        Binding("escape", "stop", "Stop", id="first_run.stop"),
        Binding("r", "look_again", "Look again", id="first_run.look_again"),
    ]

    HELP = """\
## First run

etui answers with models on this machine, as GGUF files. `p` downloads the small starter model;
`r` looks again after you have put a file there or pulled one in another terminal.
"""

    def __init__(self, shelf: ModelCatalogue, config: Config) -> None:
        super().__init__()
        self._shelf = shelf
        self._models_dir = config.models_dir
        self._log_dir = config.log_dir
        self._pulling = False
        self._status = Static("", markup=False, classes="status")
        self._bar = ProgressBar(show_eta=False, show_percentage=True)
        self._bar.display = False

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="guide"):
            yield Static("No model is on this machine yet", classes="title", markup=False)
            yield Static(self._guide(), classes="guide-text", markup=False)
            yield self._bar
            yield self._status
            yield Static(self._others(), classes="others", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#guide").focus()

    def action_pull(self) -> None:
        """Download the starter here and now."""
        if self._pulling:
            return
        self._pulling = True
        self._bar.display = True
        self._bar.update(total=None, progress=0)
        self._status.remove_class("-error")
        self._status.update(f"pulling {STARTER} …")
        self._pull()

    def action_stop(self) -> None:
        """Stop the download; what came so far is kept for the next try."""
        self.workers.cancel_group(self, "pull")

    def action_look_again(self) -> None:
        """See whether a model has appeared."""
        if not self._pulling and any(model.on_disk for model in self._shelf.models()):
            self.dismiss(True)
        elif not self._pulling:
            self._status.update(f"still no model in {sanitize(str(self._models_dir))}")

    @work(thread=True, exclusive=True, group="pull", exit_on_error=False)
    def _pull(self) -> None:
        worker = get_current_worker()
        run_job(
            lambda: pull(self._shelf, STARTER, self._post, lambda: worker.is_cancelled),
            self._post,
            self._log_dir,
        )

    def _post(self, fact: JobFact) -> None:
        self.post_message(JobNews(fact))

    def on_job_news(self, news: JobNews) -> None:
        match news.fact:
            case JobProgress(text=text, done=done, total=total):
                self._bar.update(total=total, progress=done)
                self._status.update(text)
            case JobEnded(what="", stopped=False):
                self.dismiss(True)
            case JobEnded(said=said, what=what, fix=fix):
                self._pulling = False
                self._bar.display = False
                self._status.add_class("-error")
                text = f"✗ {what or said}"
                self._status.update(notice_text(text, fix))

    @property
    def _command(self) -> str:
        return f"etui models pull {STARTER}"

    def _guide(self) -> str:
        starter = next((m for m in self._shelf.models() if m.name == STARTER), None)
        size = f": {starter.size}" if starter else ""
        return (
            f"Press p to pull the starter model here.\n"
            f"{STARTER}{size}\n\n"
            f"Or pull it in another terminal, then press r:\n\n"
            f"    {self._command}\n\n"
            f"Or put any GGUF file into this folder, then press r:\n\n"
            f"    {sanitize(str(self._models_dir))}"
        )

    def _others(self) -> str:
        others = [model for model in self._shelf.models() if model.name != STARTER]
        if not others:
            return ""
        return "\n".join(["Others that etui knows:", "", *map(_row, others)])


def _row(model: ModelOnOffer) -> str:
    return f"  {sanitize(model.name):<20} {sanitize(model.size)}"

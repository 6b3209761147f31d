"""The screen for a machine without a model: how to get one, and a key that pulls it."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import ProgressBar, Static
from textual.worker import get_current_worker

from etui.config.config import Config
from etui.models.spec import STARTER
from etui.text.sanitize import sanitize
from etui.tui.jobs import JobEnded, JobFact, JobProgress, JobUpdated, pull, run_job
from etui.tui.notices import notice_text
from etui.tui.services import ListedModel, ModelCatalogue
from etui.tui.widgets.key_footer import KeyFooter


class FirstRunScreen(Screen[bool]):
    """Shows how to get a first model; the result is True once a model is on disk."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull the starter", id="first_run.pull"),
        Binding("escape", "stop", "Stop", id="first_run.stop"),
        Binding("r", "look_again", "Look again", id="first_run.look_again"),
    ]

    HELP = """\
## First run

etui runs models on this machine, from GGUF files. `p` downloads the small starter model; `r` looks
again after you have added a file or pulled a model in another terminal.
"""

    def __init__(self, catalogue: ModelCatalogue, config: Config) -> None:
        super().__init__()
        self._catalogue = catalogue
        self._models_dir = config.models_dir
        self._log_dir = config.log_dir
        self._pulling = False
        self._status = Static("", markup=False, classes="status")
        self._bar = ProgressBar(show_eta=False, show_percentage=True)
        self._bar.display = False

    def compose(self) -> ComposeResult:
        """Build the guide, the progress bar and the list of other models."""
        with VerticalScroll(id="guide"):
            yield Static("No model on this machine yet", classes="title", markup=False)
            yield Static(self._guide_text(), classes="guide-text", markup=False)
            yield self._bar
            yield self._status
            yield Static(self._others_text(), classes="others", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Focus the guide, so that it can be scrolled."""
        self.query_one("#guide").focus()

    def action_pull(self) -> None:
        """Download the starter model."""
        if self._pulling:
            return
        self._pulling = True
        self._bar.display = True
        self._bar.update(total=None, progress=0)
        self._status.remove_class("-error")
        self._status.update(f"pulling {STARTER} …")
        self._pull()

    def action_stop(self) -> None:
        """Stop the download; the part so far is kept for the next try."""
        self.workers.cancel_group(self, "pull")

    def action_look_again(self) -> None:
        """Check whether a model is on disk now."""
        if not self._pulling and any(model.on_disk for model in self._catalogue.models()):
            self.dismiss(True)
        elif not self._pulling:
            self._status.update(f"still no model in {sanitize(str(self._models_dir))}")

    @work(thread=True, exclusive=True, group="pull", exit_on_error=False)
    def _pull(self) -> None:
        worker = get_current_worker()
        run_job(
            lambda: pull(self._catalogue, STARTER, self._post, lambda: worker.is_cancelled),
            self._post,
            self._log_dir,
        )

    def _post(self, fact: JobFact) -> None:
        self.post_message(JobUpdated(fact))

    def on_job_updated(self, news: JobUpdated) -> None:
        """Show the progress of the pull; close the screen after a successful one."""
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
    def _pull_command(self) -> str:
        return f"etui models pull {STARTER}"

    def _guide_text(self) -> str:
        starter = next((m for m in self._catalogue.models() if m.name == STARTER), None)
        size = f": {starter.size}" if starter else ""
        return (
            f"Press p to pull the starter model.\n"
            f"{STARTER}{size}\n\n"
            f"Or pull it in another terminal, then press r:\n\n"
            f"    {self._pull_command}\n\n"
            f"Or put any GGUF file into this folder, then press r:\n\n"
            f"    {sanitize(str(self._models_dir))}"
        )

    def _others_text(self) -> str:
        others = [model for model in self._catalogue.models() if model.name != STARTER]
        if not others:
            return ""
        return "\n".join(["Other models that etui knows:", "", *map(_format_row, others)])


def _format_row(model: ListedModel) -> str:
    return f"  {sanitize(model.name):<20} {sanitize(model.size)}"

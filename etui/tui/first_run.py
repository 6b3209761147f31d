"""The screen of a machine without any model: what to do, and a key that does it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, ProgressBar, Static
from textual.worker import get_current_worker

from etui import units
from etui.download import Progress
from etui.errors import EtuiError
from etui.models import STARTER
from etui.tui.backend import ModelOnOffer, Shelf
from etui.tui.messages import PullEnded, PullNews
from etui.visible import visible

REPORT_SECONDS = 0.1
"""Between two redraws of the progress bar."""


class PullStopped(EtuiError):
    """The user stopped a download."""


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

    def __init__(self, shelf: Shelf, models_dir: Path) -> None:
        super().__init__()
        self._shelf = shelf
        self._models_dir = models_dir
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
            self._status.update(f"still no model in {visible(str(self._models_dir))}")

    @work(thread=True, exclusive=True, group="pull", exit_on_error=False)
    def _pull(self) -> None:
        worker = get_current_worker()
        told, told_at = ("", ""), 0.0

        def report(progress: Progress) -> None:
            if worker.is_cancelled:
                raise PullStopped("the download was stopped", "press p to go on with it")
            nonlocal told, told_at
            now = time.monotonic()
            if (progress.step, progress.note) != told or now - told_at >= REPORT_SECONDS:
                told, told_at = (progress.step, progress.note), now
                self.post_message(PullNews(progress))

        try:
            self._shelf.pull(STARTER, report)
            ended = PullEnded()
        except EtuiError as error:
            ended = PullEnded(error.what, error.fix)
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            ended = PullEnded(f"a fault in etui: {type(error).__name__}: {error}", self._command)
        self.post_message(PullNews(ended))

    def on_pull_news(self, news: PullNews) -> None:
        match news.fact:
            case Progress() as progress:
                self._bar.update(total=progress.total_bytes, progress=progress.done_bytes)
                self._status.update(visible(progress_line(progress)))
            case PullEnded(what=""):
                self.dismiss(True)
            case PullEnded(what=what, fix=fix):
                self._pulling = False
                self._bar.display = False
                self._status.add_class("-error")
                self._status.update(visible(f"✗ {what}\n→ {fix}" if fix else f"✗ {what}"))

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
            f"    {visible(str(self._models_dir))}"
        )

    def _others(self) -> str:
        others = [model for model in self._shelf.models() if model.name != STARTER]
        if not others:
            return ""
        return "\n".join(["Others that etui knows:", "", *map(_row, others)])


def _row(model: ModelOnOffer) -> str:
    return f"  {visible(model.name):<20} {visible(model.size)}"


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

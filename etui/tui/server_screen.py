"""The server of the app: started and stopped in a dialog, which goes on when it is closed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Static
from textual.worker import get_current_worker

from etui.codec import from_document
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.runtime.turn_request import ServeFacts, format_books, format_per_request
from etui.text import sanitize
from etui.tui._work import notify_error
from etui.tui.jobs import JobEnded, JobProgress, Stopped, run_command, run_job
from etui.tui.modals import BoxModal
from etui.tui.services import Services
from etui.units import energy_text, percent_text, watts_text

if TYPE_CHECKING:
    from etui.runtime.service import TurnService

_STOP_SECONDS = 30.0
"""How long a stopped server may take: it ends running answers and saves every turn."""

_REFUSAL = "the server answers other programs"
_NOT_RUNNING = "not running; when it runs, only programs on this machine reach it"
_GROUP = "server"
_NOTICE_SECONDS = 12.0
_LABEL_WIDTH = 10
ServerFact = ServeFacts | JobProgress | JobEnded


def run_server(
    runner: TurnService, config: Config, post: Callable[[ServerFact], object], stopped: Stopped
) -> JobEnded:
    """Serve until the server is stopped; the models of the app are unloaded meanwhile."""
    last: ServeFacts | None = None

    def see(line: bytes) -> None:
        nonlocal last
        facts = parse_line(line)
        if facts is not None:
            last = facts
            post(facts)

    with runner.at_rest(_REFUSAL) as leaving:
        post(JobProgress("starting the server …"))
        end = run_command(
            config,
            ("serve", "--jsonl"),
            see,
            lambda: stopped() or leaving(),
            lambda: post(JobProgress("stopping the server …")),
            _STOP_SECONDS,
        )
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"the server ended with exit code {end.code}", end.fix)
    answered = "" if last is None else f": {format_books(last)}"
    return JobEnded(f"the server has stopped{answered}")


def parse_line(line: bytes) -> ServeFacts | None:
    """Parse a line of ``etui serve --jsonl``; None if it is no state of the server."""
    try:
        document = json.loads(line)
        if not isinstance(document, dict) or document.get("event") not in ("status", "end"):
            return None
        return from_document(ServeFacts, document, extra="ignore")
    except ValueError:
        return None


def state_lines(facts: ServeFacts | None, progress: str) -> list[tuple[str, str]]:
    """Describe the server as pairs of label and text."""
    if facts is None:
        return [("state", progress or _NOT_RUNNING)]
    state = progress or facts.phase
    if facts.residents:
        state += f" ({', '.join(facts.residents)} in memory)"
    requests = [f"{facts.running:,} running", f"{facts.queued:,} queued", f"{facts.ended:,} done"]
    if facts.failed:
        requests.append(f"{facts.failed:,} failed")
    if facts.unsaved:
        requests.append(f"{facts.unsaved:,} not in the log")
    lines = [
        ("address", facts.url),
        ("state", state),
        ("power", watts_text(facts.watts, facts.kind)),
        ("requests", ", ".join(requests)),
    ]
    if facts.ended:
        lines.append(("energy", format_per_request(facts)))
    total = energy_text(facts.joules, facts.joules_uncertainty, facts.kind)
    if facts.idle_share is not None:
        total += f", {percent_text(facts.idle_share)} of it idle"
    return [*lines, ("in all", total)]


class ServerScreen(BoxModal[None]):
    """Dialog with the address of the server, its requests and its joules."""

    HELP = "## Server"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "switch", "Start or stop", id="server.switch"),
        Binding("escape,enter", "dismiss", "Close", id="server.leave", key_display="esc"),
    ]

    def __init__(self, config: Config, backend: Callable[[], Services | None]) -> None:
        self._lines = Static("", markup=False, classes="state")
        self._help = Static("", markup=False, classes="help")
        title = "Server: your models, for programs that speak the API of OpenAI or Anthropic"
        super().__init__(title, "", self._lines, self._help)
        self._config = config
        self._backend = backend
        self.runs = False
        self._facts: ServeFacts | None = None
        self._progress = ""

    def on_mount(self) -> None:
        self._show()

    def start(self) -> None:
        backend = self._backend()
        if backend is None:
            self.app.notify("etui is still starting: try again in a moment", severity="warning")
        elif not self.runs:
            self.runs, self._facts, self._progress = True, None, "starting the server …"
            self.app.run_worker(
                lambda: self._run(backend), group=_GROUP, thread=True, exit_on_error=False
            )
            self._show()

    def stop(self) -> None:
        """Stop the server; running answers may end first."""
        self.app.workers.cancel_group(self.app, _GROUP)

    def action_switch(self) -> None:
        if self.runs:
            self.stop()
        else:
            self.start()

    def take(self, fact: ServerFact) -> None:
        match fact:
            case ServeFacts():
                self._facts, self._progress = fact, ""
            case JobProgress(text=text):
                self._progress = text
            case JobEnded(what=what, fix=fix, said=said):
                self.runs, self._facts = False, None
                self._progress = f"✗ {what}" if what else said
                if what:
                    notify_error(self.app, what, fix)
                else:
                    self.app.notify(sanitize(said), timeout=_NOTICE_SECONDS, markup=False)
        self._show()

    def _run(self, backend: Services) -> None:
        worker, app = get_current_worker(), self.app

        def post(fact: ServerFact) -> None:
            app.call_later(self.take, fact)

        run_job(
            lambda: run_server(backend.runner, self._config, post, lambda: worker.is_cancelled),
            post,
            self._config.log_dir,
        )

    def _show(self) -> None:
        rows = state_lines(self._facts, self._progress)
        text = "\n".join(f"{label:<{_LABEL_WIDTH}}{value}" for label, value in rows)
        self._lines.update(sanitize(text))
        stops = "s stops it · Esc closes this, and it goes on"
        self._help.update(stops if self.runs else "s starts it · Esc closes")

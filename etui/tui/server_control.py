"""Start and stop the server of the app, and show its state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from textual.app import App
from textual.worker import get_current_worker

from etui.codec import from_document
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.runtime.serve_facts import ServeFacts, format_books
from etui.text import sanitize
from etui.tui._work import notify_error
from etui.tui.commands import Command
from etui.tui.jobs import JobEnded, JobProgress, Stopped, run_command, run_job
from etui.tui.services import Services, TurnRunner

_STOP_SECONDS = 30.0
"""How long a stopped server may take: it ends running answers and saves every turn."""

_REFUSAL = "the server answers other programs"
PostFact = Callable[[ServeFacts | JobProgress], object]


def run_server(runner: TurnRunner, config: Config, post: PostFact, stopped: Stopped) -> JobEnded:
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


_GROUP = "server"
_NOTICE_SECONDS = 12.0


class ServerControl:
    """Runs the server of the app."""

    def __init__(
        self, app: App[Any], config: Config, backend: Callable[[], Services | None]
    ) -> None:
        self._app = app
        self._config = config
        self._backend = backend
        self._runs = False
        self._facts: ServeFacts | None = None
        self._progress = ""

    def commands(self) -> Iterator[Command]:
        """Yield the commands for the palette."""
        if self._runs:
            yield Command("server: stop", "Stop answering other programs", self.stop)
        else:
            yield Command(
                "server: start",
                "Answer OpenAI clients on this machine; questions here are refused meanwhile",
                self.start,
            )
        yield Command("server: status", "Its address, requests and joules", self.open)

    def open(self) -> None:
        """Show the state of the server in a dialog."""
        from etui.tui.server_screen import ServerScreen  # not needed for the first paint

        if not isinstance(self._app.screen, ServerScreen):
            self._app.push_screen(ServerScreen(self.start, self.stop))
        self._show()

    def start(self) -> None:
        """Start the server and show its state."""
        backend = self._backend()
        if backend is None:
            self._app.notify("etui is still starting: try again in a moment", severity="warning")
            return
        if not self._runs:
            self._runs, self._facts, self._progress = True, None, "starting the server …"
            self._app.run_worker(
                lambda: self._run(backend), group=_GROUP, thread=True, exit_on_error=False
            )
        self.open()

    def stop(self) -> None:
        """Stop the server; running answers may end first."""
        self._app.workers.cancel_group(self._app, _GROUP)

    def _take(self, fact: ServeFacts | JobProgress | JobEnded) -> None:
        match fact:
            case ServeFacts():
                self._facts, self._progress = fact, ""
            case JobProgress(text=text):
                self._progress = text
            case JobEnded():
                self._end(fact)
        self._show()

    def _run(self, backend: Services) -> None:

        worker = get_current_worker()
        run_job(
            lambda: run_server(
                backend.runner, self._config, self._post, lambda: worker.is_cancelled
            ),
            self._post,
            self._config.log_dir,
        )

    def _post(self, fact: ServeFacts | JobProgress | JobEnded) -> None:
        self._app.call_later(self._take, fact)

    def _end(self, ended: JobEnded) -> None:
        self._runs, self._facts = False, None
        self._progress = f"✗ {ended.what}" if ended.what else ended.said
        if ended.what:
            notify_error(self._app, ended.what, ended.fix)
        else:
            self._app.notify(sanitize(ended.said), timeout=_NOTICE_SECONDS, markup=False)

    def _show(self) -> None:
        from etui.tui.server_screen import ServerScreen

        screen = self._app.screen
        if isinstance(screen, ServerScreen):
            screen.show(self._facts, self._progress, runs=self._runs)

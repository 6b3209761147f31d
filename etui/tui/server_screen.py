"""The state of the server in a dialog; the server goes on when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from etui.runtime.serve_facts import ServeFacts, format_per_request
from etui.text import sanitize
from etui.tui.widgets.key_footer import KeyFooter
from etui.units import energy_text, percent_text, watts_text

_NOT_RUNNING = "the server is not running; the command `server: start` starts it"


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
    lines.append(("in all", total))
    return lines


_LABEL_WIDTH = 10


class ServerScreen(ModalScreen[None]):
    """Dialog with the address of the server, its requests and its joules."""

    HELP = """\
## Server

`etui serve` answers programs that speak the OpenAI protocol: editors, agents, scripts. `s` starts
or stops it, `Esc` closes this dialog and leaves it running. The models of the app are unloaded
meanwhile, and questions in the chat are refused.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "switch", "Start or stop", id="server.switch"),
        Binding("escape,enter", "leave", "Close", id="server.leave", key_display="esc"),
    ]

    def __init__(self, start: Callable[[], object], stop: Callable[[], object]) -> None:
        super().__init__()
        self._start = start
        self._stop = stop
        self._runs = False
        self._lines = Static("", markup=False, classes="state")
        self._help = Static("", markup=False, classes="help")

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static("etui serve", markup=False, classes="title")
            yield self._lines
            yield self._help
        yield KeyFooter()

    def show(self, facts: ServeFacts | None, progress: str, *, runs: bool) -> None:
        """Show a state of the server."""
        self._runs = runs
        rows = state_lines(facts, progress)
        text = "\n".join(f"{label:<{_LABEL_WIDTH}}{value}" for label, value in rows)
        self._lines.update(sanitize(text))
        self._help.update(
            "s stops it · Esc closes this, and it goes on" if runs else "s starts it · Esc closes"
        )

    def action_switch(self) -> None:
        """Stop the server if it is running, or else start it."""
        if self._runs:
            self._stop()
        else:
            self._start()

    def action_leave(self) -> None:
        self.dismiss(None)

"""The server of the app: started and stopped from the palette, followed in its dialog.

A script answers in place of ``etui serve``, with the lines that it prints.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from etui.codec import to_document
from etui.errors import EtuiError
from etui.runtime.turn_request import ServeFacts
from etui.tui import jobs
from etui.tui.server_screen import ServerScreen, parse_line, state_lines
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until
from tests.tui.screen import running

FACTS = ServeFacts(
    url="http://127.0.0.1:8420/v1",
    watts=118.0,
    running=1,
    queued=2,
    finished=36,
    failed=1,
    cancelled=0,
    joules_per_request=4.1,
    uncertainty=0.2,
    kind="counter",
    idle_share=0.62,
    joules=500.0,
    joules_uncertainty=10.0,
    turns_joules=160.0,
    loads_joules=30.0,
    idle_joules=310.0,
    residents=("smollm2-135m",),
    loading=None,
    accepting=True,
)
DOCUMENT: dict[str, Any] = to_document(FACTS)
SAY = "import json, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
SERVES = (
    SAY
    + f"print(json.dumps(dict(event='status', **{DOCUMENT!r})), flush=True); "
    + "signal.sigwait([signal.SIGTERM]); "
    + f"print(json.dumps(dict(event='end', **{DOCUMENT!r})))"
)
BROKEN = "import sys; sys.exit('etui: cannot listen on 127.0.0.1:8420\\nchoose another port')"


@pytest.fixture
def serves(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a script answer in place of ``etui serve``."""

    def by(script: str = SERVES) -> None:
        monkeypatch.setattr(jobs, "command", lambda *_: [sys.executable, "-c", script])

    return by


def run_command(app: EtuiApp, title: str) -> None:
    """Run a command of the palette."""
    [command] = [command for command in app.commands() if command.title == title]
    command.run()


def titles(app: EtuiApp) -> set[str]:
    return {command.title for command in app.commands() if command.title.startswith("server:")}


def dialog(app: EtuiApp) -> str:
    """The text of the server's dialog; empty if it is not open."""
    if not isinstance(app.screen, ServerScreen):
        return ""
    return "\n".join(str(line.content) for line in app.screen.query(Static))


async def ready(pilot: Pilot[Any], app: EtuiApp) -> None:
    await until(pilot, lambda: app.backend is not None)


async def test_the_server_is_started_followed_and_stopped(house: House, serves: Any) -> None:
    serves()
    house.runner.held = ["another"]
    async with running(house) as term:
        await ready(term.pilot, term.app)
        assert titles(term.app) == {"server: start", "server: status"}
        run_command(term.app, "server: start")
        await term.until(lambda: "4.1 ± 0.2 J/request" in dialog(term.app))
        assert "http://127.0.0.1:8420/v1" in dialog(term.app)
        assert "118 W" in dialog(term.app)
        assert "1 running, 2 queued, 37 done, 1 failed" in dialog(term.app)
        assert "500 ± 10 J (counter), 62 % of it idle" in dialog(term.app)
        assert titles(term.app) == {"server: stop", "server: status"}
        assert house.runner.held == []
        assert house.runner.resting == ["the server answers other programs"]
        await term.press("s")
        await term.until(lambda: "s starts it" in dialog(term.app))
        assert "the server has stopped: 37 requests" in dialog(term.app)
        assert titles(term.app) == {"server: start", "server: status"}


async def test_closing_the_dialog_leaves_it_running(house: House, serves: Any) -> None:
    serves()
    async with running(house) as term:
        await ready(term.pilot, term.app)
        run_command(term.app, "server: start")
        await term.until(lambda: "J/request" in dialog(term.app))
        await term.press("escape")
        await term.until(lambda: not isinstance(term.app.screen, ServerScreen))
        assert "server: stop" in titles(term.app)
        run_command(term.app, "server: status")
        await term.until(lambda: "118 W" in dialog(term.app))
        run_command(term.app, "server: stop")
        await term.until(lambda: "server: start" in titles(term.app))


async def test_a_server_that_cannot_start_says_why(house: House, serves: Any) -> None:
    serves(BROKEN)
    async with running(house) as term:
        await ready(term.pilot, term.app)
        run_command(term.app, "server: start")
        await term.until(lambda: "✗ cannot listen on 127.0.0.1:8420" in dialog(term.app))
        await term.told("choose another port")
        serves()
        await term.press("s")
        await term.until(lambda: "118 W" in dialog(term.app))
        await term.press("s")
        await term.until(lambda: "s starts it" in dialog(term.app))


async def test_a_running_answer_comes_first(house: House, serves: Any) -> None:
    serves()
    house.runner.refusal = EtuiError("an answer or a model load is running", "wait until it ends")
    async with running(house) as term:
        await ready(term.pilot, term.app)
        run_command(term.app, "server: start")
        await term.until(lambda: "✗ an answer or a model load is running" in dialog(term.app))
        assert house.runner.resting == []


async def test_leaving_the_app_ends_the_server(house: House, serves: Any) -> None:
    serves()
    async with running(house) as term:
        await ready(term.pilot, term.app)
        run_command(term.app, "server: start")
        await term.until(lambda: "J/request" in dialog(term.app))
        [process] = [
            child
            for child in psutil.Process().children()
            if "signal.sigwait" in str(child.cmdline())
        ]
    gone, alive = psutil.wait_procs([process], timeout=60)
    assert not alive
    assert gone


async def test_the_dialog_without_a_server_says_how_to_start_it(house: House) -> None:
    async with running(house, (80, 24)) as term:
        await ready(term.pilot, term.app)
        run_command(term.app, "server: status")
        await term.until(lambda: "not running" in dialog(term.app))


def test_what_is_not_measured_is_no_zero() -> None:
    nothing = replace(
        FACTS, watts=None, joules_per_request=None, uncertainty=None, kind=None, idle_share=None,
        joules=None, joules_uncertainty=None,
    )  # fmt: skip
    lines = dict(state_lines(nothing, ""))
    assert lines["power"] == lines["energy"] == lines["in all"] == "unmeasured"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json\n",
        b"[]\n",
        b'{"event": "listening"}\n',
        b'{"event": "status"}\n',
        json.dumps({"event": "status", **DOCUMENT, "running": "many"}).encode(),
        json.dumps({**DOCUMENT}).encode(),
    ],
)
def test_other_lines_are_passed_over(line: bytes) -> None:
    assert parse_line(line) is None


def test_a_line_of_a_later_version_may_have_more_keys() -> None:
    line = json.dumps({"event": "status", **DOCUMENT, "new": 1}).encode()
    assert parse_line(line) == FACTS

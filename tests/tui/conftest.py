"""The app of these tests runs on fakes; see ``fakes.py``."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
from textual._context import active_app
from textual.app import ScreenStackError

from etui.config.config import Config
from tests.support.ports import find_free_port
from tests.tui.fakes import DEADLINE_SECONDS, FakeChats, FakeMeter, FakeRunner, FakeShelf, House

_STEP_SECONDS = 0.004
_MOST_STEPS = 250
_BUSY_SECONDS = 0.001
"""CPU time of one step from which on the app works."""


async def rest(min_sleep: float = 0.0, max_sleep: float = 1.0) -> None:
    """Wait until the app rests and has drawn what was to be drawn.

    Textual waits 20 ms, longer than a frame, twice for each key. Steps are counted and not seconds,
    in which a busy machine may not let the app run; what is ready to run is not at rest.
    """
    ready = getattr(asyncio.get_running_loop(), "_ready", ())
    for _ in range(_MOST_STEPS):
        spent = time.process_time()
        await asyncio.sleep(_STEP_SECONDS)
        if ready or time.process_time() - spent >= _BUSY_SECONDS:
            continue
        try:
            screen = active_app.get().screen
        except (LookupError, ScreenStackError):
            return
        if not screen._update_timer._active.is_set():
            return


@pytest.fixture(scope="session", autouse=True)
def quick_app() -> Iterator[None]:
    """End animations at once, and wait for the app by ``rest``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textual.constants.TEXTUAL_ANIMATIONS", "none")
        patch.setattr("textual.app.wait_for_idle", rest)
        patch.setattr("textual.pilot.wait_for_idle", rest)
        yield


@pytest.fixture
def house(config: Config, monkeypatch: pytest.MonkeyPatch) -> House:
    """A machine with one GPU, the starter model on disk, and nothing real."""
    monkeypatch.delenv("NO_COLOR")
    meter = FakeMeter()
    runner = FakeRunner(meter)
    return House(config, meter, runner, FakeShelf(), FakeChats(runner))


@pytest.fixture
def web_server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An ``etui --web`` on a machine without a model, and the address that it prints.

    It is ended with Ctrl-C.
    """
    pytest.importorskip("textual_serve")
    free = find_free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "etui", "--web", "--web-port", str(free)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
    )
    assert server.stderr is not None
    line = server.stderr.readline().decode()
    printed = re.search(rf"http://127\.0\.0\.1:{free}/[\w-]{{43}}/", line)
    assert printed is not None, line
    yield server, printed[0]
    family = []
    with suppress(psutil.NoSuchProcess):  # the test has ended it
        family.append(psutil.Process(server.pid))
        family += family[0].children(recursive=True)
    server.send_signal(signal.SIGINT)
    server.wait(DEADLINE_SECONDS)
    _gone, alive = psutil.wait_procs(family, timeout=DEADLINE_SECONDS)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    assert alive == [], "no etui may outlive its server"
    assert b"Traceback" not in server.stderr.read()
    server.stderr.close()


@pytest.fixture
def web_address(web_server: tuple[subprocess.Popen[bytes], str]) -> str:
    """The address that an ``etui --web`` prints, on a machine without a model."""
    return web_server[1]

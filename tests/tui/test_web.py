"""``etui --web``: the same app in a browser of this machine, and for nobody else."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress

import psutil
import pytest
from click.testing import CliRunner

from etui.cli.main import cli
from etui.errors import EtuiError
from etui.tui.web import HOST, build_command, is_allowed, serve_app
from tests.tui.fakes import DEADLINE_SECONDS


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8000", None, True),
        ("localhost:8000", None, True),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("127.0.0.1:8000", "http://evil.example", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8000", "null", False),
        ("rebound.example:8000", None, False),
        ("rebound.example:8000", "http://rebound.example:8000", False),
        ("127.0.0.1:9000", None, False),
        (None, None, False),
    ],
)
def test_only_the_own_page_is_served(host: str, origin: str, allowed: bool) -> None:
    assert is_allowed(host, origin, 8000) is allowed


def test_the_command_of_a_tab_is_quoted() -> None:
    words = shlex.split(build_command("my policy; ls", None))
    assert words[-4:] == ["-m", "etui", "--policy", "my policy; ls"]
    assert shlex.split(build_command(None, "m"))[-2:] == ["--model", "m"]


def test_without_the_package_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(EtuiError) as raised:
        serve_app(policy=None, model=None, port=8000)
    assert raised.value.fix.endswith("-m pip install textual-serve")


@pytest.mark.parametrize(
    "arguments", [["--web-port", "8001"], ["--web", "doctor"], ["--web", "--web-port", "70000"]]
)
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, arguments).exit_code == 2


def test_a_port_that_is_taken_is_told() -> None:
    pytest.importorskip("textual_serve")
    with closing(socket.socket()) as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EtuiError, match=f"cannot listen on {HOST}:{port}") as raised:
            serve_app(policy=None, model=None, port=port)
    assert "--web-port" in raised.value.fix


@pytest.fixture
def port() -> Iterator[int]:
    """The port of an ``etui --web`` on a machine without a model."""
    pytest.importorskip("textual_serve")
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        free = int(probe.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "etui", "--web", "--web-port", str(free)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
    )
    assert server.stderr is not None
    assert f"http://{HOST}:{free}".encode() in server.stderr.readline()
    yield free
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    server.terminate()
    server.wait(DEADLINE_SECONDS)
    _gone, alive = psutil.wait_procs(family, timeout=DEADLINE_SECONDS)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    assert alive == [], "no etui may outlive its server"


async def test_the_app_appears_in_a_browser_and_not_to_another_page(port: int) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as browser:
        page = f"http://{HOST}:{port}/"
        async with browser.get(page) as response:
            assert response.status == 200
            assert "fonts.googleapis" not in response.headers["Content-Security-Policy"]
        socket_url = f"ws://{HOST}:{port}/ws?width=100&height=30"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.ws_connect(socket_url, origin="http://evil.example")
        assert refused.value.status == 403
        async with browser.ws_connect(socket_url, origin=page.rstrip("/")) as tab:
            drawn = b""
            async with asyncio.timeout(DEADLINE_SECONDS):
                while b"No model on this machine yet" not in drawn:
                    message = await tab.receive()
                    assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)
                    drawn += message.data if isinstance(message.data, bytes) else b""

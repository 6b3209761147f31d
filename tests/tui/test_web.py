"""``etui --web``: the same app in a browser of this machine, and for nobody else."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from etui.cli.main import cli
from etui.errors import EtuiError
from etui.tui.web import HOST, build_command, serve_app
from tests.tui.fakes import DEADLINE_SECONDS


def test_the_command_of_a_tab_is_quoted() -> None:
    words = shlex.split(build_command("my policy; ls", None))
    assert words[-4:] == ["-m", "etui", "--policy", "my policy; ls"]
    assert shlex.split(build_command(None, "m"))[-2:] == ["--model", "m"]


def test_without_the_package_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    with pytest.raises(EtuiError) as raised:
        serve_app(policy=None, model=None, port=8000)
    assert raised.value.fix == "pip install 'etui[web]'"


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


def test_a_port_that_another_program_has_on_the_other_loopback_is_refused() -> None:
    pytest.importorskip("textual_serve")
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(taken):
        port = taken.getsockname()[1]
        with pytest.raises(EtuiError, match=f"cannot listen on ::1:{port}"):
            serve_app(policy=None, model=None, port=port)


async def test_the_app_appears_with_the_token_and_not_without(web_address: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    root = web_address[: web_address.index("/", len("http://"))]
    async with aiohttp.ClientSession() as browser:
        async with browser.get(web_address) as response:
            assert response.status == 200
            assert "fonts.googleapis" not in response.headers["Content-Security-Policy"]
        async with browser.get(root) as response:
            assert response.status == 403
        socket_url = web_address.replace("http:", "ws:") + "ws?width=100&height=30"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.ws_connect(socket_url, origin="http://evil.example")
        assert refused.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.ws_connect(f"{root}/ws?width=100&height=30", origin=root)
        assert refused.value.status == 403
        async with browser.ws_connect(socket_url, origin=root) as tab:
            drawn = b""
            async with asyncio.timeout(DEADLINE_SECONDS):
                while b"No model on this machine yet" not in drawn:
                    message = await tab.receive()
                    assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)
                    drawn += message.data if isinstance(message.data, bytes) else b""


@asynccontextmanager
async def running_app(server: subprocess.Popen[bytes], address: str) -> AsyncIterator[Any]:
    """The app of a tab that has started."""
    aiohttp = pytest.importorskip("aiohttp")
    async with (
        aiohttp.ClientSession() as browser,
        browser.ws_connect(address.replace("http:", "ws:") + "ws?width=80&height=24") as tab,
        asyncio.timeout(DEADLINE_SECONDS),
    ):
        while (await tab.receive()).type != aiohttp.WSMsgType.BINARY:
            pass
        [app] = psutil.Process(server.pid).children()
        yield app


async def wait_for_end(app: psutil.Process) -> None:
    while app.is_running() and app.status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
async def test_the_app_ends_however_its_server_ends(
    web_server: tuple[subprocess.Popen[bytes], str], name: str
) -> None:
    server, address = web_server
    async with running_app(server, address) as app:
        server.send_signal(getattr(signal, name))
        await wait_for_end(app)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
async def test_a_second_ctrl_c_kills_an_app_that_hangs(
    web_server: tuple[subprocess.Popen[bytes], str],
) -> None:
    server, address = web_server
    assert server.stderr is not None
    async with running_app(server, address) as app:
        app.suspend()
        server.send_signal(signal.SIGINT)
        line = await asyncio.to_thread(server.stderr.readline)
        assert b"Ctrl-C again" in line
        server.send_signal(signal.SIGINT)
        await wait_for_end(app)
        assert await asyncio.to_thread(server.wait, DEADLINE_SECONDS) != 0

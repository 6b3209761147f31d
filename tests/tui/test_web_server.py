"""The server of ``etui --web``: the token, the headers, and the bounds of a tab."""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("textual_serve")

import aiohttp
from aiohttp import web

from etui.tui.web_server import LocalServer
from etui.tui.web_session import Limits, bound_size
from etui.web_origin import build_hosts, is_allowed, is_secret
from tests.tui.fakes import DEADLINE_SECONDS
from tests.tui.web_app import FILE

HOST = "127.0.0.1"
TOKEN = "a-token_of-the_test"
APP = Path(__file__).with_name("web_app.py")


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
    assert is_allowed(host, origin, build_hosts(("127.0.0.1", "localhost"), 8000)) is allowed


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        (TOKEN, True),
        ("", False),
        (TOKEN[:-1], False),
        (TOKEN + "x", False),
        ("ü", False),
        ("\udcff", False),
    ],
)
def test_only_the_token_is_accepted(given: str, accepted: bool) -> None:
    assert is_secret(given, TOKEN) is accepted


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        ("120", "40", (120, 40)),
        (120, 40.0, (120, 40)),
        ("99999999", "99999999", (1000, 500)),
        (99999999, float("inf"), (1000, 24)),
        (-5, "0", (2, 1)),
        ("NaN", float("nan"), (80, 24)),
        (None, [], (80, 24)),
        ("9" * 5000, "", (80, 24)),
    ],
)
def test_the_size_of_a_terminal_is_bounded(
    width: object, height: object, expected: tuple[int, int]
) -> None:
    assert bound_size(width, height, Limits()) == expected


class Served:
    """A server of this process, and a client of it."""

    def __init__(self, server: LocalServer, browser: aiohttp.ClientSession) -> None:
        self.server = server
        self.browser = browser
        self.root = f"http://{HOST}:{server.port}"
        self.page = f"{self.root}/{TOKEN}/"

    def open_tab(self, query: str = "width=100&height=30") -> Any:
        url = f"ws://{HOST}:{self.server.port}/{TOKEN}/ws?{query}"
        return self.browser.ws_connect(url, origin=self.root)

    async def status(self, path: str) -> int:
        async with self.browser.get(self.root + path) as response:
            return int(response.status)


@asynccontextmanager
async def serving(behaviour: str = "echo", limits: Limits | None = None) -> AsyncIterator[Served]:
    command = shlex.join([sys.executable, str(APP), behaviour])
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    server = LocalServer(f"exec {command}", HOST, port, TOKEN, limits)
    runner = web.AppRunner(await server.build_app(), shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    try:
        async with aiohttp.ClientSession() as browser:
            async with asyncio.timeout(DEADLINE_SECONDS):
                yield Served(server, browser)
    finally:
        await runner.cleanup()


async def read_until(tab: Any, pattern: str) -> re.Match[str]:
    """Read what the app draws until it matches; the page gets the token as its instance first."""
    drawn = ""
    while not (found := re.search(pattern, drawn)):
        message = await tab.receive()
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        drawn += message.data if isinstance(message.data, str) else message.data.decode()
    return found


async def read_to_the_end(tab: Any) -> int:
    """Read until the server closes the tab and return the code."""
    async for _message in tab:
        pass
    return int(tab.close_code)


async def app_of(tab: Any) -> psutil.Process:
    return psutil.Process(int((await read_until(tab, r"pid (\d+) end"))[1]))


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "path", ["/", "/wrong/", "/static/js/textual.js", "/download/0", "//", "/*"]
)
async def test_nothing_is_served_without_the_token(path: str) -> None:
    async with serving() as served:
        assert await served.status(path) == 403
        assert await served.status(f"{path}?instance=wrong&token={TOKEN}") == 403


async def test_no_websocket_is_opened_without_the_token() -> None:
    async with serving() as served:
        for path in ("/ws", "/wrong/ws", f"/{TOKEN}x/ws", f"/ws?instance={TOKEN}"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await served.browser.ws_connect(served.root + path, origin=served.root)
            assert refused.value.status == 403


async def test_with_the_token_the_page_and_its_files_are_served() -> None:
    async with serving() as served:
        assert await served.status(f"/{TOKEN}/") == 200
        assert await served.status(f"/{TOKEN}/static/js/textual.js") == 200
        assert await served.status(f"/{TOKEN}/static/css/xterm.css") == 200
        assert await served.status(f"/{TOKEN}/static/missing.js") == 404


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_the_page_has_the_addresses_of_the_host_it_was_opened_with(name: str) -> None:
    async with serving() as served:
        host = f"{name}:{served.server.port}"
        async with served.browser.get(served.page, headers={"Host": host}) as response:
            page = await response.text()
            policy = response.headers["Content-Security-Policy"]
    assert f'data-session-websocket-url="ws://{host}/{TOKEN}/ws"' in page
    assert 'src="static/js/textual.js"' in page
    assert set(re.findall(r"127\.0\.0\.1|localhost", page)) == {name}
    assert f"connect-src 'self' ws://{host};" in policy


@pytest.mark.parametrize("path", ["", "static/js/textual.js", "static/missing", "../wrong/"])
async def test_every_answer_keeps_the_address_to_itself(path: str) -> None:
    async with serving() as served, served.browser.get(served.page + path) as response:
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


async def test_a_refused_host_is_not_put_into_the_policy() -> None:
    async with serving() as served:
        headers = {"Host": "evil.example; script-src *"}
        async with served.browser.get(served.page, headers=headers) as response:
            assert response.status == 403
            assert "evil" not in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("asked", "drawn"), [("20", "20"), ("1", "4"), ("999999", "64"), ("x", "16")]
)
async def test_the_font_size_is_bounded(asked: str, drawn: str) -> None:
    async with (
        serving() as served,
        served.browser.get(f"{served.page}?fontsize={asked}") as response,
    ):
        assert f'data-font-size="{drawn}"' in await response.text()


async def test_a_tab_has_the_size_of_its_window_within_bounds() -> None:
    async with serving() as served:
        async with served.open_tab() as tab:
            await read_until(tab, "size 100x30 ")
            await tab.send_json(["resize", {"width": 120, "height": 40}])
            await read_until(tab, r'"resize", "width": 120, "height": 40}')
            await tab.send_json(["resize", {"width": 99999999, "height": 99999999}])
            await read_until(tab, r'"resize", "width": 1000, "height": 500}')
        async with served.open_tab("width=99999999&height=99999999") as tab:
            await read_until(tab, "size 1000x500 ")
        async with served.open_tab("width=NaN") as tab:
            await read_until(tab, "size 80x24 ")


async def test_keys_and_pings_are_answered() -> None:
    async with serving() as served, served.open_tab() as tab:
        await tab.send_json(["stdin", "a key"])
        await read_until(tab, "Da key")
        await tab.send_str('["stdin", "\\ud800 and more"]')
        await read_until(tab, r"D\? and more")
        await tab.send_json(["ping", "123"])
        await read_until(tab, r'\["pong", "123"\]')


@pytest.mark.parametrize(
    "message",
    ["no JSON", "{}", "[]", '["stdin", 7]', '["resize", 7]', '["ping", ["x"]]', "[" * 100_000],
)
async def test_a_message_that_no_page_sends_ends_the_tab(message: str) -> None:
    async with serving() as served, served.open_tab() as tab:
        app = await app_of(tab)
        await tab.send_str(message)
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.POLICY_VIOLATION
        await until(lambda: not app.is_running())


async def test_a_message_too_long_ends_the_tab() -> None:
    async with serving(limits=Limits(message_bytes=1000)) as served, served.open_tab() as tab:
        app = await app_of(tab)
        await tab.send_json(["stdin", "x" * 2000])
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        await until(lambda: not app.is_running())


@pytest.mark.parametrize("behaviour", ["echo", "stubborn", "busy"])
async def test_an_app_ends_with_its_tab(behaviour: str) -> None:
    async with serving(behaviour, Limits(leave_seconds=0.2)) as served:
        async with served.open_tab() as tab:
            app = await app_of(tab)
        await until(lambda: not app.is_running())


@pytest.mark.parametrize("behaviour", ["echo", "stubborn", "busy"])
async def test_an_app_ends_when_its_tab_vanishes(behaviour: str) -> None:
    async with serving(behaviour, Limits(leave_seconds=0.2)) as served:
        tab = await served.open_tab()
        app = await app_of(tab)
        tab._response.connection.transport.abort()
        await until(lambda: not app.is_running())


@pytest.mark.parametrize("behaviour", ["echo", "stubborn", "busy"])
async def test_every_app_ends_with_the_server(behaviour: str) -> None:
    async with serving(behaviour, Limits(leave_seconds=0.2)) as served:
        tabs = [await served.open_tab() for _ in range(2)]
        apps = [await app_of(tab) for tab in tabs]
    assert [app for app in apps if app.is_running()] == []


async def test_input_that_the_app_does_not_read_ends_the_tab(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits = Limits(pending_bytes=100_000, leave_seconds=0.2)
    async with serving("stubborn", limits) as served, served.open_tab() as tab:
        app = await app_of(tab)
        for _ in range(10):
            await tab.send_json(["stdin", "x" * 50_000])
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.POLICY_VIOLATION
        await until(lambda: not app.is_running())
    assert "a tab was ended: its app does not read its input" in capsys.readouterr().err


async def test_an_app_that_takes_too_much_memory_is_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits = Limits(resident_bytes=1 << 20, check_seconds=0.01)
    async with serving("stubborn", limits) as served, served.open_tab() as tab:
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.POLICY_VIOLATION
    assert "its app took more than 1 MiB of memory" in capsys.readouterr().err


async def test_a_packet_too_long_ends_the_tab() -> None:
    limits = Limits(packet_bytes=10_000, leave_seconds=0.2)
    async with serving("busy", limits) as served, served.open_tab() as tab:
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.POLICY_VIOLATION


async def test_a_tab_is_closed_when_its_app_has_ended(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving("exit") as served, served.open_tab() as tab:
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.OK
    assert capfd.readouterr() == ("", "")


async def test_the_end_of_the_errors_of_an_app_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving("crash") as served, served.open_tab() as tab:
        assert await read_to_the_end(tab) == aiohttp.WSCloseCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("it broke ␛[31m\n")
    assert len(err) < 20_000


async def test_a_file_of_the_app_is_downloaded_with_the_token() -> None:
    async with serving("file") as served, served.open_tab() as tab:
        instance = (await read_until(tab, r'\["instance_id", "([^"]*)"\]'))[1]
        key = (await read_until(tab, r'\["deliver_file_start", "([^"]*)"\]'))[1]
        assert await served.status(f"/download/{key}") == 403
        url = f"{served.root}/download/{key}?instance={instance}"
        async with served.browser.get(url) as response:
            assert response.status == 200
            assert await response.read() == FILE
            assert response.headers["Content-Disposition"] == "attachment; filename=a.svg"

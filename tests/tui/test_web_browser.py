"""``etui --web`` in headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("textual_serve")

import aiohttp

from tests.tui.fakes import DEADLINE_SECONDS

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
START_SECONDS = 3 * DEADLINE_SECONDS

# The template of textual-serve asks for a font of Google's, which the policy of the page refuses.
RECORD_REFUSALS = """
window.refused = [];
document.addEventListener("securitypolicyviolation", event => {
    if (!event.blockedURI.startsWith("https://fonts.googleapis.com/"))
        window.refused.push(event.effectiveDirective + " " + event.blockedURI);
});
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


class Tab:
    """A page of the browser."""

    def __init__(self, devtools: Any) -> None:
        self._devtools = devtools
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": params, **self._session}
        await self._devtools.send_json(request)
        while True:
            reply = json.loads((await self._devtools.receive()).data)
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    async def open(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = {"sessionId": attached["sessionId"]}
        await self.call("Page.enable")
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=RECORD_REFUSALS)

    async def evaluate(self, script: str) -> Any:
        reply = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return reply["result"].get("value")

    async def until(self, script: str) -> None:
        while not await self.evaluate(script):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Tab]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={folder}", stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(START_SECONDS):
            line = b""
            while not (found := re.search(rb"ws://\S+", line)):
                line = await process.stderr.readline()
                assert line, "Chromium did not start"
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(found[0].decode(), max_msg_size=0) as devtools,
            ):
                tab = Tab(devtools)
                await tab.open()
                yield tab
    finally:
        process.terminate()
        await process.communicate()


def apps_of(address: str) -> list[psutil.Process]:
    """The processes that the server of this address runs."""
    port = int(address.split(":")[2].partition("/")[0])
    for connection in psutil.Process().children():
        listening = [place.laddr.port for place in connection.net_connections("tcp")]
        if port in listening:
            return connection.children()
    return []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_the_app_is_drawn_and_ends_with_its_page(
    web_address: str, name: str, tmp_path: Path
) -> None:
    async with open_browser(tmp_path / "chromium") as tab:
        await tab.call("Page.navigate", url=web_address.replace("127.0.0.1", name))
        await tab.until("document.body && document.body.classList.contains('-first-byte')")
        assert await tab.evaluate("document.body.classList.contains('-closed')") is False
        assert await tab.evaluate("window.refused") == []
        assert await tab.evaluate("document.title + document.referrer") == ""
        assert len(apps_of(web_address)) == 1
        await tab.call("Page.navigate", url="about:blank")
        while apps_of(web_address):
            await asyncio.sleep(0.05)


async def test_without_its_token_the_page_is_refused(web_address: str, tmp_path: Path) -> None:
    root = web_address[: web_address.index("/", len("http://"))]
    async with open_browser(tmp_path / "chromium") as tab:
        await tab.call("Page.navigate", url=root)
        await tab.until("document.body && document.body.innerText.includes('with its token')")
        assert apps_of(web_address) == []

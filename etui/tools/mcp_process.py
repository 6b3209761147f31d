"""The client of one MCP server, in a process of its own: JSON lines in, JSON lines out.

A server may send anything: a line without an end, JSON nested without an end, nothing at all. What
that does is done to this process, which :class:`etui.tools.servers.McpServer` ends when it takes
too long or too much memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client import Transport

MOST_LISTED = 200
"""Most tools, prompts or resources of a server that are listed; a prompt of more holds nothing."""

_MOST_PAGES = 20
_TAIL_BYTES = 2_000
_TAIL_SECONDS = 0.5
_MOST_CHARACTERS = 2_000_000
"""Most of a result that is handed on; the settings cut it further."""

P = TypeVar("P")


class _Stderr:
    """The end of what a server writes to its standard error, to say why it failed."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.stream = os.fdopen(writing, "w")
        self._tail = b""
        self._thread = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._thread.start()

    def _read(self, fd: int) -> None:
        while data := os.read(fd, 65_536):
            self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def read(self) -> str:
        """Return the last lines, of a server that has ended."""
        self.stream.close()
        self._thread.join(_TAIL_SECONDS)
        return self._tail.decode("utf-8", "replace").strip()


def _connect(spec: dict[str, Any], stderr: _Stderr) -> Transport:
    """Return the transport to a server: over the pipes of a new process, or over HTTP."""
    from mcp import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    if spec["url"] is None:
        command, *words = spec["command"]
        parameters = StdioServerParameters(command=command, args=words, env=spec["env"])
        parameters.encoding_error_handler = "replace"
        return stdio_client(parameters, errlog=stderr.stream)
    key = spec["key"]
    headers = {"Authorization": f"Bearer {key}"} if key else None
    return streamable_http_client(spec["url"], http_client=create_mcp_http_client(headers))


async def _list(fetch: Callable[..., Awaitable[Any]], field: str) -> list[Any]:
    """Fetch the pages of a list; a server whose pages never end is cut off."""
    found: list[Any] = []
    cursor = None
    for _ in range(_MOST_PAGES):
        page = await fetch(cursor=cursor)
        found += getattr(page, field)
        cursor = page.next_cursor
        if not cursor or len(found) >= MOST_LISTED:
            break
    return found[:MOST_LISTED]


async def _describe(client: Client) -> dict[str, Any]:
    has = client.server_capabilities
    tools = await _list(client.list_tools, "tools") if has.tools else []
    prompts = await _list(client.list_prompts, "prompts") if has.prompts else []
    resources = await _list(client.list_resources, "resources") if has.resources else []
    return {
        "tools": [
            {"name": t.name, "description": t.description or "", "parameters": t.input_schema}
            for t in tools
        ],
        "prompts": [{"name": p.name, "description": p.description or ""} for p in prompts],
        "resources": [{"name": str(r.uri), "description": r.name} for r in resources],
    }


async def _call(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    found = await client.call_tool(request["name"], request["arguments"])
    parts = [_text_of(block) for block in found.content]
    if not any(parts) and found.structured_content is not None:
        parts = [json.dumps(found.structured_content, ensure_ascii=False)]
    text = "\n".join(part for part in parts if part)
    return {
        "text": text[:_MOST_CHARACTERS],
        "left_out": max(0, len(text) - _MOST_CHARACTERS),
        "is_error": found.is_error,
    }


def _text_of(block: Any) -> str:
    """Return the text of a part of a result, or say what it is."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource" and hasattr(block.resource, "text"):
        return str(block.resource.text)
    if block.type == "resource_link":
        return f"[resource {block.uri}]"
    return f"[{block.type} {getattr(block, 'mime_type', '') or ''}: not text, left out]"


def _reason(error: BaseException) -> str:
    """Return the message of an error, or of the first one in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return f"{error}" or type(error).__name__


def _read_lines(source: BinaryIO) -> asyncio.Queue[bytes]:
    """Read lines on a thread; their end cancels the task, whatever it waits for.

    A parent that was killed leaves a server behind that says nothing otherwise.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    assert task is not None
    cancel = task.cancel

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            while line := source.readline():
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(cancel)

    threading.Thread(target=read, daemon=True).start()
    return lines


async def _serve(spec: dict[str, Any], source: BinaryIO, write: Callable[..., None]) -> None:
    from mcp import Client
    from mcp_types import CONNECTION_CLOSED

    lines, stderr = _read_lines(source), _Stderr()
    try:
        async with Client(_connect(spec, stderr)) as client:
            write(**await _describe(client))
            while True:
                line = await lines.get()
                try:
                    # The parent's time-out comes later: it ends the process, this one the call.
                    async with asyncio.timeout(spec["seconds"]):
                        found = await _call(client, json.loads(line))
                    write(**found)
                except TimeoutError:
                    write(timeout=True)
                except Exception as error:  # noqa: BLE001  the server's fault, whatever it is
                    gone = getattr(error, "code", None) == CONNECTION_CLOSED
                    write(error=_reason(error)[:_TAIL_BYTES], gone=gone)
    except Exception as error:  # noqa: BLE001  as above
        write(error=_reason(error)[:_TAIL_BYTES], stderr=stderr.read())


def main() -> None:
    """Connect to the server of the first line, list what it has, and run the calls that follow."""
    source = sys.stdin.buffer
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not write between the lines

    def write(**document: Any) -> None:
        out.write(json.dumps(document).encode() + b"\n")
        out.flush()

    with suppress(asyncio.CancelledError):
        asyncio.run(_serve(json.loads(source.readline()), source, write))
    os._exit(0)  # the thread still reads


if __name__ == "__main__":
    main()

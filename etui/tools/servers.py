"""MCP servers of config.yaml, each behind a process that cannot harm the app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from etui.config.backend_spec import find_key_problem, read_key
from etui.errors import EtuiError
from etui.text import one_line

if TYPE_CHECKING:
    from etui.config.schema import ToolServerEntry

MOST_BYTES = 600_000_000
"""Memory of the client of a server: what a result of a few megabytes takes, a hundred times."""

MOST_FAILURES = 3
"""After as many failures in a row a server is not started again."""

_GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.1


class ToolFailed(EtuiError):
    """A tool, or its server, did not do what it was asked."""


class ToolTimedOut(ToolFailed):
    """A tool took too long, and its server was ended."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a server offers, each as ``name``, ``description`` and, for tools, ``parameters``."""

    tools: tuple[dict[str, Any], ...]
    prompts: tuple[dict[str, Any], ...]
    resources: tuple[dict[str, Any], ...]


class McpServer:
    """One server; its process starts at the first use, and again after it had to be ended.

    Calls from several threads take turns.
    """

    def __init__(self, name: str, entry: ToolServerEntry) -> None:
        self.name = name
        self._entry = entry
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._failures = 0
        self._closing = False
        self._listing: Listing | None = None
        self._late = f"no answer within {entry.timeout_seconds:g} s"

    def list(self, cancelled: Callable[[], bool] = lambda: False) -> Listing:
        """Return what the server offers, as it said when it was started.

        Raises:
            ToolFailed: It cannot be started, or does not answer.
        """
        with self._lock:
            if self._listing is None or self._process is None:
                self._listing = self._start(cancelled)
            return self._listing

    def call(
        self, name: str, arguments: dict[str, Any], cancelled: Callable[[], bool]
    ) -> tuple[str, int]:
        """Return the text of a tool's result, and how many characters of it were left out.

        Raises:
            ToolFailed: The tool says so, or its server failed, took too long, or was cancelled.
        """
        with self._lock:
            if self._process is None:
                self._listing = self._start(cancelled)
            reply = self._exchange({"name": name, "arguments": arguments}, cancelled)
            if reply.get("gone"):
                self._fail()
            else:
                self._failures = 0
        if reply.get("timeout"):
            raise ToolTimedOut(self._late)
        if "error" in reply or reply.get("is_error"):
            raise ToolFailed(str(reply.get("error") or reply.get("text") or "it failed"))
        return str(reply["text"]), int(reply["left_out"])

    def close(self) -> None:
        """End the server for good: its input closes, and what is left after a moment is killed."""
        self._closing = True
        with self._lock:
            self._end(_GRACE_SECONDS)

    def _start(self, cancelled: Callable[[], bool]) -> Listing:
        entry = self._entry
        if self._failures >= MOST_FAILURES:
            raise ToolFailed(f"it failed {MOST_FAILURES} times", "see: etui tools")
        problem = find_key_problem(entry.key_env, os.environ)
        if problem:
            raise ToolFailed(problem)
        spec = {
            "command": entry.command,
            "url": entry.url,
            "env": dict(entry.env) or None,
            "key": read_key(entry.key_env, os.environ),
            "seconds": entry.timeout_seconds,
        }
        try:
            self._process = subprocess.Popen(
                # -P: a module in the user's folder must not replace one of these.
                [sys.executable, "-P", "-m", "etui.tools.mcp_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is handled by the parent
            )
        except OSError as error:
            raise ToolFailed(f"it could not be started: {error}") from error
        self._lines = SimpleQueue()
        reader = threading.Thread(
            target=_read, args=(self._process, self._lines), daemon=True, name="tool server"
        )
        reader.start()
        found = self._exchange(spec, cancelled)
        if "error" in found:
            self._fail()
            said = one_line(str(found.get("stderr") or ""))[-300:]
            raise ToolFailed(one_line(str(found["error"])) + (f" ({said})" if said else ""))
        return Listing(*(tuple(found[key]) for key in ("tools", "prompts", "resources")))

    def _exchange(self, request: dict[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        limit = time.monotonic() + self._entry.timeout_seconds + _GRACE_SECONDS
        with suppress(OSError):  # its end is seen when reading
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        while True:
            with suppress(Empty):
                line = self._lines.get(timeout=_LOOK_SECONDS)
                break
            if cancelled() or self._closing:
                self._end(0.0)
                raise ToolFailed("stopped")
            if time.monotonic() > limit:
                self._fail()
                raise ToolTimedOut(self._late)
            if _measure_memory(process.pid) > MOST_BYTES:
                self._fail()
                raise ToolFailed("it sent too much, and was ended")
        if not line:
            self._fail()
            raise ToolFailed("it ended")
        try:
            reply: dict[str, Any] = json.loads(line)
        except RecursionError:
            self._fail()
            raise ToolFailed("it sent JSON that is nested too deep") from None
        return reply

    def _fail(self) -> None:
        self._failures += 1
        self._end(0.0)

    def _end(self, grace_seconds: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        import psutil

        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        tree = []
        with suppress(psutil.Error):
            tree = psutil.Process(process.pid).children(recursive=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
        process.kill()
        for each in tree:
            with suppress(psutil.Error):
                each.kill()
        process.wait()


def _read(process: subprocess.Popen[bytes], lines: SimpleQueue[bytes]) -> None:
    """Hand on the lines of a process, and an empty one at its end."""
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put(b"")


def _measure_memory(pid: int) -> int:
    import psutil

    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0

"""One tab of ``etui --web``: its etui process, bounded in size, memory and time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
from textual.drivers.web_driver import WebDriver
from textual.messages import ExitApp
from textual_serve.app_service import AppService

from etui.runtime.turn_pool import LEAVE_SECONDS
from etui.text import sanitize

DRIVER = "etui.tui.web_session:TabDriver"  # Value of ``TEXTUAL_DRIVER``


class TabDriver(WebDriver):
    """Driver that leaves at the end of its input.

    Textual's stays: an app whose server was killed would run for ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write = self._write_if_read  # type: ignore[assignment]

    def run_input_thread(self) -> None:
        """Pass on the input, then leave."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._app.post_message(ExitApp())

    def _write_if_read(self, data: bytes) -> None:
        """Write, unless the server has ended: the app still has a turn to save."""
        with suppress(OSError):  # a broken pipe has another error on Windows
            os.write(self.fileno, data)


_STARTED = b"__GANGLION__\n"
_LINES_BEFORE = 10
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tab may ask of its app."""

    columns: int = 1000
    rows: int = 500
    message_bytes: int = 4 << 20
    pending_bytes: int = 8 << 20
    packet_bytes: int = 64 << 20
    error_bytes: int = 16 << 10
    resident_bytes: int = 2 << 30
    check_seconds: float = 0.5
    leave_seconds: float = 2 * LEAVE_SECONDS + 5.0  # To save its turn; the app takes less


class Session(AppService):  # type: ignore[misc] # an optional import
    """App of one tab."""

    def __init__(
        self,
        command: str,
        limits: Limits,
        *,
        write_bytes: Callable[[bytes], Awaitable[None]],
        write_str: Callable[[str], Awaitable[None]],
        download_manager: Any,
    ) -> None:
        super().__init__(
            command,
            write_bytes=write_bytes,
            write_str=write_str,
            close=self._app_has_ended,
            download_manager=download_manager,
        )
        self.done = asyncio.Event()
        self.why: str | None = None
        self._limits = limits
        self._family: psutil.Process | None = None
        self._errors: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def start(self, width: int, height: int) -> None:
        await super().start(width, height)
        with contextlib.suppress(psutil.Error):
            self._family = psutil.Process(self._process.pid)
        self._errors = asyncio.create_task(self._pass_errors_on())
        self._watch = asyncio.create_task(self._watch_memory())

    def finish(self, why: str | None = None) -> None:
        """Ask for the end of the session, because the tab did wrong or for no reason of its own."""
        if not self.done.is_set():
            self.why = why
            self.done.set()

    async def stop(self) -> None:
        """End the app: ask it to leave, and kill it if it does not."""
        if self._process is None:
            return
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    def kill(self) -> None:
        if self._family is None or self._process.returncode is not None:
            return
        members = [self._family]
        with contextlib.suppress(psutil.Error):
            members += self._family.children(recursive=True)
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.kill()

    async def run(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            if await self._has_started(stdout):
                while True:
                    kind = await stdout.readexactly(1)
                    size = int.from_bytes(await stdout.readexactly(4), "big")
                    if size > self._limits.packet_bytes:
                        self.finish(f"its app wrote {size} bytes at once")
                        return
                    await self._take(kind, await stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the app has ended, or the tab is closed
        finally:
            self.finish()

    async def send_bytes(self, data: bytes) -> bool:
        return self._send(b"D", data)

    async def send_meta(self, data: dict[str, Any]) -> bool:
        return self._send(b"M", json.dumps(data).encode())

    def _send(self, kind: bytes, payload: bytes) -> bool:
        """Send a packet without waiting: who waited would not notice that the tab is closed."""
        if self.stdin.is_closing():
            return False
        if self.stdin.transport.get_write_buffer_size() > self._limits.pending_bytes:
            self.finish("its app does not read its input")
            return False
        self.stdin.write(self.encode_packet(kind, payload))
        return True

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        environment: dict[str, str] = super()._build_environment(width, height)
        return {**environment, "TEXTUAL_DRIVER": DRIVER}

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Any:
        """Start the process, in a session of its own: the server decides what Ctrl-C means."""
        pipe = asyncio.subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_shell(
            self.command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self._build_environment(width=width, height=height),
            start_new_session=True,
        )
        self._stdin = process.stdin
        return process

    async def _has_started(self, stdout: asyncio.StreamReader) -> bool:
        with contextlib.suppress(ValueError):  # a line too long
            for _ in range(_LINES_BEFORE):
                line = await stdout.readline()
                if line == _STARTED or not line:
                    return line == _STARTED
        return False

    async def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"D":
            await self.on_data(payload)
        elif kind == b"M":
            await self.on_meta(payload)
        elif kind == b"P":
            await self.on_packed(payload)

    async def _pass_errors_on(self) -> None:
        """Write the end of the app's stderr to the server's when the app has ended."""
        kept = b""
        stderr = self._process.stderr
        assert stderr is not None
        while data := await stderr.read(_CHUNK_BYTES):
            kept = (kept + data)[-self._limits.error_bytes :]
        for line in kept.decode("utf-8", "replace").splitlines():
            sys.stderr.write(f"{sanitize(line)}\n")

    async def _watch_memory(self) -> None:
        """Kill the app if its process takes too much memory."""
        most = self._limits.resident_bytes
        with contextlib.suppress(psutil.Error):
            while self._family is not None:
                if self._family.memory_info().rss > most:
                    self.finish(f"its app took more than {most >> 20} MiB of memory")
                    self.kill()
                    return
                await asyncio.sleep(self._limits.check_seconds)

    async def _app_has_ended(self) -> None:
        self.finish()

    async def _end(self) -> None:
        """Stop the tasks of the session and the app, and wait for the process."""
        process = self._process
        assert process.stdout is not None
        try:
            await _cancel(self._task)
            await self._download_manager.cancel_app_downloads(app_service_id=self.app_service_id)
            await self._ask_to_leave()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.leave_seconds):
                    await _drain(process.stdout)  # an app that cannot write does not leave
                    await process.wait()
        finally:
            self.kill()
            await _cancel(self._watch)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.leave_seconds):
                await _drain(process.stdout)  # asyncio closes the pipes after their ends are read
                await process.wait()
                if self._errors is not None:
                    await self._errors

    async def _ask_to_leave(self) -> None:
        if sys.platform == "win32":
            await self.send_meta({"type": "quit"})
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()


def bound(value: object, default: int, least: int, most: int) -> int:
    """Return a number of the page as an integer within bounds, the default if it is none."""
    if not isinstance(value, int | float | str):
        return default
    try:
        return max(least, min(int(value), most))
    except (ValueError, OverflowError):  # NaN, infinity, a word, thousands of digits
        return default


def bound_size(width: object, height: object, limits: Limits) -> tuple[int, int]:
    """Return the size of a terminal, in columns and rows, within the limits."""
    return bound(width, 80, 2, limits.columns), bound(height, 24, 1, limits.rows)


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(_CHUNK_BYTES):
        pass

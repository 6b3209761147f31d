"""Processes with limits for what clients and files bring: killed if a request hangs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui.engine.template_sandbox import (
    LIMIT,
    MEMORY_BYTES,
    RAISED,
    SECONDS,
    SOURCE_CHARACTERS,
    LimitExceeded,
    TemplateRaised,
    describe_memory,
    read_message,
    write_message,
)
from etui.errors import EngineFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WALL_SECONDS = 20.0
"""Longest wait for a reply. The limit on CPU time is much shorter; this one is for a process that
does not run at all, and generous, because a machine can be busy."""

_LOOK_SECONDS = 0.05
_INTERPRETER_BYTES = 64_000_000
_SCRIPT = Path(__file__).with_name("template_sandbox.py")


class TemplateFailed(Exception):
    """The template raised an exception."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LimitedProcess:
    """Answers requests in a child process with limits; used from one thread at a time.

    The process is started on first use and again after it was killed. It is a ``subprocess``,
    because ``multiprocessing`` cannot start inside a running Textual app.

    Args:
        command: Python's arguments; the limits follow them.
        purpose: What it is for, in errors.
    """

    def __init__(
        self, command: Sequence[str], purpose: str, seconds: float, memory_bytes: int
    ) -> None:
        self._command = [*command, str(seconds), str(memory_bytes)]
        self._purpose = purpose
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._works = False  # it has answered

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process unless it runs, without a wait; EngineFailed if it cannot be."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        try:
            self._process = subprocess.Popen(
                # -P: a module in the user's folder must not replace one of these.
                [sys.executable, "-P", *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is handled by the parent
            )
        except OSError as error:
            raise EngineFailed(
                f"the process for {self._purpose} could not be started: {error}",
                "close other programs, and ask again",
            ) from error

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        self._works = False
        if process is not None:
            end_process(process)

    def exchange(self, request: Mapping[str, Any]) -> Any:
        """Send a request, and return the reply.

        Raises:
            LimitExceeded: It took too long or too much memory; the process was killed.
            EngineFailed: The process cannot be started.
        """
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        watch = _Watch(process, self._memory_bytes, self._seconds)
        try:
            with contextlib.suppress(OSError):  # its end is seen when reading
                write_message(process.stdin, request)
            reply = read_message(process.stdout)
        except BaseException:
            self.close()  # a later reply would be taken for that of another request
            raise
        finally:
            watch.end()
        if reply is None:
            code, works = process.wait(), self._works
            self.close()
            if code > 0 and not works:
                raise EngineFailed(
                    f"the process for {self._purpose} exited with code {code}",
                    f"see what {' '.join([sys.executable, *self._command])} prints",
                )
            raise LimitExceeded(watch.verdict or self._describe_exit(code))
        self._works = True
        return reply

    def _describe_exit(self, code: int) -> str:
        if code >= 0:
            return f"its process exited with code {code}"
        names = [known.name for known in signal.Signals if known == -code]
        if names == ["SIGPROF"]:
            return f"it ran for more than {self._seconds:g} s"
        return f"its process was killed by {names[0] if names else f'signal {-code}'}"


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that has no state to save, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class TemplateProcess(LimitedProcess):
    """Compile and render templates in a child process; used from one thread at a time."""

    def __init__(self, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        super().__init__([str(_SCRIPT)], "chat templates", seconds, memory_bytes)
        self._numbers: dict[str, int] = {}
        self._compiled: set[str] = set()  # in the running process

    def close(self) -> None:
        """End the process."""
        super().close()
        self._compiled.clear()

    def compile(self, source: str) -> None:
        """Compile a template, unless the process has done so; it raises the same as ``render``."""
        if len(source) > SOURCE_CHARACTERS:
            raise LimitExceeded(f"it has {len(source)} characters, more than {SOURCE_CHARACTERS}")
        self.start()
        if source not in self._compiled:
            self._request(source, {})

    def render(self, source: str, variables: Mapping[str, object]) -> str:
        """Render a template, which is compiled first if necessary.

        Raises:
            LimitExceeded: It exceeded a limit.
            TemplateRaised: It called ``raise_exception``.
            TemplateFailed: It is not valid, or raised another exception.
            EngineFailed: The process cannot be started.
        """
        self.compile(source)
        return self._request(source, {"variables": variables})

    def _request(self, source: str, request: dict[str, Any]) -> str:
        request["id"] = self._numbers.setdefault(source, len(self._numbers))
        if source not in self._compiled:
            request["source"] = source
        reply = self.exchange(request)
        kind = reply.get("kind")
        if kind == LIMIT:
            self.close()  # its memory may be full
            raise LimitExceeded(reply["message"])
        if kind == RAISED:
            raise TemplateRaised(reply["message"])
        if kind is not None:
            raise TemplateFailed(kind, reply["message"])
        self._compiled.add(source)
        text: str = reply["text"]
        return text


class _Watch:
    """Kill a process that takes too long or too much memory, where the kernel does not."""

    def __init__(self, process: subprocess.Popen[bytes], memory_bytes: int, seconds: float) -> None:
        self.verdict = ""
        # Windows has no timer of CPU time.
        has_timer = hasattr(signal, "setitimer")
        self._seconds = WALL_SECONDS if has_timer else min(WALL_SECONDS, 4 * seconds)
        self._process = process
        self._memory_bytes = memory_bytes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        import psutil

        last = time.monotonic() + self._seconds
        while not self._ended.wait(_LOOK_SECONDS):
            if time.monotonic() > last:
                self._kill(f"it ran for more than {self._seconds:g} s")
                return
            try:
                taken = psutil.Process(self._process.pid).memory_info().rss
            except psutil.Error:
                return  # it has ended
            if taken > self._memory_bytes + _INTERPRETER_BYTES:
                self._kill(describe_memory(self._memory_bytes))
                return

    def _kill(self, verdict: str) -> None:
        self.verdict = verdict
        self._process.kill()

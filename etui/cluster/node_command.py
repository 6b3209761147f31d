"""Run an etui command on a node, such as a calibration, and pass on what it prints.

The command is a process of its own: it measures this machine exactly as it would without a cluster,
keeps what it measured in the node's own folders, and is interrupted as by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from etui.cluster.messages import Command, Finished, Line, Message

_ERROR_LINES = 20
_MOST_FILE_BYTES = 32 << 20


@dataclass(slots=True)
class NodeCommand:
    """The command that runs on this node, if there is one."""

    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, command: Command) -> Iterator[Message]:
        """Run a command and yield the lines that it prints, and how it ended."""
        errors: deque[str] = deque(maxlen=_ERROR_LINES)
        folder: Path | None = None
        process = subprocess.Popen(
            [sys.executable, "-m", "etui.cluster.command_child", *command.words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "NO_COLOR": "1"},
        )
        with self._lock:
            self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            for line in process.stdout:
                folder = _find_folder(line) or folder
                yield Line(line.rstrip("\n"))
            code = process.wait()
            reader.join()
            files = _read_files(folder) if command.collect and folder is not None else {}
            yield Finished(code, "".join(errors), files)
        finally:
            with self._lock:
                self._process = None
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()

    def stop(self) -> None:
        """Interrupt the command, as Ctrl-C does; it keeps what it measured."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)


def _find_folder(line: str) -> Path | None:
    """Find the folder that a command says it writes to, in its line ``begun``."""
    with suppress(ValueError, TypeError, AttributeError):
        document = json.loads(line)
        if document.get("event") == "begun" and isinstance(document.get("folder"), str):
            return Path(document["folder"])
    return None


def _read_files(folder: Path) -> dict[str, str]:
    """Read the text files of a folder; hidden ones and very large ones are left out."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.stat().st_size <= _MOST_FILE_BYTES:
            found[path.name] = path.read_bytes().decode("utf-8", "surrogateescape")
    return found

"""Keep Ray from leaving anything behind: files, processes, handlers of signals, lines on stdout."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from etui.errors import EtuiError

_GRACE_SECONDS = 3.0
_PRINTS = "_worker_logs_enabled"


@contextmanager
def make_folder() -> Iterator[str]:
    """Make a folder for the files of a Ray that is started here, and remove it at the end.

    Ray removes none, and leaves the address of the last cluster in its usual folder, where it would
    replace that of a cluster of the user. The path is short, as those of sockets in it are limited
    to 107 bytes.

    Raises:
        EtuiError: There is no place for it.
    """
    above = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.name == "posix" else None)
    try:
        folder = tempfile.mkdtemp(prefix="etui-ray-", dir=above)
    except OSError as error:
        raise EtuiError(
            f"cannot make a folder for Ray in {above}: {error.strerror or error}",
            "set RAY_TMPDIR to a folder with a short path that can be written",
        ) from error
    try:
        yield str(Path(folder) / "ray")  # Ray lets every user write to its own folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def end_processes(ray: Any) -> Iterator[None]:
    """Shut Ray down at the end, and end the processes of it that were started and stay behind.

    The agents of a raylet that is interrupted while it starts would stay for a minute.
    """
    import psutil

    here = psutil.Process()
    before = set(here.children(recursive=True))
    package = str(Path(ray.__file__).parent)

    def is_ray(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            return words.startswith("ray::") or package in words
        return False

    try:
        yield
    finally:
        started = [each for each in here.children(recursive=True) if each not in before]
        started = [each for each in started if is_ray(each)]
        ray.shutdown()
        _, left = psutil.wait_procs(started, _GRACE_SECONDS)
        for process in left:
            with suppress(psutil.Error):
                process.kill()


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold a first Ctrl-C back while the body connects, and keep our handler of SIGTERM.

    Ray crashes in its C++ part where Ctrl-C interrupts it, and replaces the handler of SIGTERM.

    Raises:
        KeyboardInterrupt: What our handler of Ctrl-C raises, after the body.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ours = before[signal.SIGINT]
    if held and callable(ours):
        ours(signal.SIGINT, None)


@contextmanager
def keep_stdout_clean() -> Iterator[None]:
    """Keep a thread of Ray from printing the deaths of workers into our standard output.

    The driver says them with the name of the node. Ray has no public switch: ``log_to_driver`` and
    the level of its logger leave these lines.
    """
    worker = importlib.import_module("ray._private.worker")
    before = getattr(worker, _PRINTS, True)
    setattr(worker, _PRINTS, False)
    try:
        yield
    finally:
        setattr(worker, _PRINTS, before)

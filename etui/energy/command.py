"""Run a command in the foreground, as ``time`` does, and take what it costs.

The command is in etui's own process group, so the terminal's signals (Ctrl-C, Ctrl-Z, a new size, a
hang-up) reach it from the kernel, and pipelines keep working. Signals that a process sends to etui
alone are handed on. When the command stops, etui stops, so that the shell sees a stopped job.

CPU time is that of the command and all its descendants. On Linux etui adopts descendants whose
parents have ended (``PR_SET_CHILD_SUBREAPER``), so daemons are counted too, wherever their session
is. Work that another service does for the command (a container engine, ``systemd-run``, a compiler
cache that runs already) is not.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from etui.energy.recorder import Recorder
from etui.energy.scopes import family
from etui.energy.sharing import (
    CpuUse,
    GpuShare,
    compute_cpu_share,
    divide,
    is_own_process,
    read_cpu_seconds,
)
from etui.energy.types import ChannelEnergy, Energy

NOT_EXECUTABLE, NOT_FOUND, OF_SIGNAL = 126, 127, 128
"""Exit codes of shells: of a command that cannot be executed, that is not there, and what is added
to the number of the signal that ended it."""
_ENDING = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP")
"""Signals after which no further command is started."""
_HANDED_ON = (*_ENDING, "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTSTP", "SIGCONT", "SIGWINCH")
_SET_CHILD_SUBREAPER = 36  # prctl(2)
_WAKE = getattr(signal, "SIGUSR1", 0)  # Ends the thread that hands signals on
_UNBLOCKED = ("SIGPIPE", "SIGXFSZ")  # Python ignores them; a command expects their default


class CommandFailed(Exception):
    """A command that cannot be started; its exit code is that of a shell, 126 or 127."""

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class CommandRun:
    """One run of a command, and what it cost."""

    exit_code: int  # As a shell gives it: 128 and the number of the signal that ended it
    energy: Energy  # From its start to its end
    cpu_seconds: float | None  # Of it and its descendants; None where the system does not say
    cpu_share: float | None  # Its part of the CPU time in use, 0..1
    own_joules: float | None
    """Its joules where other programs used the machine too: energy above idle times its share of
    CPU or SM time, an approximation; None if nothing was shared, or its part is unknown."""
    shared: bool  # Whether other programs used the CPUs or a GPU
    left_running: int  # Descendants that run on


class Foreground:
    """Starts commands and hands signals on to them; enter it before any thread starts."""

    def __init__(self) -> None:
        self.interrupted = 0  # Number of the last signal that asks to end; 0 without one
        self._lock = threading.Lock()
        self._child = 0
        self._unsent = 0  # Signal that asked to end while no command ran
        self._mask: Iterable[Any] = ()
        self._done = False
        self._relay: threading.Thread | None = None

    def __enter__(self) -> Self:
        if sys.platform != "win32":
            _adopt_descendants(True)
            if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nothing can be waited for
            given = {getattr(signal, name) for name in _HANDED_ON}
            # What is ignored (by nohup) stays so, for the command too.
            watched = {one for one in given if signal.getsignal(one) is not signal.SIG_IGN}
            watched.add(_WAKE)
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
            self._relay = threading.Thread(target=self._hand_on, args=(watched,), daemon=True)
            self._relay.start()
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32" and self._relay is not None:
            self._done = True
            signal.pthread_kill(self._relay.ident or 0, _WAKE)
            self._relay.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            _adopt_descendants(False)

    def run(self, words: Sequence[str]) -> int:
        """Run a command to its end; return its exit code. CommandFailed if it cannot be started."""
        try:
            if sys.platform == "win32":
                return _run_on_windows(words)
            with self._lock:  # a signal that comes meanwhile waits for the command
                self._child = child = self._start(words)
                if self._unsent:
                    os.kill(child, self._unsent)
        except OSError as error:
            what = f"{words[0]}: {error.strerror or error}"
            missing = isinstance(error, FileNotFoundError)
            raise CommandFailed(what, NOT_FOUND if missing else NOT_EXECUTABLE) from error
        try:
            return self._wait()
        finally:
            self._child = 0

    def _start(self, words: Sequence[str]) -> int:
        def spawn(words: Sequence[str]) -> int:
            defaults = [getattr(signal, name) for name in _UNBLOCKED]
            return os.posix_spawnp(
                words[0], list(words), os.environ, setsigmask=self._mask, setsigdef=defaults
            )

        try:
            return spawn(words)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            import shutil  # which loads compressors

            script = shutil.which(words[0]) or words[0]
            return spawn(["/bin/sh", script, *words[1:]])  # it has no #!; shells do the same

    def _wait(self) -> int:
        while True:
            pid, status = os.waitpid(-1, os.WUNTRACED)
            if pid != self._child:
                continue
            if not os.WIFSTOPPED(status):
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else OF_SIGNAL - code
            os.kill(os.getpid(), signal.SIGSTOP)  # until the shell continues the whole job

    def _hand_on(self, watched: set[signal.Signals]) -> None:
        """Hand on what a process sends to etui; the terminal's signals reach the command as well.

        A command that ends its whole process group has sent itself the signal already.
        """
        while True:
            number, sender = _wait_signal(watched)
            if self._done:
                return
            ends = number in (getattr(signal, name) for name in _ENDING)
            if ends:
                self.interrupted = number
            with self._lock:
                if not self._child:
                    self._unsent = number if ends else self._unsent
                elif sender is not None and not (sender and is_own_process(sender)):
                    with suppress(ProcessLookupError):
                        os.kill(self._child, number)


def _wait_signal(watched: set[signal.Signals]) -> tuple[int, int | None]:
    """Wait for a signal; return it with the process that sent it, None for the terminal.

    macOS does not say who sent it (0): there, the terminal's signals are taken to be from it
    while etui is in the foreground.
    """
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(watched)
        return info.si_signo, info.si_pid if info.si_code <= 0 else None
    number = signal.sigwait(watched)  # type: ignore[unreachable,unused-ignore]
    of_terminal = ("SIGINT", "SIGQUIT", "SIGTSTP", "SIGWINCH", "SIGHUP")
    with suppress(OSError):
        if number in (getattr(signal, name) for name in of_terminal):
            return number, None if os.tcgetpgrp(0) == os.getpgrp() else 0
    return number, 0


def _adopt_descendants(on: bool) -> None:
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _run_on_windows(words: Sequence[str]) -> int:
    import subprocess

    with subprocess.Popen(words) as process:
        while True:
            with suppress(KeyboardInterrupt):  # the console sends Ctrl-C to the command too
                return process.wait()


def read_descendants_seconds() -> tuple[float | None, int]:
    """Read the CPU seconds of all descendants so far, and how many of them run.

    Only differences of the seconds are meaningful; they are None on Windows.
    """
    if sys.platform == "win32":
        return None, 0
    import resource

    import psutil

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, running = ended.ru_utime + ended.ru_stime, 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            running += process.status() != psutil.STATUS_ZOMBIE
            seconds += times.user + times.system
            seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return seconds, running


def measure_command(
    words: Sequence[str],
    recorder: Recorder,
    foreground: Foreground,
    clock: Callable[[], int] = time.monotonic_ns,
) -> CommandRun:
    """Run a command and take its energy; CommandFailed if it cannot be started."""
    recorder.settle(clock())
    before, _ = read_descendants_seconds()
    first = read_cpu_seconds()
    start_ns = clock()
    recorder.mark(start_ns)
    exit_code = foreground.run(words)
    end_ns = clock()
    last = read_cpu_seconds()
    recorder.mark(end_ns)
    _reap_adopted()
    after, left_running = read_descendants_seconds()
    recorder.settle(end_ns)
    energy = recorder.energy(start_ns, end_ns)
    used = None if before is None or after is None else max(after - before, 0.0)
    cpus, share = GpuShare(False, None), None
    if used is not None:
        uses = [CpuUse(start_ns, 0.0, *first), CpuUse(end_ns, used, *last)]
        cpus = compute_cpu_share(uses, start_ns, end_ns)
        busy = last[0] - first[0]
        share = min(used / busy, 1.0) if busy > 0 else None

    scopes = {channel.id: channel.scope for channel in recorder.channels}

    def share_of(part: ChannelEnergy) -> GpuShare | None:
        if family(scopes[part.id]) not in ("gpu", "module"):
            return cpus
        watch = recorder.watch
        return watch.share(scopes[part.id], start_ns, end_ns) if watch is not None else None

    shared, own = divide(energy.channels, share_of, recorder.idle_by_channel, energy.seconds)
    return CommandRun(exit_code, energy, used, share, own, shared, left_running)


def _reap_adopted() -> None:
    """Take the CPU time of adopted processes that have ended meanwhile."""
    with suppress(AttributeError, ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass

"""Hide from a Python on Linux what Python lacks on Windows or macOS.

Only what is missing is simulated: no path, file lock, console or process of another system.
``python -m tests.support.platforms windows|macos`` imports every module of etui so.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import pkgutil
import platform
import signal
import socket
import subprocess
import sys
import time
from types import ModuleType

import psutil

# The standard library and other packages choose by these names what they do, as they are imported.
_FIRST = (
    *("filelock", "multiprocessing.connection", "numpy", "platformdirs.unix"),
    *("tempfile", "webbrowser"),
)
for _name in _FIRST:
    importlib.import_module(_name)
platform.uname()

_POSIX_MODULES = (
    *("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "spwd", "syslog", "crypt"),
    *("readline", "curses", "nis", "posix"),
)
_SIGNALS = {"SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV"}
_SIGNAL_FUNCTIONS = (
    *("alarm", "getitimer", "pause", "pthread_kill", "pthread_sigmask", "setitimer"),
    *("siginterrupt", "sigpending", "sigtimedwait", "sigwait", "sigwaitinfo"),
    *("ITIMER_PROF", "ITIMER_REAL", "ITIMER_VIRTUAL"),
)
_OS_NAMES = (
    *("chown", "chroot", "confstr", "ctermid", "environb", "fchdir", "fchmod", "fchown", "fork"),
    *("forkpty", "fpathconf", "fstatvfs", "getegid", "geteuid", "getgid", "getgroups"),
    *("getloadavg", "getpgid", "getpgrp", "getpriority", "getresuid", "getsid", "getuid"),
    *("getxattr", "killpg", "lchown", "listxattr", "lockf", "major", "makedev", "mkfifo", "mknod"),
    *("nice", "openpty", "pathconf", "pipe2", "posix_fadvise", "posix_fallocate", "posix_spawn"),
    *("pread", "preadv", "pwrite", "readv", "sendfile", "set_blocking", "setgid", "setpgid"),
    *("setpriority", "setsid", "setuid", "setxattr", "statvfs", "sync", "sysconf", "tcgetpgrp"),
    *("ttyname", "uname", "wait", "wait3", "wait4", "waitid", "writev", "O_CLOEXEC"),
    *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "sched_getaffinity"),
    *("sched_setaffinity", "sched_yield", "memfd_create", "eventfd", "splice"),
)
_LINUX_OS_NAMES = (
    *("sched_getaffinity", "sched_setaffinity", "pipe2", "posix_fadvise", "posix_fallocate"),
    *("memfd_create", "eventfd", "splice", "copy_file_range", "getrandom", "getxattr"),
    *("listxattr", "setxattr", "fdatasync", "getresuid", "O_DIRECT", "O_PATH"),
)
_TICK_NS = 15_625_000
"""The step of ``time.monotonic`` on Windows up to Python 3.12."""


def hide(system: str) -> None:
    """Hide what Python lacks on ``windows`` or ``macos``, and ``/proc``."""
    if system == "windows":
        for name in _POSIX_MODULES:
            sys.modules[name] = None  # type: ignore[assignment]
        others = [name for name in dir(signal) if name.startswith("SIG") and name.isalnum()]
        _drop(signal, *(name for name in others if name not in _SIGNALS), *_SIGNAL_FUNCTIONS)
        _drop(os, *_OS_NAMES)
        pair = functools.partial(socket.socketpair, socket.AF_UNIX)
        socket.socketpair = pair  # type: ignore[assignment]
        _drop(socket, "AF_UNIX")
        _drop(time, *(name for name in dir(time) if "clock_get" in name or name.startswith("CLO")))
        precise = time.monotonic_ns
        time.monotonic_ns = lambda: precise() // _TICK_NS * _TICK_NS
        time.monotonic = lambda: time.monotonic_ns() / 1e9
        # As the event loops of Windows: NotImplementedError.
        asyncio.SelectorEventLoop.add_signal_handler = asyncio.AbstractEventLoop.add_signal_handler
        cpus = os.cpu_count()
        psutil._psplatform.cpu_count_logical = lambda: cpus
        subprocess.Popen.kill = lambda self: self.send_signal(9)  # type: ignore[method-assign]
    else:
        _drop(os, *_LINUX_OS_NAMES)
        _drop(signal, "SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGPOLL", "SIGSTKFLT")
        _drop(signal, "sigwaitinfo", "sigtimedwait")
        _drop(time, "CLOCK_BOOTTIME", "CLOCK_MONOTONIC_COARSE")
    sys.addaudithook(_refuse_proc)


def import_all() -> list[str]:
    """Import every module of etui, with those that need an extra, and return their names."""
    imported = []
    for found in pkgutil.walk_packages(importlib.import_module("etui").__path__, "etui."):
        if found.name.endswith("__main__"):
            continue
        importlib.import_module(found.name)
        imported.append(found.name)
    return imported


def _drop(module: ModuleType, *names: str) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def _refuse_proc(event: str, arguments: tuple[object, ...]) -> None:
    """Let only psutil, which has other ways elsewhere, open a file of ``/proc``."""
    if event != "open" or not str(arguments[0]).startswith(("/proc/", "/sys/")):
        return
    frame = sys._getframe()
    while frame is not None:
        if "psutil" in frame.f_code.co_filename:
            return
        frame = frame.f_back  # type: ignore[assignment]
    raise FileNotFoundError(2, "hidden", str(arguments[0]))


def main(system: str) -> None:
    """Import every module twice: with the packages that they need, and then as on ``system``."""
    before = import_all()
    for name in [name for name in sys.modules if name.partition(".")[0] == "etui"]:
        del sys.modules[name]
    hide(system)
    sys.platform = "win32" if system == "windows" else "darwin"
    assert import_all() == before
    print(len(before))


if __name__ == "__main__":
    main(sys.argv[1])

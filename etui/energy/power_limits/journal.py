"""The journal of changed power limits: what to restore, written before the first change.

It is a file in ``ETUI_HOME``, replaced atomically and flushed to the disk with its folder, so that
it survives ``kill -9`` and a power cut. A lock file next to it is locked while a hold or a
restoring start works; the kernel drops the lock with the process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from etui.atomic import write_text
from etui.codec import DocumentError, from_document, to_document
from etui.config.config import Config
from etui.energy.power_limits.limit import Setter
from etui.owner import Owner, find_owner

VERSION = 1


@dataclass(frozen=True, slots=True)
class Journal(Owner):
    """The journal of one hold."""

    version: int
    created: str  # Local time, ISO 8601 with offset
    zeusd_socket: str  # Socket of the zeusd that set the limits; empty without
    limits: tuple[JournalEntry, ...]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One changed value."""

    scope: str
    label: str
    knob: str
    found_watts: float  # The value before the first change
    set_watts: float | None  # The value read back after the last change; None before the first one
    is_pending: bool  # Whether a change was in progress when the journal was written
    setter: Setter  # Who could set it then
    command: str  # The command with which a user restores it


class DamagedJournal(Exception):
    """A journal that cannot be understood."""


class JournalBusy(Exception):
    """Another etui holds power limits or restores them now."""


def new_journal(limits: tuple[JournalEntry, ...], zeusd_socket: str = "") -> Journal:
    """Make the journal of this process."""
    return Journal(
        **asdict(find_owner()),
        version=VERSION,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        zeusd_socket=zeusd_socket,
        limits=limits,
    )


def write_journal(path: Path, journal: Journal) -> None:
    """Write the journal, and wait until it is on the disk; on an OSError the old one is kept."""
    text = json.dumps(to_document(journal), indent=2, ensure_ascii=False) + "\n"
    write_text(path, text, errors="replace")
    sync_folder(path.parent)


def read_journal(path: Path) -> Journal:
    """Read the journal; OSError if that fails, DamagedJournal if it is none of this version."""
    try:
        journal = from_document(Journal, json.loads(path.read_bytes()), extra="ignore")
    except (ValueError, RecursionError, DocumentError) as error:
        raise DamagedJournal(str(error)) from error
    if journal.version != VERSION:
        raise DamagedJournal(f"version {journal.version} is unknown")
    if any(not 0 < entry.found_watts < 1e6 for entry in journal.limits):
        raise DamagedJournal("a limit in it is not a power")
    return journal


def remove_journal(path: Path) -> None:
    """Remove the journal, and what an interrupted write has left; OSError if that fails."""
    path.unlink(missing_ok=True)
    for rest in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            rest.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a new name in it survives a power cut."""
    with suppress(OSError):  # Windows and some network file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def guard(config: Config) -> Iterator[None]:
    """Have a process beside this one that restores what is in the journal if this one is killed.

    It is in a session of its own, so that a kill of the group, Ctrl-C and the end of the terminal
    do not reach it. No other process has its pipe, because etui forks none. OSError if it cannot
    be started.
    """
    import subprocess

    script = Path(__file__).with_name("_guard.py")
    # The modules of this process, also where an editable installation has added them.
    paths = [str(script.parents[3]), *map(os.path.abspath, sys.path)]
    folders = [str(config.home.absolute()), str(config.sysfs_dir.absolute())]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", script, *folders, *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=os.path.abspath(os.sep),
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # of Windows
    )
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):  # it was killed itself
            process.communicate(b".", timeout=10)


@contextmanager
def lock_journal(config: Config) -> Iterator[None]:
    """Hold the lock of the journal, and that of the limits of this machine.

    The limits are one for all users and all ``ETUI_HOME``, so a lock in a folder does not do.
    JournalBusy if another process, or another hold of this one, has one of them; OSError if the
    lock file cannot be opened.
    """
    from filelock import FileLock, Timeout

    # Not thread-local: a hold may be left in another thread than it was entered.
    lock = FileLock(config.power_limits_file.with_suffix(".lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as timeout:
        raise JournalBusy from timeout
    except NotImplementedError as error:  # a file system without locks
        raise OSError(str(error)) from error
    try:
        with _lock_machine(config):
            yield
    finally:
        lock.release()


@contextmanager
def _lock_machine(config: Config) -> Iterator[None]:
    """Hold an abstract Unix socket, whose name the kernel drops with the process; Linux only."""
    if not sys.platform.startswith("linux"):
        yield
        return
    root = hashlib.sha256(os.fsencode(config.sysfs_dir.resolve())).hexdigest()[:16]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as name:
        try:
            name.bind(f"\0etui-power-limits-{root}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise JournalBusy from error
        yield

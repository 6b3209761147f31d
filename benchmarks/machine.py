"""The commit and the machine that figures belong to."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from etui.config.config import load_config, make_home
from etui.config.machine import processor_name
from etui.engine.library import Library
from etui.errors import EngineFailed
from etui.runtime.provenance import package_version

PACKAGES = ("textual", "llama-cpp-python", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware and software of a run.

    Attributes:
        cpu: Model of the processor.
        cores: Logical cores.
        ram_gib: Memory, whole GiB.
        gpus: GPUs that llama.cpp puts models on.
        os: Name and release of the system.
        python: Version of Python.
        packages: Name -> version, None where it is not installed.
    """

    cpu: str
    cores: int
    ram_gib: int
    gpus: tuple[str, ...]
    os: str
    python: str
    packages: dict[str, str | None]

    def same_hardware(self, other: Machine) -> bool:
        """Return whether absolute figures of both compare; a new system or package still does."""
        mine, theirs = ((one.cpu, one.cores, one.ram_gib, tuple(one.gpus)) for one in (self, other))
        return mine == theirs


def this_machine() -> Machine:
    """Describe the machine and what runs on it."""
    return Machine(
        cpu=processor_name(),
        cores=psutil.cpu_count() or 1,
        ram_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=_gpus(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: package_version(name) for name in PACKAGES},
    )


def commit_of(folder: Path) -> tuple[str | None, bool]:
    """Return the commit of a checkout and whether files differ from it; None without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        places = (":(top)", ":(top,exclude)benchmarks/history.jsonl")  # a record is no change
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *places)
        return commit, bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None, False


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _gpus() -> tuple[str, ...]:
    config = load_config()
    make_home(config)
    try:
        library = Library(config.log_dir)
    except EngineFailed:
        return ()
    try:
        return tuple(gpu.description for gpu in library.gpus())
    finally:
        library.close()

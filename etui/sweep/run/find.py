"""Folders of sweeps, and the names of the files in them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.store.find import find_folder, list_folders, make_id
from etui.bench.store.sealed_folder import CONFIG as CONFIG

if TYPE_CHECKING:
    from etui.config.config import Config

BLOCKS = "blocks.jsonl"
ANSWERS = "answers.jsonl"
POWER = "power.jsonl"
RESULT = "result.json"
REPORT = "report.html"
RECORDING = "recorded.json"
"""The answers that every setting computes again."""
SEAL = "blocks.seal"


def sweeps_dir(config: Config) -> Path:
    """Return the default folder of sweeps."""
    return config.home / "sweeps"


def new_sweep_id(model: str, now: datetime) -> str:
    """Make an id like ``20260131-142530-smollm2-135m-3f9a``; ids sort by time."""
    return make_id(model[:60], now)


def list_sweeps(config: Config) -> tuple[Path, ...]:
    """List the folders of all sweeps in the default folder, the oldest first."""
    return list_folders(sweeps_dir(config))


def find_sweep(text: str, config: Config) -> Path:
    """Find the folder of a sweep by its path, its id or a prefix of it; ``last`` is the newest.

    Raises:
        UsageError: No sweep matches, or several do.
    """
    return find_folder(text, sweeps_dir(config), "sweep")

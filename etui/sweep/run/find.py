"""Folders and names of sweeps."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import UsageError
from etui.sweep.run.recorded_sweep import CONFIG

if TYPE_CHECKING:
    from etui.config.config import Config


def sweeps_dir(config: Config) -> Path:
    """Return the default folder of sweeps."""
    return config.home / "sweeps"


def new_sweep_id(model: str, now: datetime) -> str:
    """Make an id like ``20260131-142530-smollm2-135m-3f9a``; ids sort by time."""
    stem = f"{now:%Y%m%d-%H%M%S}-{model[:60]}-{secrets.token_hex(2)}"
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in stem)


def list_sweeps(config: Config) -> tuple[Path, ...]:
    """List the folders of all sweeps in the default folder, the oldest first."""
    return tuple(sorted(path.parent for path in sweeps_dir(config).glob(f"*/{CONFIG}")))


def find_sweep(text: str, config: Config) -> Path:
    """Find the folder of a sweep by its path, its id or a prefix of it; ``last`` is the newest.

    Raises:
        UsageError: No sweep matches, or several do.
    """
    given = Path(text).expanduser()
    if text and (given / CONFIG).is_file():
        return given
    place = sweeps_dir(config)
    known = [folder.name for folder in list_sweeps(config)]
    if text == "last" and known:
        return place / known[-1]
    found = [name for name in known if text and name.startswith(text)]
    if len(found) == 1:
        return place / found[0]
    if found:
        raise UsageError(
            f"{len(found)} sweeps start with {text!r}", f"use one of: {', '.join(found)}"
        )
    newest = f"; the newest is {known[-1]}" if known else ""
    raise UsageError(f"there is no sweep {text!r}", f"sweeps are in {place}{newest}")

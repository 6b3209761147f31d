"""Folders and names of runs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.store.sealed_folder import CONFIG
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.config.config import Config


def runs_dir(config: Config) -> Path:
    """Return the default folder of runs."""
    return config.home / "runs"


def new_run_id(suite: str, format_name: str, names: Sequence[str], now: datetime) -> str:
    """Make an id like ``20260131-142530-mmlu-letters-smollm2-135m-3f9a``; ids sort by time."""
    what = names[0] if len(names) == 1 else f"{len(names)}-arms"
    return make_id(f"{suite}-{format_name}-{what}", now)


def make_id(what: str, now: datetime) -> str:
    """Make the name of a folder from the time, what is in it, and a random part."""
    stem = f"{now:%Y%m%d-%H%M%S}-{what}-{secrets.token_hex(2)}"
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in stem)


def find_run(text: str, config: Config) -> Path:
    """Find the folder of a run by its path, its id or a prefix of it; ``last`` is the newest.

    Raises:
        UsageError: No run matches, or several do.
    """
    return find_folder(text, runs_dir(config), "run")


def list_folders(place: Path) -> tuple[Path, ...]:
    """List the folders in a place that have a configuration, the oldest first."""
    return tuple(sorted(path.parent for path in place.glob(f"*/{CONFIG}")))


def find_folder(text: str, place: Path, noun: str) -> Path:
    """Find a folder by its path, its name or a prefix of it; ``last`` is the newest.

    Args:
        text: What the user gives.
        noun: What is in each: ``run``.

    Raises:
        UsageError: None matches, or several do.
    """
    given = Path(text).expanduser()
    if text and (given / CONFIG).is_file():
        return given
    known = [folder.name for folder in list_folders(place)]
    if text == "last" and known:
        return place / known[-1]
    found = [name for name in known if text and name.startswith(text)]
    if len(found) == 1:
        return place / found[0]
    if found:
        raise UsageError(
            f"{len(found)} {noun}s start with {text!r}", f"use one of: {', '.join(found)}"
        )
    newest = f"; the newest is {known[-1]}" if known else ", and there are none"
    raise UsageError(f"there is no {noun} {text!r}", f"{noun}s are in {place}{newest}")

"""Folders and names of runs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.store.run_folder import CONFIG
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.config.config import Config


def runs_dir(config: Config) -> Path:
    """Return the default folder of runs."""
    return config.home / "runs"


def new_run_id(suite: str, format_name: str, names: Sequence[str], now: datetime) -> str:
    """Make an id like ``20260131-142530-mmlu-letters-smollm2-135m-3f9a``; ids sort by time."""
    what = names[0] if len(names) == 1 else f"{len(names)}-arms"
    stem = f"{now:%Y%m%d-%H%M%S}-{suite}-{format_name}-{what}-{secrets.token_hex(2)}"
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in stem)


def find_run(text: str, config: Config) -> Path:
    """Find the folder of a run by its path, its id or a prefix of it; ``last`` is the newest.

    Raises:
        UsageError: No run matches, or several do.
    """
    given = Path(text).expanduser()
    if (given / CONFIG).is_file():
        return given
    place = runs_dir(config)
    known = sorted(path.parent.name for path in place.glob(f"*/{CONFIG}"))
    if text == "last" and known:
        return place / known[-1]
    found = [name for name in known if name.startswith(text)]
    if len(found) == 1:
        return place / found[0]
    if found:
        raise UsageError(
            f"{len(found)} runs start with {text!r}", f"use one of: {', '.join(found)}"
        )
    newest = f"; the newest is {known[-1]}" if known else ""
    raise UsageError(f"there is no run {text!r}", f"runs are in {place}{newest}")

"""Folders and names of runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from etui.measure.folder import find_folder, make_id

if TYPE_CHECKING:
    from etui.config.config import Config


def runs_dir(config: Config) -> Path:
    """Return the default folder of runs."""
    return config.home / "runs"


def new_run_id(suite: str, format_name: str, names: Sequence[str], now: datetime) -> str:
    """Make an id like ``20260131-142530-mmlu-letters-smollm2-135m-3f9a``; ids sort by time."""
    what = names[0] if len(names) == 1 else f"{len(names)}-arms"
    return make_id(f"{suite}-{format_name}-{what}", now)


def find_run(text: str, config: Config) -> Path:
    """Find the folder of a run by its path, its id or a prefix of it; ``last`` is the newest.

    Raises:
        UsageError: No run matches, or several do.
    """
    return find_folder(text, runs_dir(config), "run")

"""Separate policies from runs in the arguments of ``policy fit`` and ``policy replay``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.config.config import Config


def split_names(
    names: Sequence[str], runs: Sequence[str], config: Config
) -> tuple[list[str], list[Path]]:
    """Split arguments into names of policies and folders of runs.

    With ``--runs A``, further runs may follow as plain arguments.

    Raises:
        UsageError: A run does not exist.
    """
    from etui.bench.folder import find_run, runs_dir
    from etui.measure.folder import CONFIG

    policies: list[str] = []
    further: list[str] = []
    for name in names:
        places = (Path(name), runs_dir(config) / name)
        is_run = bool(runs) and any((place / CONFIG).is_file() for place in places)
        (further if is_run else policies).append(name)
    return policies, [find_run(run, config) for run in (*runs, *further)]

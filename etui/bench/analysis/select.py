"""Selection of runs and arms on the command line: ``RUN``, ``RUN:ARM``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.analysis.comparable import System, build_labels
from etui.bench.analysis.summary import group_by_system
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.bench.store.run_folder import Recorded
    from etui.bench.store.sample import Sample
    from etui.config.config import Config


def split_arm(text: str) -> tuple[str, str | None]:
    """Split into run and arm; the name of an existing folder is not split at colons."""
    if Path(text).is_dir():
        return text, None
    run, colon, arm = text.rpartition(":")
    return (run, arm) if colon and arm and run else (text, None)


def read_systems(texts: Sequence[str], config: Config) -> tuple[list[list[System]], list[str]]:
    """Read the systems of some runs, and notes about the runs.

    A run without an arm selects all its arms, or the policy of a policy run.

    Args:
        texts: Folders or ids of runs, with or without an arm.

    Raises:
        UsageError: A run has no such arm, or no answers.
        EtuiError: A folder is not a run.
    """
    from etui.bench.store.find import find_run
    from etui.bench.store.run_folder import read_run

    found: list[list[tuple[Recorded, str, str, list[Sample]]]] = []
    notes: list[str] = []
    for text in texts:
        named, arm = split_arm(text)
        folder = find_run(named, config)
        recorded = read_run(folder)
        grouped = group_by_system(recorded.samples, recorded.config)
        if recorded.edited:
            notes.append(f"{folder} was changed outside etui: {'; '.join(recorded.edited)}")
        if arm is not None and arm not in grouped:
            raise UsageError(
                f"{folder} has no answers from arm {arm!r}",
                f"available arms: {', '.join(grouped) or 'none'}",
            )
        if not grouped:
            raise UsageError(f"{folder} has no answers yet", "resume it with --resume")
        selected = {arm: grouped[arm]} if arm is not None else grouped
        found.append([(recorded, folder.name, name, inside) for name, inside in selected.items()])
    flat = [entry for entries in found for entry in entries]
    labels = iter(build_labels([(folder, name) for _, folder, name, _ in flat]))
    made = [
        [
            System(next(labels), name, recorded.config, inside)
            for recorded, _, name, inside in entries
        ]
        for entries in found
    ]
    return made, notes


def choose_pairs(runs: Sequence[Sequence[System]]) -> list[tuple[System, System]]:
    """Choose the pairs of systems to compare.

    Every system is compared with the first one. If several runs have the same arms (more than one),
    each arm is compared with its namesake in the first run.

    Raises:
        UsageError: There is only one system.
    """
    first, *others = runs
    arms = [[system.name for system in run] for run in runs]
    if others and len(first) > 1 and all(names == arms[0] for names in arms):
        return [pair for run in others for pair in zip(first, run, strict=True)]
    every = [system for run in runs for system in run]
    if len(every) < 2:
        raise UsageError(
            "there is only one arm to compare",
            "add a second run, or select a run with several arms: etui bench compare A B",
        )
    return [(every[0], other) for other in every[1:]]

"""Runs and arms as a command line names them: ``RUN``, ``RUN:ARM``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.analysis.comparable import System, labels_of
from etui.bench.analysis.summary import systems
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.bench.store.run_folder import Recorded
    from etui.bench.store.sample import Sample
    from etui.config.config import Config


def split_arm(text: str) -> tuple[str, str | None]:
    """The run and the arm; a folder that exists is taken as a whole, colons and all."""
    if Path(text).is_dir():
        return text, None
    run, colon, arm = text.rpartition(":")
    return (run, arm) if colon and arm and run else (text, None)


def read_systems(texts: Sequence[str], config: Config) -> tuple[list[list[System]], list[str]]:
    """The contenders of each run named, and notes on what was found.

    A run named without an arm gives all its arms; of a policy's run the policy.

    Args:
        texts: Folders or ids of runs, with or without an arm.
        config: Names the folder of the runs.

    Raises:
        UsageError: A run has no such arm, or no answers.
        EtuiError: A folder is no run.
    """
    from etui.bench.store.find import find_run
    from etui.bench.store.run_folder import read_run

    found: list[list[tuple[Recorded, str, str, list[Sample]]]] = []
    notes: list[str] = []
    for text in texts:
        named, arm = split_arm(text)
        folder = find_run(named, config)
        recorded = read_run(folder)
        grouped = systems(recorded.samples, recorded.config)
        if recorded.edited:
            notes.append(f"{folder} was changed outside etui: {'; '.join(recorded.edited)}")
        if arm is not None and arm not in grouped:
            raise UsageError(
                f"{folder} has no answers of an arm {arm!r}",
                f"it has: {', '.join(grouped) or 'none'}",
            )
        if not grouped:
            raise UsageError(f"{folder} has no answers yet", "go on with it: --resume")
        wanted = {arm: grouped[arm]} if arm is not None else grouped
        found.append([(recorded, folder.name, name, inside) for name, inside in wanted.items()])
    flat = [entry for entries in found for entry in entries]
    labels = iter(labels_of([(folder, name) for _, folder, name, _ in flat]))
    made = [
        [
            System(next(labels), name, recorded.config, inside)
            for recorded, _, name, inside in entries
        ]
        for entries in found
    ]
    return made, notes


def pairs_of(runs: Sequence[Sequence[System]]) -> list[tuple[System, System]]:
    """Which contenders are held against which.

    All against the first one; but where several runs have the same several arms, each arm against
    its namesake in the first run.

    Raises:
        UsageError: There is only one contender.
    """
    first, *others = runs
    arms = [[contender.name for contender in run] for run in runs]
    if others and len(first) > 1 and all(names == arms[0] for names in arms):
        return [pair for run in others for pair in zip(first, run, strict=True)]
    every = [contender for run in runs for contender in run]
    if len(every) < 2:
        raise UsageError(
            "there is only one arm to compare",
            "name a second run, or a run of several arms: etui bench compare A B",
        )
    return [(every[0], other) for other in every[1:]]

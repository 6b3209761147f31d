"""Figures of one stage of a sweep: costs of the settings, and their differences to the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.stats.tests import Interval
from etui.sweep.analysis.costs import (
    decode_joules_per_token,
    joules,
    prefill_joules_per_token,
    seconds,
)
from etui.sweep.analysis.differences import (
    LogDifference,
    add_meter_uncertainty,
    compare_in_race,
    compare_with_baseline,
    estimate_costs,
    estimate_race_costs,
    read_meter_uncertainty,
)
from etui.sweep.analysis.floor import SweepRepeatability
from etui.sweep.blocks import Block, Figure

Name = tuple[str, str]
"""``joules`` or ``seconds``, and the key of a setting."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Figures of one stage, by the keys of the settings.

    Attributes:
        joules, seconds: Cost of one answer.
        prefill, decode: Joules per token.
    """

    name: Literal["race", "confirm"]
    blocks: tuple[Block, ...]
    joules: Mapping[str, Interval]
    seconds: Mapping[str, Interval]
    prefill: Mapping[str, Interval]
    decode: Mapping[str, Interval]
    differences: Mapping[Name, LogDifference]  # Differences to the baseline that are not judged yet

    def count(self, key: str) -> int:
        """Count the blocks that a setting was measured in."""
        return sum(any(visit.setting == key for visit in block.visits) for block in self.blocks)

    def choose(self, stages: Mapping[str, StageFigures]) -> dict[Name, LogDifference]:
        """Choose the differences of the settings whose figures come from this stage.

        Args:
            stages: Key of a setting -> the stage that its figures come from.
        """
        return {name: one for name, one in self.differences.items() if stages[name[1]] is self}


def estimate_race(
    blocks: Sequence[Block], keys: Sequence[str], noise: SweepRepeatability, seed: int
) -> StageFigures:
    """Estimate the figures of the race; before it they are the baseline's, in the floor."""
    before = [block for block in blocks if block.stage != "confirm"]
    return _collect(
        "race",
        [block for block in before if block.stage == "race"] or before,
        lambda figure: estimate_race_costs(before, keys, figure, seed),
        compare_in_race(before, keys, joules, noise.joules),
        compare_in_race(before, keys, seconds, noise.seconds),
    )


def estimate_confirmation(
    blocks: Sequence[Block], keys: Sequence[str], noise: SweepRepeatability, seed: int
) -> StageFigures:
    """Estimate the figures of the confirming blocks."""
    chosen = [block for block in blocks if block.stage == "confirm"]
    return _collect(
        "confirm",
        chosen,
        lambda figure: estimate_costs(chosen, keys, figure, seed),
        compare_with_baseline(chosen, keys, joules, noise.joules, seed),
        compare_with_baseline(chosen, keys, seconds, noise.seconds, seed),
    )


def _collect(
    name: Literal["race", "confirm"],
    blocks: Sequence[Block],
    estimate: Callable[[Figure], dict[str, Interval]],
    by_joules: Mapping[str, LogDifference],
    by_seconds: Mapping[str, LogDifference],
) -> StageFigures:
    return StageFigures(
        name=name,
        blocks=tuple(blocks),
        joules=_add_meter(estimate(joules), blocks, ("prefill", "decode")),
        seconds=estimate(seconds),
        prefill=_add_meter(estimate(prefill_joules_per_token), blocks, ("prefill",)),
        decode=_add_meter(estimate(decode_joules_per_token), blocks, ("decode",)),
        differences={
            **{("joules", key): one for key, one in by_joules.items()},
            **{("seconds", key): one for key, one in by_seconds.items()},
        },
    )


def _add_meter(
    figures: Mapping[str, Interval], blocks: Sequence[Block], phases: Sequence[str]
) -> dict[str, Interval]:
    return {
        key: add_meter_uncertainty(figure, read_meter_uncertainty(blocks, key, phases))
        for key, figure in figures.items()
    }

"""What a sweep has found: the input of the table, the report, the log and ``--apply``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etui.stats.tests import Interval
from etui.sweep.goal import Goal
from etui.sweep.setting import AxisName, Value


@dataclass(frozen=True, slots=True)
class Difference:
    """A relative difference to a reference, from visits of the same blocks.

    Attributes:
        low, high: Ends of the interval at 95 %; None if an end is unknown (one block).
    """

    percent: float  # Mean difference; -18 is 18 % less than the reference
    low: float | None
    high: float | None
    p: float | None  # P-value, adjusted by Holm over the family; None without one
    blocks: int
    is_claimed: bool
    """Whether the difference is beyond noise (p below 0.05, an interval without 0) and not below
    the detection floor."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Answers of a setting to the questions of a suite."""

    correct: int
    questions: int
    share: Interval  # Accuracy with Wilson's interval, in [0, 1]
    difference_points: Interval | None
    """Accuracy less that of the baseline on the same questions, percentage points, with a bootstrap
    interval; None for the baseline."""
    p: float | None
    """McNemar's p-value against the baseline, adjusted by Holm; None for the baseline."""
    measured_as: str
    """Key of the setting whose answers these are: settings that compute the same numbers (other
    threads, another power limit) are not measured twice."""


@dataclass(frozen=True, slots=True)
class SettingResult:
    """One setting: its costs for one answer, and its differences to the baseline.

    Attributes:
        joules, seconds: One answer; joules is None if unmeasured.
        prefill_joules_per_token, decode_joules_per_token: By phase; None if unmeasured.
        joules_difference, seconds_difference: Relative to the baseline; None for the baseline,
            and where nothing is comparable.
    """

    setting: str
    values: tuple[tuple[AxisName, Value], ...]
    stage: Literal["race", "confirm"]
    """``confirm`` if the figures come from the confirming blocks alone, else ``race``."""
    blocks: int
    joules: Interval | None
    seconds: Interval | None
    prefill_joules_per_token: Interval | None
    decode_joules_per_token: Interval | None
    joules_difference: Difference | None
    seconds_difference: Difference | None
    accuracy: Accuracy | None  # None without a suite
    dropped_after: int | None
    """Number of the block after which it was dropped; None if it was kept, or could not run."""
    drop_reason: str  # Why it was dropped, or could not run; empty if it was kept
    is_on_frontier: bool
    """Whether no other setting is better in joules, seconds and accuracy, of those kept and the
    best by the goal of each kind of numbers."""


@dataclass(frozen=True, slots=True)
class AxisEffect:
    """Effect of one value of an axis against another, averaged over the other axes."""

    axis: AxisName
    value: Value
    reference: Value
    joules: Difference | None
    seconds: Difference | None


@dataclass(frozen=True, slots=True)
class Interaction:
    """How far two values together differ from the product of their effects, where beyond noise."""

    axes: tuple[AxisName, AxisName]
    values: tuple[Value, Value]
    references: tuple[Value, Value]
    joules: Difference


@dataclass(frozen=True, slots=True)
class DetectionFloor:
    """The smallest difference that a sweep can show here, from the baseline against itself.

    Attributes:
        joules_percent, seconds_percent: Smallest difference; None if unmeasured.
        measured_joules_percent, measured_seconds_percent: The difference that was found between
            equal settings, which should be about 0.
    """

    joules_percent: float | None
    seconds_percent: float | None
    measured_joules_percent: float | None
    measured_seconds_percent: float | None
    blocks: int
    claim_blocks: int  # Number of blocks for which the floor holds


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The result of a sweep, or of the blocks so far.

    Attributes:
        effects, interactions: Of the axes with at least two values.
        blocks, visits: Number measured.
    """

    baseline: str  # Key of the setting in use before the sweep
    best: str | None
    """Key of the best setting by the goal: a claimed improvement if there is one, else the best by
    rank, or the baseline; None before the first race."""
    goal: Goal
    is_complete: bool
    floor: DetectionFloor | None  # Detection floor; None before its blocks are measured
    settings: tuple[SettingResult, ...]  # All settings, the baseline first, then by joules
    effects: tuple[AxisEffect, ...]
    interactions: tuple[Interaction, ...]
    blocks: int
    visits: int
    repeated: tuple[str, ...]  # Why blocks were repeated, one line each
    notes: tuple[str, ...]
    """What a reader should know: a rounded cap, throttling, an estimate instead of a meter."""
    seconds: float  # Duration so far
    full_grid_seconds: float | None
    """Predicted duration of the same sweep without dropping settings."""
    kind: str | None = None
    """How the energy was determined, the weakest kind of all visits; None if unmeasured."""

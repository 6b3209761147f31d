"""A design: which arms answer which questions, and the operating curves measured on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from etui.arm import Arm
from etui.calibration.grid import Grid


@dataclass(frozen=True, slots=True)
class DesignArm:
    """An arm of a design."""

    name: str
    """Name in the run: that of the role, of the entry, and the values of its lists, joined by
    hyphens, such as ``small-vote-3``."""
    role: str  # The role whose model answers
    arm: Arm


@dataclass(frozen=True, slots=True)
class Design:
    """The layout of a study, resolved to the models of this machine or of a run.

    Attributes:
        suite, split, format, shots, seed: As in :class:`etui.bench.plan.RunRequest`.
    """

    name: str  # Name of its file without the extension
    title: str  # What the study measures, in a line
    summary: str  # What it is for; may be empty
    models: Mapping[str, str]  # Role -> model that serves it, smallest role first
    arms: Mapping[str, DesignArm]  # Name -> arm, in the order of the file within each role
    suite: str
    split: str
    format: str
    shots: int | None
    seed: int
    block: int  # Number of questions that every arm answers before the next ones are asked
    curves: Grid | None  # Lengths of the operating curves; None measures none

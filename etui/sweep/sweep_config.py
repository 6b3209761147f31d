"""The configuration of a sweep: all that is needed to resume, repeat and report it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from etui.sweep.goal import Goal
from etui.sweep.setting import Axis, Setting

CapMode = Literal["user", "set"]
"""Who sets a power limit: the user, when asked, or etui itself (as root or through zeusd)."""


@dataclass(frozen=True, slots=True)
class SweepDesign:
    """What a sweep will measure.

    Attributes:
        settings: All settings, the baseline first; at least two.
        goal: What to minimize.
        seed: Seed of the orders.
        floor_blocks: Blocks of the baseline against itself, before the race.
        race_rounds: Most rounds of the race; a round is two blocks, in one order and its reverse.
        confirm_blocks: Blocks of the baseline and the finalists, after the race.
        halving: Whether settings that are worse beyond doubt are dropped after a round.
    """

    settings: tuple[Setting, ...]
    goal: Goal = field(default_factory=Goal)
    seed: int = 0
    floor_blocks: int = 4
    race_rounds: int = 5
    confirm_blocks: int = 8
    halving: bool = True


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """The configuration of a sweep, ``config.json`` of its folder.

    Attributes:
        id: Name of the sweep, that of its folder unless ``--out`` names another.
        created: Local time of the start, ISO 8601 with offset.
        model: Name of the model of the baseline.
        model_sha256: Hash of its file.
        policy, arm: Name of the policy and of its arm; None if a model was given.
        axes: The axes that were asked for, or chosen by default.
        design: Settings, goal and seed.
        workload: ``chat``, ``code``, ``long``, ``letters``, ``log``, or the path of a file.
        workload_sha256: Hash of its texts.
        output_tokens: Output tokens of each answer.
        window_s: Least seconds of a phase of a visit.
        cool_down_s: Least seconds of idle time before a visit.
        cool_down_celsius: Temperature to wait for before a visit; None waits for the time alone.
        cap: Who sets power limits; None if the sweep has no such axis.
        suite: Questions that accuracy is measured on; None without accuracy.
        questions: Number of them; 0 without accuracy.
        channels: Power channels that are summed.
        provenance: Versions, machine and llama.cpp settings, as in a turn's settings.
        data: Folder or archive of the suite; None if it needs none.
        suite_sha256: Hash of the suite's files; None without accuracy.
        notes: What a reader should know about the settings: combinations that were left out, axes
            whose effects the sweep cannot separate.
    """

    id: str
    created: str
    model: str
    model_sha256: str | None
    policy: str | None
    arm: str | None
    axes: tuple[Axis, ...]
    design: SweepDesign
    workload: str
    workload_sha256: str
    output_tokens: int
    window_s: float
    cool_down_s: float
    cool_down_celsius: float | None
    cap: CapMode | None
    suite: str | None
    questions: int
    channels: tuple[str, ...]
    provenance: Mapping[str, Any]
    data: str | None = None
    suite_sha256: str | None = None
    notes: tuple[str, ...] = ()

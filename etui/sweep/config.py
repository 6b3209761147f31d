"""What a sweep compares and how: axes, settings, the goal, and ``config.json`` of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from etui.stats.tests import SIGNIFICANCE

Value = str | int | float

AxisName = Literal[
    "model",
    "threads",
    "decode_threads",
    "prefill_threads",
    "batch_tokens",
    "kv_type",
    "flash_attention",
    "gpu_layers",
    "cpu_moe",
    "split",
    "speculate",
    "draft_tokens",
    "power_limit",
]
"""What a sweep can vary; ``power_limit`` in watts, ``draft_tokens`` is the depth of speculation."""

AXES: tuple[AxisName, ...] = get_args(AxisName)
"""All axes, in the order in which a setting lists its values."""

CapMode = Literal["user", "set"]
"""Who sets a power limit: the user, when asked, or etui itself (as root or through zeusd)."""

Measure = Literal["joules", "time", "joules*time"]

COOL_DOWN_S = 0.5
BUSY_S = 780.0
"""Most seconds of a sweep beside other programs: with the last visit it ends within 15 min."""
_BUSY_ROUNDS, _BUSY_CONFIRM_BLOCKS = 1, 6
"""Most rounds, which claim nothing there, and blocks to confirm."""
_BUSY_LEVEL = 0.005


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a sweep, with the values to compare: at least one, each once."""

    name: AxisName
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination: a value of every axis of the sweep, in the order of ``AXES``."""

    values: tuple[tuple[AxisName, Value], ...]

    @property
    def key(self) -> str:
        """Name in files and tables: ``threads=2 kv_type=q8_0``."""
        return " ".join(f"{name}={value}" for name, value in self.values)

    def get(self, axis: AxisName) -> Value | None:
        """Return the value of an axis; None if the sweep does not vary it."""
        return dict(self.values).get(axis)


@dataclass(frozen=True, slots=True)
class Goal:
    """The figure of one answer to minimize."""

    measure: Measure = "joules"
    within_percent: float | None = None  # Of `joules`: most that the best may be slower


@dataclass(frozen=True, slots=True)
class WorkShape:
    """What one answer computes, apart from its prompt; by default a model answers at once."""

    think_tokens: int = 0  # Thinking tokens of each sequence, before its answer
    answer_tokens: int | None = None
    """Most tokens of each answer after the thinking; None leaves the number to the workload."""
    sequences: int = 1  # Sequences that are decoded in parallel, in one batch: the votes
    reads_letters: bool = False
    """Whether the answer is read from the logits of the option letters: then nothing is decoded,
    and prefill is the whole work."""


PLAIN_WORK = WorkShape()


@dataclass(frozen=True, slots=True)
class SweepDesign:
    """What a sweep will measure."""

    settings: tuple[Setting, ...] = ()  # All settings, the baseline first; at least two to measure
    goal: Goal = field(default_factory=Goal)
    seed: int = 0
    floor_blocks: int = 4  # Blocks of the baseline against itself, before the race
    race_rounds: int = 5  # Most rounds of the race: two blocks, in one order and its reverse
    confirm_blocks: int = 8  # Blocks of the baseline and the finalists, after the race
    halving: bool = True  # Whether settings that are worse beyond doubt are dropped after a round
    is_busy: bool = False  # Whether other programs ran, so that less is measured and claimed

    @property
    def levels(self) -> tuple[float, float]:
        """Adjusted p-values below which the race, and the confirmation, claim a difference.

        The race pools the noise of all settings. Beside other programs several threads can be many
        times as noisy as one, so there it claims nothing.
        """
        return (0.0, _BUSY_LEVEL) if self.is_busy else (SIGNIFICANCE, SIGNIFICANCE)

    def shorten(self) -> SweepDesign:
        """Shorten a sweep beside other programs, so that its figures are confirmed in time."""
        return replace(
            self,
            race_rounds=min(self.race_rounds, _BUSY_ROUNDS),
            confirm_blocks=min(self.confirm_blocks, _BUSY_CONFIRM_BLOCKS),
            is_busy=True,
        )


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """All that is needed to resume, repeat and report a sweep: ``config.json`` of its folder.

    What a user asks for is one too, with what is found on the machine left open.
    """

    id: str = ""  # Name of the sweep, that of its folder unless `--out` names another
    created: str = ""  # Local time of the start, ISO 8601 with offset
    model: str = ""  # Name of the model, or path of its file; empty takes that of the arm
    model_sha256: str | None = None  # Hash of its file
    policy: str | None = None  # A policy and its arm; None if a model was given
    arm: str | None = None
    axes: tuple[Axis, ...] = ()  # None takes the default axes of this machine
    design: SweepDesign = field(default_factory=SweepDesign)
    workload: str = "chat"  # `chat`, `code`, `long`, `letters`, `log`, or the path of a file
    workload_sha256: str = ""  # Hash of its texts
    output_tokens: int = 0  # 0 takes the default of the workload
    window_s: float = 0.0  # Least seconds of a phase of a visit; 0 leaves it to the meter
    cool_down_s: float = COOL_DOWN_S  # Least seconds of idle time before a visit
    cool_down_celsius: float | None = None  # Temperature to wait for before a visit, in addition
    cap: CapMode | None = None  # Who sets power limits; None if the sweep has no such axis
    suite: str | None = None
    """Questions that accuracy is measured on (`sample`, `mmlu` or a CSV file); None without."""
    questions: int = 0  # Most of them, where 0 takes the default; 0 without accuracy
    channels: tuple[str, ...] = ()  # Power channels that are summed
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, machine and llama.cpp settings, as in a turn's settings."""
    data: str | None = None  # Folder or archive of the suite; None if it needs none
    suite_sha256: str | None = None  # Hash of the suite's files; None without accuracy
    notes: tuple[str, ...] = ()
    """Combinations that were left out, and axes whose effects the sweep cannot separate."""

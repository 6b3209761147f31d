"""Idle baselines: the power of the machine while etui does nothing, with and without a model.

A cold baseline is measured without a model. Weights and a context in GPU memory draw more, so each
model has a loaded baseline of its own. Baselines are saved in ``ETUI_HOME/idle.json`` by channel,
and used only while the machine has the same channels. The meter records all the time, so a recorded
idle interval can become a baseline afterwards (see :mod:`etui.energy.idle_tracker`).

Only a machine at rest has a baseline: other programs would be subtracted from every answer. The
idle power of an estimate is not measured, because its formula states it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Literal

from etui.atomic import write_text
from etui.codec import from_document, to_document
from etui.config.config import Config, make_home
from etui.energy.at_rest import find_other_use
from etui.energy.keep_warm import Measured
from etui.energy.recorder import Recorder
from etui.energy.types import Energy
from etui.energy.uncertainty import combine
from etui.errors import EtuiError

_UNSTEADY = 0.25
_SLICES = 8
_T_OF_SLICES = 2.365
"""Quantile of Student's t for a mean of eight slices, at 95 %."""

_COVERED = 0.99
_BELOW = 0.97
"""A power counts as below a baseline if it is less than this share of it: sensors are noisy."""

Watts = Mapping[str, float]
BaselineKind = Literal["loaded", "cold", "formula"]
"""Whether a baseline was measured with a model in memory, without, or is that of an estimate."""


@dataclass(frozen=True, slots=True)
class IdleBaseline:
    """One baseline."""

    watts: Watts  # Channel id -> mean watts
    measured_at: float  # Seconds since 1970
    seconds: float  # Length of the measurement
    steady: bool
    """Whether the power stayed within a quarter of its mean and no other program used the machine;
    False means that the machine was not idle."""
    uncertainty: float | None = None
    """Half width of the total at 95 %, watts; None in a file of an earlier etui."""

    @property
    def total_watts(self) -> float:
        """Watts of all channels together."""
        return sum(self.watts.values())

    @property
    def total(self) -> Measured:
        """Watts of all channels together, with their half width."""
        return Measured(self.total_watts, self.uncertainty)

    def is_below(self, other: IdleBaseline) -> bool:
        """Return whether this power is clearly below that of another baseline's same channels."""
        if not set(self.watts) <= set(other.watts):
            return False
        return self.total_watts < _BELOW * sum(other.watts[name] for name in self.watts)

    def replaces(self, other: IdleBaseline) -> bool:
        """Return whether another baseline is too high, or lacks a channel of this one."""
        return self.is_below(other) or not set(self.watts) <= set(other.watts)


@dataclass(frozen=True, slots=True)
class Baselines:
    """The baselines of this machine."""

    cold: IdleBaseline | None = None  # Without a model in memory; None if never measured
    loaded: Mapping[str, IdleBaseline] = field(default_factory=dict)
    """Model -> baseline with that model in memory."""

    def of(
        self, model: str | None, channels: Collection[str]
    ) -> tuple[BaselineKind, IdleBaseline] | None:
        """Return the baseline for a model in memory, else the cold one, else None.

        Args:
            model: The model in memory; None without one.
            channels: The channels of a total; a baseline that lacks one of them is skipped.
        """
        loaded = None if model is None else self.loaded.get(model)
        found: tuple[tuple[BaselineKind, IdleBaseline | None], ...] = (
            ("loaded", loaded),
            ("cold", self.cold),
        )
        for which, idle in found:
            if idle is not None and channels and set(channels) <= set(idle.watts):
                return which, idle
        return None

    def extra_watts(self, model: str) -> Measured | None:
        """Return how many watts more the machine draws with a model in memory than without.

        Returns:
            The difference; None without both baselines over the same channels.
        """
        loaded = self.loaded.get(model)
        if loaded is None or self.cold is None or set(loaded.watts) != set(self.cold.watts):
            return None
        return loaded.total.minus(self.cold.total)

    def with_idle(self, idle: IdleBaseline, model: str | None) -> Baselines:
        """Return a copy with a new baseline for a model; None replaces the cold one."""
        if model is None:
            return Baselines(idle, self.loaded)
        return Baselines(self.cold, {**self.loaded, model: idle})


def measure_baseline(
    recorder: Recorder, seconds: float = 5.0, *, force: bool = False
) -> IdleBaseline | None:
    """Measure the current idle power and use it as the recorder's baseline.

    Args:
        seconds: Length of the measurement; nothing else should run meanwhile.
        force: Measure even if other programs use the machine.

    Returns:
        The baseline; None when nothing can be measured.

    Raises:
        EtuiError: Other programs used the machine; the recorder keeps its baseline.
    """
    before = recorder.idle_by_channel
    energy = recorder.measure_idle(seconds)
    busy = find_other_use(recorder, energy.start_ns, energy.end_ns)
    if busy and not force and list_measured(recorder):
        recorder.set_idle(before)
        raise EtuiError(
            f"the machine is not idle: {busy}",
            "end the other programs, or measure anyway with --force",
        )
    return _build_idle(recorder, energy)


def compute_baseline(recorder: Recorder, start_ns: int, end_ns: int) -> IdleBaseline | None:
    """Build a baseline from a recorded idle interval; the recorder's own baseline does not change.

    Returns:
        The baseline; None when a channel of the total was not recorded all the time.
    """
    energy = recorder.energy(start_ns, end_ns)
    return _build_idle(recorder, energy) if energy.coverage >= _COVERED else None


def measure_idle_watts(recorder: Recorder, start_ns: int, end_ns: int) -> Measured | None:
    """Compute the idle watts of a recorded interval, to compare with a baseline's total.

    Returns:
        The watts; None if nothing can be measured (an estimate has no idle power of its own), a
        part of the interval was not recorded, or another program used the machine.
    """
    idle = compute_baseline(recorder, start_ns, end_ns) if list_measured(recorder) else None
    return idle.total if idle is not None and idle.steady else None


def use_baseline(
    recorder: Recorder, baselines: Baselines, model: str | None = None
) -> BaselineKind | None:
    """Set the recorder's baseline to that of a model in memory, else to the cold one.

    Returns:
        Which baseline was set; None when there is none, which leaves the recorder without one.
    """
    measured = list_measured(recorder)
    found = baselines.of(model, measured)
    recorder.set_idle(found[1].watts if found else None)
    if not measured and recorder.selection.summed:
        return "formula"
    return found[0] if found else None


def list_measured(recorder: Recorder) -> list[str]:
    """List the channels of the total whose idle power has to be measured."""
    return [c.id for c in recorder.selection.summed if c.idle_watts is None]


def baseline_file(config: Config) -> Path:
    """Return the path of the file with the baselines."""
    return config.home / "idle.json"


def load_baselines(config: Config) -> Baselines:
    """Load the saved baselines; empty where the file is missing or damaged.

    A damaged file costs a new measurement, not an answer, so it is not an error.
    """
    try:
        found = json.loads(baseline_file(config).read_text(encoding="utf-8"))
        return from_document(Baselines, found, extra="ignore")
    except (OSError, ValueError):  # DocumentError and JSONDecodeError are ValueErrors
        return Baselines()


def save_baselines(config: Config, baselines: Baselines) -> None:
    """Save the baselines.

    Raises:
        EtuiError: The file cannot be written.
    """
    make_home(config)
    path = baseline_file(config)
    document = to_document(baselines)
    try:
        write_text(path, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}"
        raise EtuiError(
            what, "make the folder writable, or set ETUI_HOME to one that is"
        ) from error


def _build_idle(recorder: Recorder, energy: Energy) -> IdleBaseline | None:
    if energy.joules is None or not energy.channels:
        return None
    stated = {c.id: c.idle_watts for c in recorder.selection.summed if c.idle_watts is not None}
    watts = {part.id: stated.get(part.id, part.mean_watts) for part in energy.channels}
    at_rest = not find_other_use(recorder, energy.start_ns, energy.end_ns)
    steady = not list_measured(recorder) or (_is_steady(recorder, energy) and at_rest)
    uncertainty = _compute_uncertainty(recorder, energy, watts.keys() - stated.keys())
    return IdleBaseline(watts, time.time(), energy.seconds, steady, uncertainty)


def _compute_uncertainty(recorder: Recorder, energy: Energy, names: Collection[str]) -> float:
    """Combine the meter's half width with the spread of the power itself over the interval.

    The idle power of an estimate is stated and the same at any time, so it adds nothing.
    """
    if not names or not energy.seconds:
        return 0.0
    parts = [part.half_widths for part in energy.channels if part.id in names]
    curve = recorder.power_curve(energy.start_ns, energy.end_ns, _SLICES)
    watts = [value for _, value in curve if value is not None]
    spread = _T_OF_SLICES * stdev(watts) / math.sqrt(len(watts)) if len(watts) > 1 else 0.0
    return math.hypot(combine(parts) / energy.seconds, spread)


def _is_steady(recorder: Recorder, energy: Energy) -> bool:
    curve = recorder.power_curve(energy.start_ns, energy.end_ns, _SLICES)
    watts = [value for _, value in curve if value is not None]
    if len(watts) < _SLICES or not energy.mean_watts:
        return False
    return max(watts) - min(watts) <= _UNSTEADY * energy.mean_watts

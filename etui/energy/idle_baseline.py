"""Idle baselines: the power of the machine while etui does nothing, with and without a model.

A cold baseline is measured without a model. Weights and a context in GPU memory draw more, so each
model has a loaded baseline of its own. Baselines are saved in ``ETUI_HOME/idle.json`` by channel,
and used only while the machine has the same channels. The meter records all the time, so a recorded
idle interval can become a baseline afterwards (see :mod:`etui.energy.idle_tracker`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from etui.atomic import write_text
from etui.config.config import Config, make_home
from etui.energy.recorder import Recorder
from etui.energy.types import Energy
from etui.errors import EtuiError
from etui.text.codec import from_document, to_document

_UNSTEADY = 0.25
_SLICES = 8
_COVERED = 0.99
Watts = Mapping[str, float]
BaselineKind = Literal["loaded", "cold"]
"""Whether a baseline was measured with a model in memory or without."""


@dataclass(frozen=True, slots=True)
class IdleBaseline:
    """One baseline.

    Attributes:
        watts: Channel id -> mean watts.
        measured_at: Seconds since 1970.
        seconds: Length of the measurement.
        steady: Whether the power stayed within a quarter of its mean and no other process used a
            GPU; False means that the machine was not idle.
    """

    watts: Watts
    measured_at: float
    seconds: float
    steady: bool

    @property
    def total_watts(self) -> float:
        """Watts of all channels together."""
        return sum(self.watts.values())


@dataclass(frozen=True, slots=True)
class Baselines:
    """The baselines of this machine.

    Attributes:
        cold: Without a model in memory; None if never measured.
        loaded: Model -> baseline with that model in memory.
    """

    cold: IdleBaseline | None = None
    loaded: Mapping[str, IdleBaseline] = field(default_factory=dict)

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

    def with_idle(self, idle: IdleBaseline, model: str | None) -> Baselines:
        """Return a copy with a new baseline for a model; None replaces the cold one."""
        if model is None:
            return Baselines(idle, self.loaded)
        return Baselines(self.cold, {**self.loaded, model: idle})


def measure_baseline(recorder: Recorder, seconds: float = 5.0) -> IdleBaseline | None:
    """Measure the current idle power and use it as the recorder's baseline.

    Args:
        recorder: A running recorder.
        seconds: Length of the measurement; nothing else should run meanwhile.

    Returns:
        The baseline; None when nothing can be measured.
    """
    return _build_idle(recorder, recorder.measure_idle(seconds))


def compute_baseline(recorder: Recorder, start_ns: int, end_ns: int) -> IdleBaseline | None:
    """Build a baseline from a recorded idle interval; the recorder's own baseline does not change.

    Returns:
        The baseline; None when a channel of the total was not recorded all the time.
    """
    energy = recorder.energy(start_ns, end_ns)
    return _build_idle(recorder, energy) if energy.coverage >= _COVERED else None


def use_baseline(
    recorder: Recorder, baselines: Baselines, model: str | None = None
) -> BaselineKind | None:
    """Set the recorder's baseline to that of a model in memory, else to the cold one.

    Returns:
        Which baseline was set; None when there is none, which leaves the recorder without one.
    """
    found = baselines.of(model, [channel.id for channel in recorder.selection.summed])
    recorder.set_idle(found[1].watts if found else None)
    return found[0] if found else None


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
    watts = {part.id: part.mean_watts for part in energy.channels}
    steady = _is_steady(recorder, energy) and not energy.shared
    return IdleBaseline(watts, time.time(), energy.seconds, steady)


def _is_steady(recorder: Recorder, energy: Energy) -> bool:
    curve = recorder.power_curve(energy.start_ns, energy.end_ns, _SLICES)
    watts = [value for _, value in curve if value is not None]
    if len(watts) < _SLICES or not energy.mean_watts:
        return False
    return max(watts) - min(watts) <= _UNSTEADY * energy.mean_watts

"""What the machine draws at the wall, as a function of the power of its inner channels.

    wall = base + inner / efficiency(load)

A calibration (:mod:`etui.calibration.wall`) fits it as a polynomial of the watts of the CPU's and
of the GPUs' channels, once per round of loads: the rounds are repeats of the whole measurement, so
their scatter is the error of the fit, whatever caused it. Calibrations are kept in
``ETUI_HOME/wall.json``; the newest one of this machine with the same channels is used.

Wall joules follow from the inner joules of an interval. They never replace them, and are never
added to them. A constant error of an inner channel's scale is part of the fitted slope.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.codec import from_document, to_document
from etui.config.config import Config, make_home
from etui.config.machine import machine_name
from etui.energy.scopes import family
from etui.energy.types import ChannelEnergy, Energy, Kind, WallEnergy, combine
from etui.errors import HOME_FIX, writing
from etui.units import energy_text

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder

_BEYOND = 0.25
"""Relative half width of the watts beyond the calibrated range."""
_SLACK = 0.02
"""Share of the calibrated range by which a power may leave it and still counts as inside."""
_LEAST_CHECK_S = 60.0
_CHECK_NS = 600_000_000_000
"""Length of a check where more was recorded."""
_LEAST_COVERAGE = 0.99
_CHECKS_KEPT = 20
_CHECKS_OFF = 3
"""Checks in a row that must differ in the same direction before the calibration is outdated."""


@dataclass(frozen=True, slots=True)
class WallLevel:
    """One load of a calibration: mean watts."""

    name: str
    cpu_watts: float  # All inner channels but those of GPUs
    gpu_watts: float
    wall_watts: float
    rounds: int = 1  # Rounds over which they are averaged

    @property
    def inner_watts(self) -> float:
        """Watts of all inner channels."""
        return self.cpu_watts + self.gpu_watts


@dataclass(frozen=True, slots=True)
class WallCheck:
    """Wall joules that were measured and predicted over the same interval."""

    at: float  # Its end, seconds since 1970
    seconds: float
    measured: float
    predicted: float
    half_width: float  # Of their difference at 95 %, joules

    @property
    def off(self) -> int:
        """1 if more was measured than predicted, -1 if less; 0 within the uncertainty."""
        gap = self.measured - self.predicted
        return 0 if abs(gap) <= self.half_width else (1 if gap > 0 else -1)


@dataclass(frozen=True, slots=True)
class WallCalibration:
    """A fitted model of the wall power of one machine.

    The features of a power are 1, the inner watts (of the CPU and of the GPUs, if ``by_gpu``), and
    if ``curved`` the square of all inner watts divided by ``high[0]``.
    """

    id: str
    created_at: float  # Seconds since 1970
    machine: str
    meter: str  # Channel of the wall meter
    channels: tuple[str, ...]  # Inner channels of the total
    kind: str  # Their weakest kind; `estimate`: the estimate itself was calibrated
    by_gpu: bool
    curved: bool
    rounds: tuple[tuple[float, ...], ...]  # Coefficients of each round
    t: float  # Quantile of Student's t for their mean, at 95 %
    inverse: tuple[tuple[float, ...], ...]  # (X'X)^-1 of the levels
    level_watts: float  # Half width of one level that all rounds share: the meter's digits
    lack_watts: float  # Half width of what no smooth curve explains: another load at equal watts
    relative_error: float  # Of the meter, as stated
    low: tuple[float, float, float]  # Least inner, CPU and GPU watts that were calibrated
    high: tuple[float, float, float]
    resolution_watts: float
    period_s: float
    lag_s: float  # Mean delay of the meter's reading
    settle_s: float  # Time that was discarded after each change of load
    window_s: float
    levels: tuple[WallLevel, ...]
    checks: tuple[WallCheck, ...] = ()  # Newest last

    @property
    def outdated(self) -> bool:
        """Whether the last checks all differ from the meter in the same direction."""
        last = [check.off for check in self.checks[-_CHECKS_OFF:]]
        return len(last) == _CHECKS_OFF and abs(sum(last)) == _CHECKS_OFF

    def wall_watts(self, cpu_watts: float, gpu_watts: float = 0.0) -> tuple[float, float]:
        """Return the wall watts of a steady power, with the half width of the fit and the meter.

        Beyond the calibrated range the half width grows with the distance.
        """
        features = wall_features(cpu_watts, gpu_watts, self.by_gpu, self.curved, self.high[0])
        watts, half = self._combine(features)
        half = math.hypot(half, self.lack_watts, self.relative_error * watts)
        return watts, half + _BEYOND * self._slope * self.watts_beyond(cpu_watts, gpu_watts)

    def _combine(self, weights: Sequence[float]) -> tuple[float, float]:
        """Return a weighted sum of the coefficients, with its half width by rounds and digits."""
        found = [_dot(weights, each) for each in self.rounds]
        mean, count = math.fsum(found) / len(found), len(found)
        scatter = math.sqrt(math.fsum((each - mean) ** 2 for each in found) / (count - 1) / count)
        leverage = math.sqrt(max(_dot(weights, [_dot(weights, r) for r in self.inverse]), 0.0))
        return mean, math.hypot(self.t * scatter, self.level_watts * leverage)

    def watts_beyond(self, cpu_watts: float, gpu_watts: float) -> float:
        """Return by how many inner watts a power is outside of the calibrated range."""
        watts = (cpu_watts + gpu_watts, cpu_watts, gpu_watts)
        slack = _SLACK * (self.high[0] - self.low[0])
        return max(
            max(low - slack - each, each - high - slack, 0.0)
            for each, low, high in zip(watts, self.low, self.high, strict=True)
        )

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Mean coefficients of the rounds."""
        return tuple(math.fsum(each) / len(each) for each in zip(*self.rounds, strict=True))

    @property
    def base(self) -> tuple[float, float]:
        """Wall watts at 0 inner watts with their half width: what no inner channel contains.

        They are an extrapolation below the idle power.
        """
        return self.wall_watts(0.0, 0.0)

    @property
    def slope_error(self) -> tuple[float, float]:
        """Wall watts per inner watt between the ends of the range, with their half width."""
        ends = [
            wall_features(each.cpu_watts, each.gpu_watts, self.by_gpu, self.curved, self.high[0])
            for each in (self.levels[0], self.levels[-1])
        ]
        span = self.levels[-1].inner_watts - self.levels[0].inner_watts
        return self._combine([(b - a) / span for a, b in zip(*ends, strict=True)])

    def efficiency(self, level: WallLevel) -> float | None:
        """Return inner watts by the wall watts above the base, at a level of load."""
        above = self.wall_watts(level.cpu_watts, level.gpu_watts)[0] - self.base[0]
        return level.inner_watts / above if above > 0 else None

    @property
    def _slope(self) -> float:
        """The steepest wall watts per inner watt."""
        found = self.coefficients
        linear = max(found[1:3]) if self.by_gpu else found[1]
        return linear + (2 * max(found[-1], 0.0) if self.curved else 0.0)

    def predict(self, energy: Energy) -> WallEnergy | None:
        """Predict the wall joules of an interval; None unless all its channels were measured."""
        parts = {part.id: part for part in energy.channels}
        if energy.joules is None or energy.seconds <= 0 or set(parts) != set(self.channels):
            return None
        cpu, gpu = split_watts(energy.channels)
        watts, half = self.wall_watts(cpu, gpu)
        own = [replace(part.half_widths, stated=0.0) for part in parts.values()]
        joules, seconds = watts * energy.seconds, energy.seconds
        uncertainty = math.hypot(half * seconds, self._slope * combine(own))
        if self.curved and energy.peak_watts is not None:
            # The power was not constant: its variance is at most this (Bhatia and Davis 2000).
            mean = cpu + gpu
            swing = max(energy.peak_watts - mean, 0.0) * max(mean - self.low[0], 0.0)
            extra = max(self.coefficients[-1], 0.0) / self.high[0] * swing / 2 * seconds
            joules, uncertainty = joules + extra, uncertainty + extra
        return WallEnergy(joules, uncertainty, self.id, self.watts_beyond(cpu, gpu) > 0)

    @property
    def least_check_ns(self) -> int:
        """Shortest interval of a check: the ends, where the meter is late, are a small part."""
        return int(1e9 * max(_LEAST_CHECK_S, 10 * self.settle_s))

    def check(self, recorder: Recorder, start_ns: int, end_ns: int) -> WallCheck | None:
        """Compare the meter with the model over an interval that ended a while ago.

        None if it is too short, or was not recorded as a whole.
        """
        if end_ns - start_ns < self.least_check_ns:
            return None
        inner = recorder.energy(start_ns, end_ns)
        meter = next((part for part in inner.cross_checks if part.id == self.meter), None)
        found = self.predict(inner)
        if meter is None or found is None or min(meter.coverage, inner.coverage) < _LEAST_COVERAGE:
            return None
        half = math.hypot(found.uncertainty, meter.uncertainty)
        return WallCheck(time.time(), inner.seconds, meter.joules, found.joules, half)

    def describe_drift(self) -> str:
        """Say that the calibration no longer holds, and what to do; empty while it does."""
        if not self.outdated:
            return ""
        last = self.checks[-_CHECKS_OFF:]
        measured = math.fsum(check.measured for check in last)
        percent = 100 * (measured / math.fsum(check.predicted for check in last) - 1)
        return (
            f"the wall meter reads {percent:+.0f} % against the wall model, beyond its "
            "uncertainty: run `etui power calibrate-wall` again"
        )


def wall_features(
    cpu_watts: float, gpu_watts: float, by_gpu: bool, curved: bool, scale: float
) -> tuple[float, ...]:
    """Return the features of a power, see :class:`WallCalibration`."""
    inner = cpu_watts + gpu_watts
    linear = (cpu_watts, gpu_watts) if by_gpu else (inner,)
    return (1.0, *linear, *((inner * inner / scale,) if curved else ()))


def split_watts(channels: Collection[ChannelEnergy]) -> tuple[float, float]:
    """Return the mean watts of the CPU with all other inner channels, and those of the GPUs."""
    gpu = math.fsum(p.mean_watts for p in channels if family(p.id) in ("gpu", "module"))
    return math.fsum(p.mean_watts for p in channels) - gpu, gpu


def wall_file(config: Config) -> Path:
    """Return the path of the file with the calibrations."""
    return config.home / "wall.json"


def load_wall(config: Config) -> tuple[WallCalibration, ...]:
    """Load all calibrations, newest last; empty where the file is missing or damaged."""
    try:
        found = json.loads(wall_file(config).read_text(encoding="utf-8"))
        return from_document(tuple[WallCalibration, ...], found, extra="ignore")
    except (OSError, ValueError):
        return ()


def find_wall(config: Config, channels: Collection[str] | None = None) -> WallCalibration | None:
    """Find the newest calibration of this machine, with exactly these inner channels if given."""
    for found in reversed(load_wall(config)):
        fits = channels is None or set(channels) == set(found.channels)
        if fits and found.machine == machine_name():
            return found
    return None


def save_wall(config: Config, added: WallCalibration) -> None:
    """Add a calibration, or replace the one of its id; EtuiError if it cannot be written."""
    kept = [each for each in load_wall(config) if each.id != added.id]
    kept = sorted([*kept, added], key=lambda each: each.created_at)
    path = wall_file(config)
    make_home(config)
    with writing(path, HOME_FIX):
        write_text(path, json.dumps(to_document(kept), indent=2) + "\n")


def save_checks(config: Config, recorder: Recorder, now_ns: int) -> str:
    """Compare the wall meter with the model over what was recorded, and keep the results.

    Returns what to do if the calibration is outdated; empty otherwise.
    """
    model, begin_ns = recorder.wall_model, recorder.recorded_since_ns
    if model is None or begin_ns is None:
        return ""
    if model.meter not in {channel.id for channel in recorder.wall_channels}:
        return model.describe_drift()
    end_ns = now_ns - int(recorder.wall_wait_s(model.meter) * 1e9)
    length_ns = int(min(max((end_ns - begin_ns) / _CHECKS_OFF, model.least_check_ns), _CHECK_NS))
    starts = range(end_ns - length_ns, begin_ns - 1, -length_ns)[:_CHECKS_OFF]
    found = [model.check(recorder, start_ns, start_ns + length_ns) for start_ns in starts]
    if added := [check for check in reversed(found) if check is not None]:
        model = replace(model, checks=(*model.checks, *added)[-_CHECKS_KEPT:])
        recorder.wall_model = model
        save_wall(config, model)
    return model.describe_drift()


def describe_wall_drift(config: Config) -> str:
    """Say that the newest calibration of this machine no longer holds; empty while it does."""
    found = find_wall(config)
    return "" if found is None else found.describe_drift()


def wall_text(wall: WallEnergy) -> str:
    """Format joules at the wall: ``412 ± 9 J (model), calibration 1a2b3c4d``."""
    text = energy_text(wall.joules, wall.uncertainty, Kind.MODEL, spread=True)
    beyond = ", beyond the calibrated range" if wall.extrapolated else ""
    return f"{text}, calibration {wall.calibration}{beyond}"


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))

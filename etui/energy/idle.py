"""The power of the machine while etui does nothing: with a model in memory, and without.

A cold baseline is measured without a model. Weights and a context in GPU memory draw more, so each
model has a loaded baseline of its own. Baselines are saved in ``ETUI_HOME/idle.json`` by channel,
and used only while the machine has the same channels. No dedicated measurement is needed: the meter
records all the time, so a pause between two questions that was long enough is evaluated afterwards.

Only a machine at rest has a baseline: other programs would be subtracted from every answer. The
idle power of an estimate is not measured, because its formula states it.

Freeing the weights does not make a machine cold: a process that holds a context keeps a GPU at 10
to 80 W more. So the engine's process ends as well, and the power after it is compared with the cold
baseline (:class:`CoolDown`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from etui.atomic import write_text
from etui.codec import from_document, to_document
from etui.config.config import Config, make_home
from etui.energy.keep_warm import Measured
from etui.energy.recorder import Recorder
from etui.energy.types import Energy, combine
from etui.errors import HOME_FIX, EtuiError, writing
from etui.units import watts_text

BUSY_SHARE = 0.2
"""Utilisation of all CPUs above which other programs count as running."""
PAUSE_QUIET_SECONDS = 30.0
"""Wait before the power counts as idle: clocks and fans slow down gradually."""
PAUSE_MEASURED_SECONDS = 5.0
MEASURABLE_SECONDS = PAUSE_QUIET_SECONDS + PAUSE_MEASURED_SECONDS + 1.0
"""A pause of this length is long enough for a baseline."""
KEPT_SECONDS = 300.0
"""Only this last part of a pause is used; a recorder keeps at least ten minutes."""
COOL_QUIET_SECONDS = 5.0
"""Wait after the end of the process: clocks and voltages step down gradually."""
COOL_MEASURED_SECONDS = 5.0
"""Length of the intervals before the unload and after the end of the process."""
_COOL_LEAST_SECONDS = 2.0  # A shorter interval before the unload is not measured
_SETTLED_SECONDS = 2.0  # Time after an answer or a load that does not count as idle
_COOL_NOISE = 0.03
"""Difference to the cold baseline, relative, below which a machine is cold: sensors are noisy."""
_BELOW = 0.97
"""A power counts as below a baseline if it is less than this share of it."""
_LEAST_COVERAGE = 0.99
_LOOK_S = 1.0
_SLICES = 8
_UNSTEADY = 0.25  # Largest difference of slices, relative, while the power is steady
_T_OF_SLICES = 2.365
"""Quantile of Student's t for a mean of eight slices, at 95 %."""
Watts = Mapping[str, float]
BaselineKind = Literal["loaded", "cold", "formula"]
"""Whether a baseline was measured with a model in memory, without, or is that of an estimate."""
CoolState = Literal["cold", "above", "unknown"]


@dataclass(frozen=True, slots=True)
class IdleBaseline:
    """One baseline."""

    watts: Watts  # Channel id -> mean watts
    measured_at: float  # Seconds since 1970
    seconds: float  # Length of the measurement
    steady: bool  # Whether the power was even and no other program used the machine: it was idle
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
        """Return the baseline of a model, else the cold one, if it has all channels; else None."""
        loaded = None if model is None else self.loaded.get(model)
        if loaded is not None and channels and set(channels) <= set(loaded.watts):
            return "loaded", loaded
        if self.cold is not None and channels and set(channels) <= set(self.cold.watts):
            return "cold", self.cold
        return None

    def extra_watts(self, model: str) -> Measured | None:
        """Return how many watts more the machine draws with a model in memory than without.

        None without both baselines over the same channels.
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
    """Save the baselines; EtuiError if the file cannot be written."""
    make_home(config)
    path = baseline_file(config)
    with writing(path, HOME_FIX):
        write_text(path, json.dumps(to_document(baselines), indent=2) + "\n")


def measure_baseline(
    recorder: Recorder, seconds: float = 5.0, *, force: bool = False
) -> IdleBaseline | None:
    """Measure the current idle power and use it as the recorder's baseline; None without a channel.

    EtuiError if other programs used the machine, without ``force``; the baseline is kept then.
    """
    before = recorder.idle_by_channel
    energy = recorder.measure_idle(seconds)
    busy = find_other_use(recorder, energy.start_ns, energy.end_ns)
    if busy and not force and list_measured(recorder):
        recorder.set_idle(before)
        raise _build_refusal(busy)
    return _build_idle(recorder, energy)


def compute_baseline(recorder: Recorder, start_ns: int, end_ns: int) -> IdleBaseline | None:
    """Build a baseline from a recorded idle interval; the recorder's own baseline does not change.

    None when a channel of the total was not recorded all the time.
    """
    energy = recorder.energy(start_ns, end_ns)
    return _build_idle(recorder, energy) if energy.coverage >= _LEAST_COVERAGE else None


def measure_idle_watts(recorder: Recorder, start_ns: int, end_ns: int) -> Measured | None:
    """Compute the idle watts of a recorded interval, to compare with a baseline's total.

    None if nothing can be measured (an estimate has no idle power of its own), a part of the
    interval was not recorded, or another program used the machine.
    """
    idle = compute_baseline(recorder, start_ns, end_ns) if list_measured(recorder) else None
    return idle.total if idle is not None and idle.steady else None


def use_baseline(
    recorder: Recorder, baselines: Baselines, model: str | None = None
) -> BaselineKind | None:
    """Set the recorder's baseline to that of a model in memory, else to the cold one.

    Returns which; None when there is none, which leaves the recorder without one.
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


def _build_idle(recorder: Recorder, energy: Energy) -> IdleBaseline | None:
    if energy.joules is None or not energy.channels:
        return None
    stated = {c.id: c.idle_watts for c in recorder.selection.summed if c.idle_watts is not None}
    watts = {part.id: stated.get(part.id, part.mean_watts) for part in energy.channels}
    curve = recorder.power_curve(energy.start_ns, energy.end_ns, _SLICES)
    slices = [value for _, value in curve if value is not None]
    even = (
        len(slices) == _SLICES
        and bool(energy.mean_watts)
        and max(slices) - min(slices) <= _UNSTEADY * (energy.mean_watts or 0.0)
    )
    at_rest = even and not find_other_use(recorder, energy.start_ns, energy.end_ns)
    # The idle power of an estimate is stated and the same at any time, so it adds nothing.
    parts = [part.half_widths for part in energy.channels if part.id not in stated]
    uncertainty = 0.0
    if parts and energy.seconds:
        from statistics import stdev  # not for the start of a meter

        count = len(slices)
        spread = _T_OF_SLICES * stdev(slices) / math.sqrt(count) if count > 1 else 0.0
        uncertainty = math.hypot(combine(parts) / energy.seconds, spread)
    steady = at_rest or not list_measured(recorder)
    return IdleBaseline(watts, time.time(), energy.seconds, steady, uncertainty)


def find_other_use(
    recorder: Recorder, start_ns: int, end_ns: int, cpu_share: float | None = None
) -> str:
    """Name what other programs used while etui was idle; empty if the machine was at rest.

    ``cpu_share`` is the utilisation of all CPUs, 0..1; None takes what the recorder has recorded.
    """
    watch = recorder.watch
    scopes = [channel.scope for channel in recorder.selection.summed]
    if watch and any(watch.share(scope, start_ns, end_ns).shared for scope in scopes):
        return "other processes use a GPU"
    if cpu_share is None and recorder.cpu_watch is not None:
        cpu_share = recorder.cpu_watch.busy_share(start_ns, end_ns)
    if cpu_share is not None and cpu_share > BUSY_SHARE:
        return f"the CPUs are busy ({cpu_share:.0%})"
    return ""


def refuse_busy(
    recorder: Recorder, *, force: bool, note: Callable[[str], object], consequence: str
) -> bool:
    """Refuse a busy machine by an EtuiError: its other joules would be counted as the model's.

    It looks for a second, in which etui itself must be idle. With ``force`` it only notes what
    runs, and the consequence (``the curve will be too high``), and returns whether anything does.
    """
    import psutil

    start_ns = time.monotonic_ns()
    cpu_share = psutil.cpu_percent(interval=_LOOK_S) / 100
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    what = find_other_use(recorder, start_ns, end_ns, cpu_share)
    if what and not force:
        raise _build_refusal(what)
    if what:
        note(f"the machine is not idle: {what}; {consequence}")
    return bool(what)


def _build_refusal(what: str) -> EtuiError:
    fix = "end the other programs, or measure anyway with --force"
    return EtuiError(f"the machine is not idle: {what}", fix)


class IdleTracker:
    """Finds idle baselines in the pauses of a front end that answers one question at a time."""

    def __init__(
        self, recorder: Recorder, config: Config, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._recorder = recorder
        self._config = config
        self.clock = clock
        self._model: str | None = None
        self.since_ns: int | None = None  # Start of the running pause; None outside of one

    def begin(self, model: str | None) -> None:
        """Start a pause: an answer or a load has ended with this model in memory.

        None: without any, and without a process of the engine.
        """
        self._model = model
        self.since_ns = self.clock()

    def end(self) -> IdleBaseline | None:
        """End the pause before new work; save and return its baseline if it was long enough.

        A model is measured once, and again when a pause draws less power than its baseline, or has
        other channels. The cold baseline is replaced as well if the machine draws less even with a
        model in memory. A pause in which something else ran is not used. EtuiError if the baseline
        cannot be written.
        """
        since_ns, self.since_ns = self.since_ns, None
        if since_ns is None:
            return None
        model, now_ns = self._model, self.clock()
        start_ns = max(since_ns + _ns(PAUSE_QUIET_SECONDS), now_ns - _ns(KEPT_SECONDS))
        end_ns = start_ns + _ns(PAUSE_MEASURED_SECONDS)
        if end_ns > now_ns or not list_measured(self._recorder):
            return None
        idle = compute_baseline(self._recorder, start_ns, end_ns)
        if idle is None or not idle.steady:
            return None
        known = load_baselines(self._config)
        before = known.cold if model is None else known.loaded.get(model)
        if before is not None and not idle.replaces(before):
            return None
        known = known.with_idle(idle, model)
        if known.cold is not None and idle.is_below(known.cold):
            known = known.with_idle(idle, None)
        save_baselines(self._config, known)
        return idle


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


@dataclass(frozen=True, slots=True)
class CoolDown:
    """Idle power around an unload, of the channels that are measured together; None if unknown."""

    before: Measured | None = None  # With the model in memory, just before the unload
    after: Measured | None = None  # After the engine's process has ended
    cold: Measured | None = None

    @property
    def above_cold(self) -> Measured | None:
        """How many watts more than cold the machine draws afterwards."""
        if self.after is None or self.cold is None:
            return None
        return self.after.minus(self.cold)

    @property
    def state(self) -> CoolState:
        """Whether the machine is back to cold, as far as the measurement can tell."""
        above = self.above_cold
        if above is None or self.cold is None:
            return "unknown"
        noise = max(above.uncertainty or 0.0, _COOL_NOISE * self.cold.value)
        return "above" if above.value > noise else "cold"


def describe_cool_down(found: CoolDown) -> str:
    """Compare it: ``as without a model``, ``still 9.0 ± 0.4 W more than …``, ``not known``."""
    above = found.above_cold
    if above is None:
        return "not known"
    if found.state == "cold":
        return "as without a model"
    more = watts_text(above.value, uncertainty=above.uncertainty)
    return f"still {more} more than without a model"


def choose_before_interval(rested_ns: int | None, unload_ns: int) -> tuple[int, int] | None:
    """Choose the interval before an unload whose power is that of the idle model.

    None if it has rested for too short a time since the last answer or load, at ``rested_ns``.
    """
    if rested_ns is None:
        return None
    start_ns = max(rested_ns + _ns(_SETTLED_SECONDS), unload_ns - _ns(COOL_MEASURED_SECONDS))
    return (start_ns, unload_ns) if unload_ns - start_ns >= _ns(_COOL_LEAST_SECONDS) else None

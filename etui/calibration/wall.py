"""Calibrate the wall: hold loads, read the wall meter and the inner channels, fit one to the other.

Every round holds each load once, in random order. A step from idle to full load first shows how
late the meter's reading is (a delay and a first-order lag, fitted to the recorded inner power), so
that each load is held until the reading has settled. A load during which the inner power changed
is held again.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from etui.calibration.grid import CurveVisit
from etui.config.machine import machine_name
from etui.energy.lags import correlate
from etui.energy.recorder import Recorder
from etui.energy.scopes import WALL, family, weakest
from etui.energy.types import Channel, Reading
from etui.energy.wall_model import WallCalibration, WallLevel, split_watts, wall_features
from etui.errors import EtuiError
from etui.measure.progress import Progress, Watch
from etui.stats.distributions import t_quantile
from etui.units import count_text, seconds_text, watts_text

if TYPE_CHECKING:
    import numpy as np

    from etui.calibration.measure import TurnTimer

    Floats = np.ndarray[Any, np.dtype[np.float64]]

ROUNDS = 5
LEAST_ROUNDS = 3
GUESSED_SETTLE_S = 8.0
"""Settling time of a usual plug, for the time that a dry run states."""
_WINDOW_S = 10.0
_WINDOW_PERIODS = 4
_IDLE_S = 6.0
_LOOK_S = 5.0
_UNKNOWN_PERIOD_S, _UNKNOWN_STEP_WATTS = 10.0, 1.0
"""Of a meter whose reading has hardly changed yet: rather too long than too short."""
_LONGEST_RESPONSE_S = 150.0
_TIME_CONSTANTS = 6.0
"""Time constants of the meter after which 0.25 % of a step are left."""
_GRID_S = 0.25
_LONGEST_DELAY_S = 15.0
_FOLLOWS = 0.8
"""Least share of the variance of the wall's readings that the inner power must explain."""
_LEAST_COVERAGE = 0.99
_UNSTEADY, _UNSTEADY_OF_RANGE = 0.05, 0.02
"""Most change of the inner power, of itself and of the range, while a load counts as steady."""
_CHUNK = 20_000
"""Rounds of a hash between two looks at the end: about 10 ms."""
_QUANTILE = 1.96
_LEAST_RANGE_STEPS = 5
"""Steps of the meter's digits that the calibrated wall watts must span."""
_WORST_SLOPE = 0.25
_CURVED_STEPS = 40
"""Range of inner watts, in errors of a level, from which the curvature of the loss is fitted."""
_FLATTER = 80
"""A loss that is left straight is at most the range divided by this from it, watts."""

Worker = Callable[[threading.Event], None]
"""Keeps one part of the machine busy until the event is set."""


@dataclass(frozen=True, slots=True)
class Load:
    """One step of load."""

    name: str
    workers: tuple[Worker, ...] = ()


@contextmanager
def run_load(load: Load) -> Iterator[None]:
    """Run the workers of a load during the body, each in a thread; raise what one raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(load.workers) or 1) as pool:
        running = [pool.submit(worker, stop) for worker in load.workers]
        try:
            yield
        finally:
            stop.set()
    for worker in running:
        worker.result()


def list_cpu_loads(cpus: int) -> list[Load]:
    """List loads of the CPU alone: idle, one thread, and shares of all threads up to all."""
    counts = sorted({min(1.0, cpus / 4), 1.0, cpus / 4, cpus / 2, 3 * cpus / 4, float(cpus)})
    return [Load("idle"), *(_build_cpu_load(count) for count in counts)]


def _build_cpu_load(threads: float) -> Load:
    whole, part = int(threads), threads - int(threads)
    workers = [partial(_compute, 1.0)] * whole + [partial(_compute, part)] * (part > 0)
    return Load(f"{threads:g} {'thread' if threads == 1 else 'threads'}", tuple(workers))


def _compute(duty: float, stop: threading.Event) -> None:
    """Hash without the GIL for a share of the time."""
    while not stop.is_set():
        begun = time.monotonic()
        hashlib.pbkdf2_hmac("sha256", b"etui", b"wall", _CHUNK)
        busy = time.monotonic() - begun
        if duty < 1.0:
            stop.wait(busy * (1 - duty) / duty)


def list_model_loads(timer: TurnTimer, context_tokens: int, gpu_threads: int) -> list[Load]:
    """List loads of a model: decode, prefill, and beside ``gpu_threads`` of the CPU if it is not 0.

    The timer runs its turns, with windows of no length.
    """
    decode = partial(timer.repeat, CurveVisit(8, 32))
    prefill = partial(timer.repeat, CurveVisit(min(256, context_tokens // 2), 2))
    loads = [Load("decode", (decode,)), Load("prefill", (prefill,))]
    if gpu_threads:
        both = _build_cpu_load(gpu_threads)
        loads.append(Load(f"prefill and {both.name}", (prefill, *both.workers)))
    return loads


@dataclass(frozen=True, slots=True)
class Response:
    """How a wall meter's reading follows a change of power."""

    delay_s: float
    time_constant_s: float
    period_s: float
    explained: float  # Share of the variance of the readings, 0..1

    @property
    def lag_s(self) -> float:
        """Mean delay of the reading."""
        return self.delay_s + self.time_constant_s + self.period_s / 2

    @property
    def settle_s(self) -> float:
        """Time after which a change of power is over in the reading."""
        return self.delay_s + _TIME_CONSTANTS * self.time_constant_s + self.period_s + 0.5

    @property
    def window_s(self) -> float:
        """Time over which the reading of a load is averaged."""
        return max(_WINDOW_S, _WINDOW_PERIODS * self.period_s)


def expected_seconds(loads: int, rounds: int, response: Response | None = None) -> float:
    """Predict how long the rounds take; without a response, with that of a usual plug."""
    if response is None:
        return loads * rounds * (GUESSED_SETTLE_S + _WINDOW_S) + 30.0
    return loads * rounds * (response.settle_s + response.window_s + 0.5)


def find_meter(recorder: Recorder, name: str | None = None) -> Channel:
    """Find the wall meter to calibrate with; EtuiError if there is none, or no inner channel."""
    meters = [c for c in recorder.channels if family(c.scope) == WALL]
    found = [c for c in meters if name in (None, c.id)]
    if not found:
        known = f"; there are {', '.join(c.id for c in meters)}" if meters else ""
        what = f"there is no wall meter {name!r}{known}" if name else "there is no wall meter"
        fix = "add the plug to `wall_meters` in config.yaml; `etui doctor` shows whether it answers"
        raise EtuiError(what, fix)
    if not recorder.selection.summed or found[0] in recorder.selection.summed:
        raise EtuiError(
            "there are no channels inside the machine to fit to the wall meter",
            "`etui doctor` shows what makes them readable; without any, the meter is the total",
        )
    if len(found) > 1:
        names = ", ".join(c.id for c in found)
        raise EtuiError(f"there are several wall meters: {names}", "name one with --meter")
    return found[0]


class WallRun:
    """Holds the loads of a calibration and measures them.

    The recorder learns how late the energy of a meter is; how long a load must be held also depends
    on the time constant, and its steady readings need no energy. The first load is idle; the one
    with the most workers shows the meter's lag.
    """

    def __init__(
        self,
        recorder: Recorder,
        meter: Channel,
        loads: Sequence[Load],
        watch: Watch,
        *,
        hold: Callable[[Load], AbstractContextManager[object]] = run_load,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._recorder, self._meter, self._loads, self._watch = recorder, meter, loads, watch
        self._hold, self._clock, self._sleep = hold, clock, sleep
        self._seen: list[tuple[int, float]] = []  # Readings of the meter: time and watts

    def measure(self, rounds: int = ROUNDS, seed: int = 0) -> WallCalibration:
        """Measure all rounds and fit; EtuiError where the fit cannot be identified."""
        self._recorder.taps.append(self._see)
        try:
            response = self._learn_response()
            left = expected_seconds(len(self._loads), rounds, response)
            text = (
                f"the meter settles within {seconds_text(response.settle_s)}; "
                f"{count_text(rounds, 'round')} of {count_text(len(self._loads), 'load')} take "
                f"about {seconds_text(left)}; Ctrl-C stops and keeps nothing"
            )
            self._watch(Progress(text))
            found = self._measure_rounds(rounds, response, random.Random(seed))
        finally:
            self._recorder.taps.remove(self._see)
        return fit_wall(found, response, self._recorder, self._meter)

    def _see(self, readings: Mapping[str, Reading]) -> None:
        reading = readings.get(self._meter.id)
        if reading is not None and reading.watts is not None:
            self._seen.append((reading.t_ns, reading.watts))

    def _learn_response(self) -> Response:
        """Learn how late the meter is, by a step from idle to the fullest load."""
        fullest = max(self._loads, key=lambda load: len(load.workers))
        start_ns = self._clock()
        with self._hold(self._loads[0]):
            self._sleep(_IDLE_S)
        with self._hold(fullest):
            begun_ns = self._clock()
            while True:
                self._sleep(_LOOK_S)
                seconds = (self._clock() - begun_ns) / 1e9
                found = self._fit_response(start_ns)
                known = found.explained >= _FOLLOWS
                if known and seconds >= found.settle_s + 2 * found.period_s + _LOOK_S:
                    return found
                if seconds >= _LONGEST_RESPONSE_S:
                    break
                text = "learning how late the wall meter is"
                self._watch(Progress(text, seconds, _LONGEST_RESPONSE_S))
        what = f"has not settled within {seconds_text(_LONGEST_RESPONSE_S)}"
        if not known:
            what = "does not follow the load of this machine"
        if not self._seen:
            what = "gives no watts"
        fix = "check that it answers, and that this machine alone is plugged into it"
        raise EtuiError(f"the wall meter {what}", fix)

    def _fit_response(self, start_ns: int) -> Response:
        import numpy as np

        end_ns = self._clock()
        self._recorder.settle(end_ns)
        count = int((end_ns - start_ns) / 1e9 / _GRID_S)
        curve = self._recorder.power_curve(start_ns, end_ns, count)
        times = np.array([at for at, _ in curve])
        inner = np.array([np.nan if watts is None else watts for _, watts in curve])
        seen = list(self._seen)
        period_s = min(
            self._recorder.period_s(self._meter.id) or _UNKNOWN_PERIOD_S, _LONGEST_DELAY_S
        )
        if np.isnan(inner).any() or len(seen) < 2 or seen[-1][0] < start_ns:
            return Response(0.0, 0.0, period_s, 0.0)
        at = np.searchsorted([t for t, _ in seen], times, side="right") - 1
        wall = np.array([watts for _, watts in seen])[np.maximum(at, 0)]
        delay_s, constant_s, explained = fit_lag(inner, wall, _GRID_S)
        return Response(delay_s, constant_s, period_s, explained)

    def _measure_rounds(
        self, rounds: int, response: Response, order: random.Random
    ) -> list[list[WallLevel]]:
        """Hold every load once per round, and half of them once more if they were disturbed."""
        found: list[list[WallLevel]] = [[] for _ in range(rounds)]
        total = rounds * len(self._loads)
        for number, done in enumerate(found):
            waiting = list(self._loads)
            order.shuffle(waiting)
            again = len(waiting) // 2 + 1
            while waiting:
                load, measured = waiting.pop(0), sum(map(len, found))
                left = expected_seconds(1, total - measured, response)
                text = f"round {number + 1} of {rounds}: {load.name}"
                self._watch(Progress(f"{text}, about {seconds_text(left)} left", measured, total))
                level = self._measure(load, response, done)
                if level is not None:
                    done.append(level)
                elif again:
                    again -= 1
                    waiting.append(load)
        return found

    def _measure(
        self, load: Load, response: Response, before: Sequence[WallLevel]
    ) -> WallLevel | None:
        """Hold a load and measure it; None if it was disturbed."""
        with self._hold(load):
            begun_ns = self._clock()
            self._sleep(response.settle_s)
            start_ns = self._clock()
            self._sleep(response.window_s)
            end_ns = self._clock()
        self._recorder.settle(end_ns)
        energy = self._recorder.energy(start_ns, end_ns)
        wall = self._mean_wall(start_ns, end_ns, max(2.0, 3 * response.period_s))
        third_ns = (2 * end_ns - begun_ns - start_ns) // 6
        spans = [(end_ns - 3 * third_ns, end_ns - 2 * third_ns), (end_ns - third_ns, end_ns)]
        first, last = self._recorder.joules_of(spans)
        if wall is None or energy.mean_watts is None or energy.coverage < _LEAST_COVERAGE:
            return None
        if first is None or last is None:
            return None
        inner = [level.inner_watts for level in before] or [energy.mean_watts]
        limit = max(
            _UNSTEADY * energy.mean_watts, _UNSTEADY_OF_RANGE * (max(inner) - min(inner)), 0.5
        )
        if abs(last - first) / (third_ns / 1e9) > limit:
            return None
        return WallLevel(load.name, *split_watts(energy.channels), wall)

    def _mean_wall(self, start_ns: int, end_ns: int, longest_s: float) -> float | None:
        """Average the meter's readings over an interval, each held until the next one."""
        first_ns = start_ns - longest_s * 1e9
        found = [(t, watts) for t, watts in list(self._seen) if first_ns <= t < end_ns]
        ends = [*(t for t, _ in found[1:]), end_ns]
        joules = known = 0.0
        for (t, watts), until in zip(found, ends, strict=True):
            held = min(until, t + int(longest_s * 1e9)) - max(t, start_ns)
            if held > 0:
                joules, known = joules + watts * held, known + held
        return joules / known if known >= 0.9 * (end_ns - start_ns) else None


def fit_lag(inner: Floats, wall: Floats, step_s: float) -> tuple[float, float, float]:
    """Fit a delay and a time constant, with which the inner power explains the readings best.

    ``inner`` and ``wall`` are watts at the same times, ``step_s`` apart. Returns delay and time
    constant in seconds, and the share of the variance that they explain.
    """
    import numpy as np

    best = (0.0, 0.0, 0.0)
    for constant_s in (0.0, *np.geomspace(0.1, 30.0, 30)):
        keep = math.exp(-step_s / constant_s) if constant_s else 0.0
        late, state = np.empty(len(inner)), float(inner[0])
        for index, watts in enumerate(inner):
            state = keep * state + (1 - keep) * float(watts)
            late[index] = state
        for shift in range(min(int(_LONGEST_DELAY_S / step_s), len(inner) - 2)):
            moved = np.concatenate((np.full(shift, late[0]), late[: len(late) - shift]))
            follows = correlate(moved, wall) or 0.0
            if follows > 0 and follows**2 > best[2]:
                best = (shift * step_s, float(constant_s), follows**2)
    return best


def fit_wall(
    rounds: Sequence[Sequence[WallLevel]],
    response: Response,
    recorder: Recorder,
    meter: Channel,
) -> WallCalibration:
    """Fit the wall watts to the inner watts of all rounds.

    EtuiError if the loads span too little, or the slope is not determined.
    """
    import numpy as np

    state = recorder.wall_state(meter.id)
    resolution_watts = (state and state.step_watts) or _UNKNOWN_STEP_WATTS
    levels = _average_levels([level for each in rounds for level in each])
    inner = [level.inner_watts for level in levels]
    wall = [level.wall_watts for level in levels]
    gpu = [level.gpu_watts for level in levels]
    span = max(inner, default=0.0) - min(inner, default=0.0)
    if len(levels) < 4 or max(wall) - min(wall) < _LEAST_RANGE_STEPS * resolution_watts:
        raise EtuiError(
            f"the loads span too little: {len(levels)} of them could be measured, over "
            f"{max(wall, default=0.0) - min(wall, default=0.0):.1f} W at the wall",
            "end other programs, load a model that uses the GPU with --model, or use a meter with "
            "finer digits",
        )
    step = resolution_watts / math.sqrt(12)
    curved = span >= _CURVED_STEPS * step and len(levels) >= 5
    by_gpu = max(gpu) - min(gpu) >= max(5.0, 10 * step) and len(levels) >= 5 + curved

    def build(points: Sequence[WallLevel]) -> Floats:
        rows = (wall_features(p.cpu_watts, p.gpu_watts, by_gpu, curved, max(inner)) for p in points)
        return np.array(list(rows))

    design = build(levels)
    parameters = design.shape[1]
    coefficients, residuals = [], dict[str, list[float]]()
    for own in rounds:
        rows, values = build(own), np.array([level.wall_watts for level in own])
        if len(own) <= parameters or np.linalg.matrix_rank(rows, 1e-6 * max(inner)) < parameters:
            continue
        found = np.linalg.lstsq(rows, values, rcond=None)[0]
        coefficients.append(tuple(found.tolist()))
        for level, left in zip(own, (values - rows @ found).tolist(), strict=True):
            residuals.setdefault(level.name, []).append(left)
    if len(coefficients) < LEAST_ROUNDS:
        raise EtuiError(
            f"only {count_text(len(coefficients), 'round')} had enough undisturbed loads",
            "end the other programs, or measure more --rounds",
        )
    freedom = len(levels) - parameters
    lack = _find_lack(residuals, freedom, step)
    summed = recorder.selection.summed
    made = WallCalibration(
        id=uuid4().hex[:8],
        created_at=time.time(),
        machine=machine_name(),
        meter=meter.id,
        channels=tuple(channel.id for channel in summed),
        kind=str(weakest(channel.kind for channel in summed)),
        by_gpu=by_gpu,
        curved=curved,
        rounds=tuple(coefficients),
        t=t_quantile(0.025, len(coefficients) - 1),
        inverse=tuple(map(tuple, np.linalg.inv(design.T @ design).tolist())),
        level_watts=_QUANTILE * step,
        lack_watts=t_quantile(0.025, freedom) * lack + (0.0 if curved else span / _FLATTER),
        relative_error=meter.relative_error,
        low=(min(inner), min(level.cpu_watts for level in levels), min(gpu)),
        high=(max(inner), max(level.cpu_watts for level in levels), max(gpu)),
        resolution_watts=resolution_watts,
        period_s=response.period_s,
        lag_s=response.lag_s,
        settle_s=response.settle_s,
        window_s=response.window_s,
        levels=tuple(levels),
    )
    slope, half = made.slope_error
    if slope <= 0 or half > _WORST_SLOPE * slope:
        raise EtuiError(
            "the loss of the power supply is not determined: "
            f"{watts_text(slope, uncertainty=half)} at the wall per watt inside",
            "end other programs, measure more --rounds, or use a meter with finer digits",
        )
    return made


def _average_levels(found: Sequence[WallLevel]) -> list[WallLevel]:
    """Average the measurements of each load, the smallest power first."""
    levels = []
    for name in dict.fromkeys(level.name for level in found):
        own = [level for level in found if level.name == name]
        cpu, gpu, wall = (
            math.fsum(values) / len(own)
            for values in zip(*((e.cpu_watts, e.gpu_watts, e.wall_watts) for e in own), strict=True)
        )
        levels.append(WallLevel(name, cpu, gpu, wall, len(own)))
    return sorted(levels, key=lambda level: level.inner_watts)


def _find_lack(residuals: Mapping[str, Sequence[float]], freedom: int, step: float) -> float:
    """Return the deviation of the loads from the curve, beyond noise and digits, watts."""
    means = {name: math.fsum(each) / len(each) for name, each in residuals.items()}
    noise = math.fsum(
        (left - means[name]) ** 2 for name, each in residuals.items() for left in each
    )
    count = math.fsum(map(len, residuals.values())) / len(residuals)
    of_mean = noise / (freedom * (count - 1) * count)
    lack = math.fsum(mean**2 for mean in means.values()) / freedom
    return math.sqrt(max(lack - of_mean - step**2, 0.0))

"""Play turns to the meter: rest, prefill, decode, rest, with the marks of the engine's events.

Random windows say little about turns: the power steps up exactly where an answer starts, and down
where it ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from etui.energy.recorder import SETTLE_OF_AVERAGE, SETTLE_S, Recorder
from etui.energy.sampler import BURST_INTERVAL_NS, BURST_NS, HURRY_INTERVAL_NS, dither_interval
from etui.energy.types import Phase
from tests.support.devices import FakeClock, FakeDevice, Sensor
from tests.support.play import EnergyWindow
from tests.support.power_curves import WattCurve, steps

PHASES: tuple[Phase, ...] = ("prefill", "decode", "idle")
"""What begins at the marks of a turn."""
PREFILL_SECONDS = {0.3: 0.06, 1.0: 0.15, 2.0: 0.25, 10.0: 0.6}
"""Length of a turn -> length of its prefill, seconds."""


@dataclass(frozen=True, slots=True)
class TurnLoad:
    """The load of a turn.

    Attributes:
        rest_watts, prefill_watts, decode_watts: Power before and after, and in the phases.
        varies: Relative deviation of the power of a phase from turn to turn.
        ramp_s: Time in which the power rises or falls at a step; 0 if at once.
    """

    seconds: float
    prefill_seconds: float
    rest_watts: float = 40.0
    prefill_watts: float = 300.0
    decode_watts: float = 180.0
    late_s: float = 0.002
    """The power steps up to this much after the start of a phase, and up to this much before the
    end of the turn, at random."""
    pause_watts: float | None = None  # Power between turns of a queue; None: that of the rest
    varies: float = 0.0
    ramp_s: float = 0.0

    def draw(self, rng: random.Random) -> tuple[float, float]:
        """Draw the watts of the prefill and of the decode of one turn."""
        high = 1 + self.varies, 1 - self.varies
        return self.prefill_watts * rng.uniform(*high), self.decode_watts * rng.uniform(*high)


@dataclass(frozen=True, slots=True)
class PlayedTurn:
    """The windows of a turn: the whole, and its phases."""

    total: EnergyWindow
    prefill: EnergyWindow
    decode: EnergyWindow
    later: EnergyWindow | None = None  # The whole, measured again after the last turn of a queue


class _Sampler:
    """Reads the recorder as its thread would: often in the first second, and sometimes late."""

    def __init__(self, recorder: Recorder, clock: FakeClock, rng: random.Random) -> None:
        self._recorder = recorder
        self._clock = clock
        self._rng = rng
        self._beat = 0
        self._due_ns = self._began_ns = clock.now_ns
        self._hurry_until_ns = 0

    def run(self, until_ns: int) -> None:
        """Sample until a time, and set the clock to it."""
        while self._due_ns <= until_ns:
            self._clock.now_ns = max(self._clock.now_ns, self._due_ns)
            self._recorder.sample_now()
            self._beat += 1
            young = self._clock.now_ns - self._began_ns < BURST_NS
            interval_ns = round(1e9 / self._recorder.hz)
            pause_ns = BURST_INTERVAL_NS if young else dither_interval(interval_ns, self._beat)
            if self._clock.now_ns < self._hurry_until_ns:
                pause_ns = min(pause_ns, HURRY_INTERVAL_NS)
            late_s = self._rng.expovariate(2000)
            late_s += self._rng.uniform(0, 0.03) if self._rng.random() < 0.01 else 0
            self._due_ns = self._clock.now_ns + pause_ns + round(late_s * 1e9)
        self._clock.now_ns = max(self._clock.now_ns, until_ns)

    def hurry(self, until_ns: int) -> None:
        """Read often until a time, since a turn has ended."""
        self._hurry_until_ns = until_ns

    def settle(self, end_ns: int) -> None:
        """Read often until the energy up to a time is final, or for the longest wait."""
        late_s = max(channel.average_s for channel in self._recorder.channels)
        limit_ns = end_ns + round((SETTLE_S + SETTLE_OF_AVERAGE * late_s) * 1e9)
        while not self._recorder.settle(end_ns) and self._clock.now_ns < limit_ns:
            self._clock.advance(HURRY_INTERVAL_NS / 1e9)
        self._due_ns = self._clock.now_ns


def play_turns(
    sensors: Sequence[Sensor],
    load: TurnLoad,
    count: int,
    rng: random.Random,
    *,
    marked: bool = True,
    device: Callable[..., FakeDevice] = FakeDevice,
) -> list[PlayedTurn]:
    """Play turns with pauses of random length, and measure each when it has settled.

    Args:
        sensors: One per device; all devices have the same load, each its own phase.
        rng: Source of the phases, pauses and delays.
        marked: Whether the recorder is given the marks of the engine's events.
        device: Makes a device, for faults.
    """
    levels: list[tuple[float, float]] = []
    marks: list[tuple[float, float, float]] = []
    now = 0.0
    for _ in range(count):
        rest = rng.uniform(1.6, 2.4)
        late = [rng.uniform(0, load.late_s) for _ in range(3)]
        start = now + rest
        first, end = start + load.prefill_seconds, start + load.seconds
        levels += [
            (rest + late[0], load.rest_watts),
            (load.prefill_seconds - late[0] + late[1], load.prefill_watts),
            (load.seconds - load.prefill_seconds - late[1] - late[2], load.decode_watts),
            (late[2], load.rest_watts),
        ]
        marks.append((start, first, end))
        now = end
    curve = _build_curve([*levels, (3.0, load.rest_watts)], load.ramp_s)
    recorder, clock = _open(curve, sensors, rng, device)
    sampler = _Sampler(recorder, clock, rng)
    found = []
    for turn in marks:
        for mark in turn:
            sampler.run(clock.at(mark))
            if marked:
                recorder.mark(clock.now_ns, PHASES[turn.index(mark)])
        sampler.settle(clock.at(turn[2]))
        found.append(_measure(recorder, clock, curve, turn))
    return found


def play_queue(
    sensors: Sequence[Sensor],
    load: TurnLoad,
    pause_s: tuple[float, float],
    count: int,
    rng: random.Random,
) -> list[PlayedTurn]:
    """Play turns that follow each other after short pauses, and measure each as soon as it can be.

    A turn is measured when it has settled, or after the longest wait, while the next ones run.

    Args:
        sensors: One per device; all devices have the same load, each its own phase.
        pause_s: Shortest and longest pause between two turns, seconds.
        rng: Source of the phases, pauses and delays.
    """
    now = rng.uniform(2.0, 3.0)
    levels: list[tuple[float, float]] = [(now, load.rest_watts)]
    turns: list[tuple[float, float, float]] = []
    between = load.rest_watts if load.pause_watts is None else load.pause_watts
    for _ in range(count):
        late = [rng.uniform(0, load.late_s) for _ in range(3)]
        pause = rng.uniform(*pause_s)
        prefill, decode = load.draw(rng)
        levels += [
            (late[0], levels[-1][1]),
            (load.prefill_seconds - late[0] + late[1], prefill),
            (load.seconds - load.prefill_seconds - late[1] - late[2], decode),
            (late[2] + pause, between),
        ]
        turns.append((now, now + load.prefill_seconds, now + load.seconds))
        now += load.seconds + pause
    curve = _build_curve([*levels, (3.0, load.rest_watts)], load.ramp_s)
    recorder, clock = _open(curve, sensors, rng, FakeDevice)
    sampler = _Sampler(recorder, clock, rng)
    marks = [mark for turn in turns for mark in zip(turn, PHASES, strict=True)]
    wait_s = SETTLE_S + SETTLE_OF_AVERAGE * max(c.average_s for c in recorder.channels)
    found: list[PlayedTurn] = []
    while len(found) < count:
        at_s = clock.seconds
        end_s = turns[len(found)][2]
        if at_s >= end_s and (recorder.settle(clock.at(end_s)) or at_s >= end_s + wait_s):
            found.append(_measure(recorder, clock, curve, turns[len(found)]))
            continue
        next_s = at_s + HURRY_INTERVAL_NS / 1e9
        if marks and marks[0][0] <= next_s:
            (next_s, phase), *marks = marks
            sampler.run(clock.at(next_s))
            recorder.mark(clock.now_ns, phase)
            if phase == "idle":
                sampler.hurry(clock.at(next_s + wait_s))
        else:
            sampler.run(clock.at(next_s))
    return [
        replace(played, later=_measure(recorder, clock, curve, turn).total)
        for played, turn in zip(found, turns, strict=True)
    ]


def _build_curve(levels: Sequence[tuple[float, float]], ramp_s: float) -> WattCurve:
    """Build plateaus of (length in seconds, watts), each reached along a line of ``ramp_s``."""
    curve = steps(levels)
    if not ramp_s:
        return curve
    points, now, watts = [(0.0, levels[0][1])], 0.0, levels[0][1]
    for length, target in levels:
        ramp = min(ramp_s, length)
        watts += (target - watts) * (ramp / ramp_s)
        points += [(now + ramp, watts), (now + length, watts)]
        now += length
    return WattCurve(tuple(points))


def _open(
    curve: WattCurve,
    sensors: Sequence[Sensor],
    rng: random.Random,
    device: Callable[..., FakeDevice],
) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    devices = [
        device(curve, clock, replace(s, phase_s=rng.uniform(0, 0.1)), scope=f"gpu:{index}")
        for index, s in enumerate(sensors)
    ]
    return Recorder(devices, clock=clock), clock


def _measure(
    recorder: Recorder, clock: FakeClock, curve: WattCurve, turn: tuple[float, float, float]
) -> PlayedTurn:
    count = len(recorder.channels)
    total, prefill, decode = (
        EnergyWindow(recorder.energy(clock.at(a), clock.at(b)), count * curve.between(a, b))
        for a, b in ((turn[0], turn[2]), turn[:2], turn[1:])
    )
    return PlayedTurn(total, prefill, decode)

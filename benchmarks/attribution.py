"""How exactly the joules of shared batches are divided: nothing is lost and nothing counted twice.

    python -m benchmarks.attribution [--schedules 1000] [--json]

Each schedule is a random life of a server: requests join and leave, are cancelled in a batch, share
prompts and decoded tokens, models are loaded in between, a batch or the whole engine fails, and
curves change while answers run. The power of the machine is random, its energy known exactly. Every
turn is measured when it ends, as in a server. The figure is the largest difference between the
joules of turns, loads and idle time together and the meter's total, and between phases and turns,
relative to the total.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from benchmarks.figures import Figure, median_of
from etui.arm import TokenCost
from etui.energy.recorder import Recorder
from etui.energy.types import ChannelEnergy, Energy, Kind
from etui.events import BatchShare, Finished, Loaded, SharedBatch
from etui.runtime.energy_books import LOADS, EnergyBookkeeper
from etui.turn.accounting import (
    Leg,
    TimeInterval,
    attribute_turn,
    compute_account,
    curve_of_legs,
    settle_meters,
    widen_legs,
)
from etui.turn.record import TurnEnergy
from etui.turn.shared_meter import BatchLedger, SharedMeter
from tests.support.devices import SENSORS, FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

S = 1_000_000_000
IDLE_WATTS = 12.0


@dataclass
class CurveMeter:
    """A meter that knows the power at any time; half width 1 % and 0.1 J at the two ends."""

    curve: WattCurve
    settled_ns: list[int] = field(default_factory=list)

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the exact energy of an interval."""
        joules = self.curve.between(start_ns / S, end_ns / S)
        seconds = (end_ns - start_ns) / S
        half = 0.1 + 0.01 * joules
        watts = joules / seconds if seconds else 0.0
        channel = ChannelEnergy("package:0", Kind.COUNTER, joules, half, 1.0, watts, watts)
        return Energy(
            start_ns, end_ns, joules, half, Kind.COUNTER, 1.0,
            idle_watts=IDLE_WATTS, mean_watts=watts, peak_watts=watts, channels=(channel,),
        )  # fmt: skip

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> list[tuple[int, float | None]]:
        """Return the exact mean watts of equal slices."""
        marks = [start_ns + (end_ns - start_ns) * i // points for i in range(points + 1)]
        return [((a + b) // 2, self.energy(a, b).mean_watts) for a, b in pairwise(marks)]

    def mark(self, t_ns: int, phase: str = "") -> None:
        """Ignore it: the power is known."""

    def settle(self, end_ns: int) -> None:
        """Note that the energy up to a time was asked for."""
        self.settled_ns.append(end_ns)


@dataclass
class Request:
    """A request of a schedule: what it still has to compute, and when it did what."""

    number: int
    model: str
    meter: SharedMeter
    start_ns: int
    prompt_left: int
    decode_left: int
    prefill_end_ns: int | None = None
    energy: TurnEnergy | None = None


@dataclass
class Residuals:
    """The largest errors of a schedule, relative to its total joules.

    Attributes:
        total: Of turns, loads and idle time against the meter.
        phases: Of prefill and decode against their turn.
        books: Of the books against the meter, and of their turns against those of the records.
        channels: Of the channels of a turn against its joules.
        turns: Number of turns.
    """

    total: float = 0.0
    phases: float = 0.0
    books: float = 0.0
    channels: float = 0.0
    turns: int = 0

    @property
    def largest(self) -> float:
        """The largest of them."""
        return max(self.total, self.phases, self.books, self.channels)


class Schedule:
    """A random life of a server with a fake engine and a meter that is exact.

    Args:
        seed: Seed of everything in it.
        rounds: Number of times that requests come after a pause.
    """

    def __init__(self, seed: int, rounds: int = 4) -> None:
        self.draw = random.Random(seed)
        levels = [(self.draw.uniform(0.01, 2.0), self.draw.uniform(0, 400)) for _ in range(400)]
        self.meter = CurveMeter(steps(levels))
        self.ledger = BatchLedger()
        self.now_ns = self.draw.randrange(S)
        self.start_ns = self.now_ns
        self.books = EnergyBookkeeper(self.meter, self.start_ns)
        self.rounds = rounds
        self.most = self.draw.randrange(1, 9)
        self.live: list[Request] = []
        self.ended: list[Request] = []
        self.loads: list[TimeInterval] = []
        self.batches: list[SharedBatch] = []
        self.numbers = 0
        self.costs: dict[str, TokenCost | None] = {}
        self.model = ""

    def run(self) -> Residuals:
        """Play the schedule and compare all sums."""
        for _ in range(self.rounds):
            self._wait(self.draw.choice((0.0, 0.3, 5.0)))
            if self.draw.random() < 0.5 or not self.model:
                self._load()
            self._answer()
            if self.draw.random() < 0.5:
                self.books.close_until(self.now_ns)
            if self.draw.random() < 0.3:
                self.ledger.forget_before(self.now_ns)
        self._wait(1.0)
        return self._compare()

    def _wait(self, most_s: float) -> None:
        self.now_ns += int(self.draw.uniform(0, most_s) * S)

    def _load(self) -> None:
        self.model = self.draw.choice(("small", "large"))
        begin_ns = self.now_ns
        self._wait(3.0)
        loaded = Loaded(self.model, begin_ns, self.now_ns, 0, 1)
        self.loads.append(TimeInterval(loaded.start_ns, loaded.end_ns))
        self.books.add(LOADS, loaded.start_ns, loaded.end_ns)
        self._wait(0.01)

    def _answer(self) -> None:
        left = self.draw.randrange(1, 12)
        batch_start_ns = self.now_ns
        while left or self.live:
            while left and len(self.live) < self.most and self.draw.random() < 0.6:
                self._join()
                left -= 1
            if not self.live:
                batch_start_ns = self.now_ns
                continue
            if self.draw.random() < 0.02:
                self._crash(batch_start_ns)
                return
            batch_start_ns = self._batch(batch_start_ns)
            if self.draw.random() < 0.05:
                self._change_curve()

    def _join(self) -> None:
        came_ns = self.now_ns
        self.now_ns += self.draw.randrange(1000)  # a moment after the last batch has ended
        self.numbers += 1
        number = self.numbers
        meter = SharedMeter(self.meter, self.ledger, lambda: (number,), self.costs.get)
        meter.mark(came_ns)
        prompt = self.draw.choice((0, 1, 40, 300))
        self.live.append(
            Request(number, self.model, meter, self.now_ns, prompt, self.draw.randrange(1, 60))
        )

    def _batch(self, start_ns: int) -> int:
        shares, leaving = [], []
        for request in self.live:
            prompt = min(request.prompt_left, self.draw.choice((16, 64)))
            decode = 0 if prompt else min(request.decode_left, self.draw.choice((1, 1, 1, 3)))
            shares.append(BatchShare(request.number, prompt, decode))
            request.prompt_left -= prompt
            request.decode_left -= decode
        failed = self.draw.random() < 0.02
        for request in self.live:
            if not request.decode_left or failed or self.draw.random() < 0.01:
                leaving.append(request)
        inside_ns = self.now_ns
        self._wait(self.draw.choice((0.002, 0.05, 0.4)))
        self.now_ns += 1
        batch = SharedBatch(self.model, start_ns, self.now_ns, tuple(shares))
        self._report(batch)
        for request in self.live:
            if request.prefill_end_ns is None and not request.prompt_left:
                request.prefill_end_ns = self.now_ns + self.draw.randrange(2000)
        for request in leaving:
            early = failed and self.draw.random() < 0.5
            # A stopped answer may end while its last batch is being computed.
            self._end(request, (inside_ns + self.now_ns) // 2 if early else self.now_ns + 500)
        return batch.end_ns

    def _report(self, batch: SharedBatch) -> None:
        self.batches.append(batch)
        self.ledger.add(batch)
        self.books.add(batch.model, batch.start_ns, batch.end_ns)

    def _crash(self, start_ns: int) -> None:
        self.now_ns = max(self.now_ns, start_ns)
        self._wait(0.5)
        self.now_ns += 1
        numbers = [request.number for request in self.live]
        shares = tuple(BatchShare(number, 0, 0) for number in numbers)
        self.ledger.add(SharedBatch(self.model, start_ns, self.now_ns, shares))
        self.books.add(self.model, start_ns, self.now_ns)
        self.batches.append(SharedBatch(self.model, start_ns, self.now_ns, ()))
        for request in list(self.live):
            self._end(request, self.now_ns + 300)

    def _change_curve(self) -> None:
        per_token = self.draw.uniform(0.001, 0.3)
        self.costs[self.model] = self.draw.choice(
            (
                None,
                TokenCost(self.draw.uniform(0.001, 5.0), 0.0, per_token),
                TokenCost(per_token / 2, 0.0, per_token),
            )
        )

    def _end(self, request: Request, end_ns: int) -> None:
        self.live.remove(request)
        self.ended.append(request)
        request.energy = self.measure(request, request.prefill_end_ns or end_ns, end_ns)
        attribution = request.energy.attribution
        assert attribution is not None
        assert attribution.share is not None
        assert -1e-12 <= attribution.share <= 1 + 1e-12

    def measure(self, request: Request, prefill_end_ns: int, end_ns: int) -> TurnEnergy:
        """Measure the turn of a request that has ended, as it is done for a record."""
        end = _finished(request.start_ns, prefill_end_ns, end_ns)
        legs = [Leg(end, meter=request.meter)]
        settle_meters(legs)
        legs = widen_legs(legs)
        energy, _, _ = compute_account(legs, request.meter.energy)
        attribution = attribute_turn(energy, legs, request.meter)
        return replace(energy, attribution=attribution)

    def _compare(self) -> Residuals:
        whole = _joules(self.meter, [TimeInterval(self.start_ns, self.now_ns)])
        energies = [request.energy for request in self.ended if request.energy is not None]
        turns = math.fsum(energy.joules or 0.0 for energy in energies)
        loads = _joules(self.meter, self.loads)
        idle = _joules(self.meter, self._find_idle())
        found = Residuals(turns=len(energies))
        found.total = abs(turns + loads + idle - whole) / whole
        for energy in energies:
            assert energy.joules is not None
            phases = (energy.phases["prefill"] or 0.0) + (energy.phases["decode"] or 0.0)
            found.phases = max(found.phases, abs(phases - energy.joules) / whole)
            channels = math.fsum(energy.channels.values())
            found.channels = max(found.channels, abs(channels - energy.joules) / whole)
        books = self.books.read(self.now_ns)
        assert books.total is not None
        assert books.turns is not None
        assert books.loads is not None
        assert books.idle is not None
        found.books = (
            max(
                abs(books.total - whole),
                abs(books.turns - turns),
                abs(books.loads - loads),
                abs(books.idle - idle),
                abs(books.turns + books.loads + books.idle - books.total),
            )
            / whole
        )
        return found

    def _find_idle(self) -> list[TimeInterval]:
        """Return the time in which the engine did nothing, found by its own record."""
        busy = [TimeInterval(b.start_ns, b.end_ns) for b in self.batches] + self.loads
        idle, at_ns = [], self.start_ns
        for each in sorted(busy, key=lambda interval: interval.start_ns):
            idle.append(TimeInterval(at_ns, max(at_ns, each.start_ns)))
            at_ns = max(at_ns, each.end_ns)
        return [*idle, TimeInterval(at_ns, max(at_ns, self.now_ns))]


def _finished(start_ns: int, prefill_end_ns: int, end_ns: int) -> Finished:
    return Finished(
        start_ns=start_ns,
        prefill_end_ns=prefill_end_ns,
        thinking_end_ns=prefill_end_ns,
        end_ns=end_ns,
        first_token_ns=prefill_end_ns,
        status="complete",
        why="",
        answer="x",
        thinking="",
        prompt_tokens=1,
        cached_tokens=0,
        computed_tokens=1,
        thinking_tokens=0,
        output_tokens=1,
    )


def _joules(meter: CurveMeter, intervals: Sequence[TimeInterval]) -> float:
    return math.fsum(meter.energy(i.start_ns, i.end_ns).joules or 0.0 for i in intervals)


def play(schedules: int, first_seed: int = 0) -> Iterator[Residuals]:
    """Play schedules of consecutive seeds."""
    for seed in range(first_seed, first_seed + schedules):
        yield Schedule(seed).run()


def time_settling(batches: int = 2000, mates: int = 8) -> float:
    """Measure how long the energy of one long answer takes to compute, in seconds.

    Every batch has other tokens than the one before it, so that none are merged. The recorder has a
    GPU and a CPU counter.

    Args:
        batches: Batches of the answer, of one token of it each.
        mates: Other requests in each batch.
    """
    clock, draw = FakeClock(), random.Random(1)
    sensors = (("gpu:A", "counter 100 ms + instant power"), ("package:0", "RAPL, wraps at 3 kJ"))
    devices = [
        FakeDevice(constant(100, 100), clock, SENSORS[name], scope=scope) for scope, name in sensors
    ]
    recorder = Recorder(devices, clock=clock)
    sample(recorder, clock, batches * 0.03 + 4, draw)
    ledger = BatchLedger()
    edges = [clock.at(2 + 0.03 * index) for index in range(batches + 1)]
    for index, (start_ns, end_ns) in enumerate(pairwise(edges)):
        shares = [
            BatchShare(0, 0, 1),
            *(BatchShare(n, 0, 1 + (index + n) % 2) for n in range(1, mates + 1)),
        ]
        ledger.add(SharedBatch("m", start_ns, end_ns, tuple(shares)))
    cost = TokenCost(2.0, 0.0, 0.1)
    meter = SharedMeter(recorder, ledger, lambda: (0,), lambda model: cost)
    end = _finished(edges[0], edges[1], edges[-1])
    began = time.perf_counter()
    legs = widen_legs([Leg(end, meter=meter)])
    settle_meters(legs)
    energy, _, _ = compute_account(legs, meter.energy)
    curve_of_legs(energy, legs)
    attribute_turn(energy, legs, meter)
    return time.perf_counter() - began


def quick() -> Iterator[Figure]:
    """Measure the short form: 100 schedules, and long answers."""
    found = list(play(100))
    yield Figure("largest residual of 100 schedules", max(each.largest for each in found), "x")
    times = [1000 * time_settling() for _ in range(5)]
    yield median_of("settling 2,000 batches of 9 requests", times, "ms", "absolute")


def main() -> None:
    """Play the schedules and print the largest residuals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedules", type=int, default=1000, help="number of random schedules")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    began = time.perf_counter()
    found = list(play(options.schedules))
    result: dict[str, Any] = {
        "schedules": len(found),
        "turns": sum(each.turns for each in found),
        "largest_residual": {
            name: max(getattr(each, name) for each in found)
            for name in ("total", "phases", "books", "channels")
        },
        "seconds": time.perf_counter() - began,
        "settling_ms": [1000 * time_settling() for _ in range(5)],
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['turns']:,} turns in {result['schedules']:,} schedules")
    for name, residual in result["largest_residual"].items():
        print(f"  {name:<9} {residual:.2e} of the total")
    settling = min(result["settling_ms"])
    print(f"an answer of 2,000 batches with 8 others settles in {settling:.0f} ms (best of 5)")


if __name__ == "__main__":
    main()

"""The sampling thread: sources that raise or hang never end it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from etui.energy.recorder import Recorder
from etui.energy.sampler import PowerSampler
from etui.energy.types import Channel, ChannelProbe, Kind, Reading
from etui.errors import UsageError
from tests.support.devices import FakeClock


class Source:
    """A real-time source of 10 W, with a counter."""

    def __init__(self, scope: str, *, raises: bool = False) -> None:
        self.channel = Channel(scope, scope, Kind.COUNTER, period_s=0.001)
        self.raises = raises
        self.entered = self.reads = 0
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    @property
    def channels(self) -> Sequence[Channel]:
        return [self.channel]

    def probe(self) -> Sequence[ChannelProbe]:
        return []

    def read(self) -> Mapping[str, Reading]:
        self.entered += 1
        self.gate.wait()
        self.reads += 1
        if self.raises:
            raise RuntimeError("driver fell over")
        now_ns = time.monotonic_ns()
        return {self.channel.id: Reading(now_ns, now_ns / 1e8)}

    def close(self) -> None:
        self.closed = True


def wait_for(recorder: Recorder, seconds: float = 0.05) -> tuple[int, int]:
    """Two moments between which the recorder has read something."""
    start_ns = time.monotonic_ns()
    end_ns = start_ns + int(seconds * 1e9)
    while not recorder.settle(end_ns, timeout_s=2.0):
        pass
    return start_ns, end_ns


def test_a_thread_records_and_stops():
    source = Source("gpu:A")
    with Recorder([source]) as recorder:
        wait_for(recorder)
        start_ns, end_ns = wait_for(recorder, 0.2)
        energy = recorder.energy(start_ns, end_ns)
        latest = recorder.latest()
        threads = recorder._sampler._threads
        assert threads
    assert energy.joules == pytest.approx(2.0, rel=0.05)
    assert energy.kind is Kind.COUNTER
    assert latest[0].in_total
    assert latest[0].watts == pytest.approx(10, rel=0.3)
    assert source.closed
    reads = source.reads
    assert not any(thread.is_alive() for thread in threads)
    assert source.reads == reads


def test_a_source_that_raises_is_a_gap_and_the_others_go_on():
    broken, sound = Source("gpu:A", raises=True), Source("package:0")
    with Recorder([broken, sound]) as recorder:
        wait_for(recorder)
        start_ns, end_ns = wait_for(recorder)
        energy = recorder.energy(start_ns, end_ns)
    assert broken.reads > 1
    assert [part.id for part in energy.channels] == ["package:0"]
    assert energy.unmeasured == ("gpu:A",)
    assert energy.coverage == 0


def test_a_source_that_hangs_is_left_behind_and_rejoins():
    stuck, sound = Source("gpu:A"), Source("package:0")
    recorder = Recorder([stuck, sound])
    with recorder:
        wait_for(recorder)
        stuck.gate.clear()
        reads = sound.reads
        _until(lambda: stuck.entered > stuck.reads and sound.reads > reads + 3)
        recorder.sample_now()  # skips the source that hangs
        stuck_reads = stuck.reads
        stuck.gate.set()
        _until(lambda: stuck.reads > stuck_reads + 1)


def test_a_source_that_hangs_is_not_closed_and_not_read_twice_at_once():
    stuck, sound = Source("gpu:A"), Source("package:0")
    sampler = PowerSampler([stuck, sound], 1_000_000, time.monotonic_ns, lambda *_: None)
    stuck.gate.clear()
    sampler.start()
    first = sampler._threads
    _until(lambda: stuck.entered and sound.reads > 1)
    sampler.stop(timeout_s=0.01)
    sampler.start()
    second = sampler._threads
    reads = sound.reads
    _until(lambda: sound.reads > reads)
    sampler.stop(timeout_s=0.01)
    for _, of_sound in (first, second):
        of_sound.join(60)
    sampler.close()
    assert (stuck.closed, sound.closed) == (False, True)
    stuck.gate.set()
    for thread in (*first, *second):
        thread.join(60)
        assert not thread.is_alive()
    assert stuck.reads == 1


def test_a_part_that_hangs_delays_no_other_part():
    class Divided(Source):
        def __init__(self, parts: Sequence[Source]) -> None:
            super().__init__("gpu:all")
            self.parts = parts

        @property
        def channels(self) -> Sequence[Channel]:
            return [part.channel for part in self.parts]

        def read(self) -> Mapping[str, Reading]:
            return {key: value for part in self.parts for key, value in part.read().items()}

    parts = [Source(f"gpu:{number}") for number in range(3)]
    parts[1].gate.clear()
    source = Divided(parts)
    with Recorder([source]) as recorder:
        _until(lambda: parts[0].reads > 3 and parts[2].reads > 3)
        assert parts[1].reads == 0
        parts[1].gate.set()
        _until(lambda: parts[1].reads > 3)
        assert {row.channel.id for row in recorder.latest()} == {"gpu:0", "gpu:1", "gpu:2"}
    assert source.closed


class Timed:
    """A source whose reads take time of a fake clock, and CPU time.

    Args:
        clock: The clock of the test.
        wall_s: Seconds since the start -> seconds that a read takes.
        cpu_s: Seconds since the start -> CPU time of a read, seconds.
    """

    def __init__(
        self,
        clock: FakeClock,
        wall_s: Callable[[float], float],
        cpu_s: Callable[[float], float] = lambda now: 0.0,
    ) -> None:
        self.channels = [Channel("gpu:A", "gpu:A", Kind.COUNTER)]
        self.clock, self.wall_s, self.cpu_s = clock, wall_s, cpu_s
        self.used_s = 0.0
        self.reads_s: list[float] = []

    def probe(self) -> Sequence[ChannelProbe]:
        return []

    def read(self) -> Mapping[str, Reading]:
        now_s = self.clock.seconds
        self.used_s += self.cpu_s(now_s)
        self.clock.advance(self.wall_s(now_s))
        self.reads_s.append(now_s)
        return {"gpu:A": Reading(self.clock(), 1.0)}

    def close(self) -> None:
        pass


def gaps(source: Timed, seconds: float, **options: Any) -> list[tuple[float, float]]:
    """Let a sampler read the source for a while of its clock: times of reads, and pauses after."""
    clock = source.clock
    sampler = PowerSampler([source], 50_000_000, clock, lambda *_: None, **options)

    class Wake(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            clock.advance(timeout or 0.0)
            if clock.seconds > seconds:
                sampler.stop()
            return True

    sampler._wake = Wake()
    before = threading.enumerate()
    sampler.start()
    for thread in threading.enumerate():
        if thread.name == "etui-power" and thread not in before:
            thread.join()
    return [(start, end - start) for start, end in pairwise(source.reads_s)]


def test_a_stall_costs_its_own_time_only():
    clock = FakeClock()
    source = Timed(clock, lambda now: 3.0 if 5.0 < now < 5.1 else 0.0001)
    found = gaps(source, 70)
    assert max(pause for _, pause in found) > 3.0
    assert max(pause for start, pause in found if start > 5.1) < 0.1


def test_a_driver_that_makes_callers_wait_is_still_read_often():
    """Eight GPUs, 5 ms each."""
    clock = FakeClock()
    found = gaps(Timed(clock, lambda now: 0.04), 10)
    assert max(pause for _, pause in found) < 0.1
    found = gaps(Timed(FakeClock(), lambda now: 0.16), 10)
    assert max(pause for _, pause in found) < 0.25


def test_a_driver_that_takes_cpu_time_is_read_less_often_but_without_gaps():
    source = Timed(FakeClock(), lambda now: 0.0001, lambda now: 0.006)
    found = gaps(source, 10, cpu_clock=lambda: int(source.used_s * 1e9))
    assert min(pause for start, pause in found if start > 1) > 0.115
    source = Timed(FakeClock(), lambda now: 0.0001, lambda now: 0.2)
    found = gaps(source, 10, cpu_clock=lambda: int(source.used_s * 1e9))
    assert max(pause for _, pause in found) < 0.26


def test_a_suspend_is_announced_before_the_reading_after_it():
    asleep = [0]
    clock = FakeClock()
    source = Timed(clock, lambda now: 0.0)
    events: list[str] = []
    sampler = PowerSampler(
        [source],
        50_000_000,
        clock,
        lambda _, readings: events.append(str(readings["gpu:A"].joules)),
        suspended=lambda: asleep[0],
        interrupt=lambda _: events.append("suspend"),
    )
    sampler.read_once()
    asleep[0] += 3600 * 10**9
    sampler.read_once()
    sampler.read_once()
    assert events == ["1.0", "suspend", "1.0", "1.0"]

    def fall_asleep(now: float) -> float:
        asleep[0] += 3600 * 10**9
        return 0.0

    source.wall_s, events[:] = fall_asleep, []
    sampler.read_once()
    source.wall_s = lambda now: 0.0
    sampler.read_once()
    assert events == ["None", "suspend", "1.0"]  # a read that spans the suspend is a failed one


def _until(condition, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    limit = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        pause.wait(0.01)


def test_no_source_means_unmeasured_and_not_zero():
    with Recorder([], unmeasured=["package:0"]) as recorder:
        energy = recorder.energy(0, 1_000_000_000)
        assert recorder.joules_since_start is None
        assert recorder.latest() == ()
        assert recorder.settle(5)
    assert energy.joules is None
    assert energy.net_joules is None
    assert energy.coverage == 0
    assert energy.unmeasured == ("package:0",)


@pytest.mark.parametrize("hz", [0, -1, 1000, float("nan"), float("inf")])
def test_a_senseless_rate_is_refused(hz):
    with pytest.raises(UsageError, match="cannot sample"):
        Recorder([], hz=hz)


def test_an_interval_that_ends_before_it_starts_is_refused():
    with pytest.raises(UsageError, match="before it starts"):
        Recorder([]).energy(2, 1)

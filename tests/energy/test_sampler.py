"""The sampling thread: sources that raise or hang never end it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import pytest

from etui.energy.recorder import Recorder
from etui.energy.types import Channel, ChannelProbe, Kind, Reading
from etui.errors import UsageError


class Source:
    """A real-time source of 10 W, with a counter."""

    def __init__(self, scope: str, *, raises: bool = False) -> None:
        self.channel = Channel(scope, scope, Kind.COUNTER, period_s=0.001)
        self.raises = raises
        self.reads = 0
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    @property
    def channels(self) -> Sequence[Channel]:
        return [self.channel]

    def probe(self) -> Sequence[ChannelProbe]:
        return []

    def read(self) -> Mapping[str, Reading]:
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


def test_a_thread_records_and_stops() -> None:
    source = Source("gpu:A")
    with Recorder([source]) as recorder:
        wait_for(recorder)
        start_ns, end_ns = wait_for(recorder, 0.2)
        energy = recorder.energy(start_ns, end_ns)
        latest = recorder.latest()
    assert energy.joules == pytest.approx(2.0, rel=0.05)
    assert energy.kind is Kind.COUNTER
    assert latest[0].in_total
    assert latest[0].watts == pytest.approx(10, rel=0.3)
    assert source.closed
    reads = source.reads
    assert not any(thread.name == "etui-power" and thread.is_alive() for thread in _threads())
    assert source.reads == reads


def test_a_source_that_raises_is_a_gap_and_the_others_go_on() -> None:
    broken, sound = Source("gpu:A", raises=True), Source("package:0")
    with Recorder([broken, sound]) as recorder:
        wait_for(recorder)
        start_ns, end_ns = wait_for(recorder)
        energy = recorder.energy(start_ns, end_ns)
    assert broken.reads > 1
    assert [part.id for part in energy.channels] == ["package:0"]
    assert energy.unmeasured == ("gpu:A",)
    assert energy.coverage == 0


def test_a_source_that_hangs_is_left_behind_and_rejoins() -> None:
    class FastClock:
        """Real time, plus what the test adds: a hang need not be waited for."""

        def __init__(self) -> None:
            self.ahead_ns = 0

        def __call__(self) -> int:
            return time.monotonic_ns() + self.ahead_ns

    clock = FastClock()
    stuck, sound = Source("gpu:A"), Source("package:0")
    recorder = Recorder([stuck, sound], clock=clock)
    with recorder:
        wait_for(recorder)
        stuck.gate.clear()
        _until(lambda: recorder._sampler._reading is not None and not stuck.gate.is_set())
        reads = sound.reads
        _until(lambda: sound.reads == reads or sound.reads > reads)
        clock.ahead_ns += 2_000_000_000
        _until(lambda: _check(recorder, sound, reads))
        stuck_reads = stuck.reads
        stuck.gate.set()
        _until(lambda: stuck.reads > stuck_reads + 1)


def _check(recorder: Recorder, sound: Source, reads: int) -> bool:
    recorder.latest()
    return sound.reads > reads + 3


def _until(condition, seconds: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    limit = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        pause.wait(0.01)


def _threads() -> list[threading.Thread]:
    return threading.enumerate()


def test_settling_gives_up_when_nothing_comes() -> None:
    source = Source("gpu:A")
    with Recorder([source]) as recorder:
        wait_for(recorder)
        source.gate.clear()
        assert not recorder.settle(time.monotonic_ns(), timeout_s=0.05)
        source.gate.set()


def test_no_source_means_unmeasured_and_not_zero() -> None:
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
def test_a_senseless_rate_is_refused(hz: float) -> None:
    with pytest.raises(UsageError, match="cannot sample"):
        Recorder([], hz=hz)


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(UsageError, match="before it starts"):
        Recorder([]).energy(2, 1)

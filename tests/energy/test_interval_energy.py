"""The energy of an interval, computed from that of its channels."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.recorder import Recorder, compute_own, find_peak, slice_power
from etui.energy.sharing import GpuShare
from etui.energy.types import Channel, ChannelEnergy, Kind, Reading, Source
from tests.support.devices import FakeClock
from tests.support.play import sample

SECOND = 1_000_000_000
GPU = ChannelEnergy("gpu", Kind.COUNTER, 100.0, 1.0, 1.0, 50.0, 60.0)
CPU = ChannelEnergy("cpu", Kind.ESTIMATE, 40.0, 9.0, 0.5, 20.0, 20.0, ("gap",))


@given(st.lists(st.tuples(st.integers(1, 10**10), st.floats(0, 1e4)), min_size=1, max_size=20))
def test_the_slices_of_the_power_sum_to_the_energy(steps: list[tuple[int, float]]) -> None:
    marks, totals = [0], [(0.0, 0.0)]
    for span_ns, joules in steps:
        marks.append(marks[-1] + span_ns)
        totals.append((totals[-1][0] + joules, totals[-1][1] + span_ns))
    watts = [found for _, found in slice_power(marks, [totals, totals])]
    joules_again = [
        found * (end - start) / 1e9
        for found, start, end in zip(watts, marks, marks[1:], strict=False)
        if found is not None
    ]
    assert len(joules_again) == len(steps)
    assert math.fsum(joules_again) == pytest.approx(2 * totals[-1][0], rel=1e-9, abs=1e-9)


def test_a_slice_without_a_record_has_no_watts() -> None:
    totals = [(5.0, 10.0), (5.0, 10.0), (7.0, 12.0)]
    assert slice_power([0, SECOND, 2 * SECOND], [totals]) == [
        (SECOND // 2, None),
        (3 * SECOND // 2, 2.0),
    ]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({}, (False, None)),
        ({"gpu": GpuShare(shared=False, own=None)}, (False, None)),
        ({"gpu": GpuShare(shared=True, own=0.25)}, (True, 40.0 + (100.0 - 2 * 10.0) * 0.25)),
        ({"gpu": GpuShare(shared=True, own=None)}, (True, None)),
    ],
)
def test_of_a_shared_channel_only_a_part_above_idle_is_ours(
    shares: dict[str, GpuShare], expected: tuple[bool, float | None]
) -> None:
    own = compute_own((GPU, CPU), {"gpu": 10.0}, 2.0, lambda part: shares.get(part.id))
    assert own == expected


class _Fixed(Source):
    """A source of one channel with the same power at any time, or none at all."""

    def __init__(self, clock: FakeClock, channel: Channel, watts: float | None) -> None:
        super().__init__(clock)
        self.channels = [channel]
        self.watts = watts

    def read(self) -> Mapping[str, Reading]:
        return {self.channels[0].id: Reading(self.clock(), None, self.watts)}


def _record(*watts: tuple[str, Kind, float | None]) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    sources = [_Fixed(clock, Channel(name, name, kind), power) for name, kind, power in watts]
    recorder = Recorder(sources, clock=clock, unmeasured=["dram:0"])
    sample(recorder, clock, 3, random.Random(1))
    return recorder, clock


def test_the_sum_is_as_weak_as_its_weakest_channel() -> None:
    recorder, clock = _record(("gpu:A", Kind.INTEGRATED, 50.0), ("package:0", Kind.MODEL, 20.0))
    recorder.set_idle({"gpu:A": 10.0})
    found = recorder.energy(clock.at(0.5), clock.at(2.5))
    assert (found.joules, found.mean_watts) == (pytest.approx(140.0), pytest.approx(70.0))
    assert (found.kind, found.unmeasured) == (Kind.MODEL, ("dram:0",))
    assert found.idle_watts is None  # the baseline lacks one of the two


def test_a_channel_without_readings_is_unmeasured() -> None:
    silent = ("gpu:A", Kind.INTEGRATED, None)
    recorder, clock = _record(silent, ("package:0", Kind.INTEGRATED, 20.0))
    found = recorder.energy(clock.at(0.5), clock.at(2.5))
    assert (found.coverage, found.unmeasured) == (0.0, ("dram:0", "gpu:A"))
    recorder, clock = _record(silent)
    found = recorder.energy(clock.at(0.5), clock.at(2.5))
    assert (found.joules, found.uncertainty, found.kind) == (None, None, None)
    assert (found.unmeasured, found.flags) == (("dram:0", "gpu:A"), ("unmeasured",))


def test_the_peak_of_several_channels_is_that_of_their_sum() -> None:
    rows = {"gpu": np.array([10.0, 60.0]), "cpu": np.array([20.0, 5.0])}

    def slice_watts(part: ChannelEnergy, slice_ns: int) -> Any:
        assert slice_ns == 250_000_000
        return rows[part.id]

    assert find_peak((GPU, CPU), 0, SECOND // 2, slice_watts) == 65.0
    assert find_peak((GPU,), 0, SECOND // 2, slice_watts) == 60.0
    assert find_peak((GPU, CPU), 0, SECOND // 10, slice_watts) == 70.0  # too short for slices
    assert find_peak((), 0, SECOND, slice_watts) is None

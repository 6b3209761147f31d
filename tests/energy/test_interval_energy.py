"""The energy of an interval, computed from that of its channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.recorder import compute_own, find_peak, slice_power, sum_channels
from etui.energy.sharing import GpuShare
from etui.energy.types import ChannelEnergy, Kind

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


def test_the_sum_is_as_weak_as_its_weakest_channel() -> None:
    found = sum_channels(
        0, 2 * SECOND, (GPU, CPU), (),
        missing=[], unmeasured=["dram"], peak_watts=75.0, idle_watts={"gpu": 10.0},
        find_share=lambda part: None,
    )  # fmt: skip
    assert (found.joules, found.mean_watts, found.peak_watts) == (140.0, 70.0, 75.0)
    assert (found.kind, found.coverage, found.flags) == (Kind.ESTIMATE, 0.5, ("gap",))
    assert found.idle_watts is None  # the baseline lacks one of the two
    assert found.unmeasured == ("dram",)


def test_without_a_channel_nothing_is_measured() -> None:
    found = sum_channels(
        0, SECOND, (), (),
        missing=["gpu0"], unmeasured=["dram"], peak_watts=None, idle_watts={},
        find_share=lambda part: None,
    )  # fmt: skip
    assert found.joules is None
    assert (found.unmeasured, found.flags) == (("dram", "gpu0"), ("unmeasured",))


def test_the_peak_of_several_channels_is_that_of_their_sum() -> None:
    rows = {"gpu": np.array([10.0, 60.0]), "cpu": np.array([20.0, 5.0])}

    def slice_watts(part: ChannelEnergy, slice_ns: int) -> Any:
        assert slice_ns == 250_000_000
        return rows[part.id]

    assert find_peak((GPU, CPU), 0, SECOND // 2, slice_watts) == 65.0
    assert find_peak((GPU,), 0, SECOND // 2, slice_watts) == 60.0
    assert find_peak((GPU, CPU), 0, SECOND // 10, slice_watts) == 70.0  # too short for slices
    assert find_peak((), 0, SECOND, slice_watts) is None

"""The words next to the graph of power."""

from __future__ import annotations

from dataclasses import replace

from etui.energy.types import Channel, ChannelPower, Kind
from etui.tui.power.channel import total_watts, watts_line

GPU = Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, limit_watts=350.0, label="NVIDIA L40S")


def power(watts: float | None, channel: Channel = GPU, in_total: bool = True) -> ChannelPower:
    return ChannelPower(channel, 0, watts, None, in_total)


def test_the_watts_are_said_with_their_limit_and_kind() -> None:
    assert watts_line(power(118.0), 350.0) == "118 W of 350 W · counter"


def test_watts_that_are_not_known_are_unmeasured() -> None:
    assert watts_line(power(None), 350.0) == "unmeasured now · counter"


def test_an_estimate_is_marked_as_one() -> None:
    estimate = Channel("estimate:cpu", "package:0", Kind.ESTIMATE, limit_watts=65.0)
    assert watts_line(power(12.0, estimate), 65.0) == "≈12 W (estimate) of 65.0 W"
    assert total_watts([power(12.0, estimate)]) == "≈12 W (estimate)"


def test_a_scale_without_a_limit_says_so() -> None:
    unlimited = replace(GPU, limit_watts=None)
    assert watts_line(power(14.0, unlimited), 20.0) == "14.0 W (scale to 20.0 W) · counter"


def test_the_total_sums_what_is_in_it() -> None:
    psys = Channel("psys", "psys", Kind.COUNTER)
    assert total_watts([power(100.0), power(20.0), power(180.0, psys, False)]) == "120 W"


def test_a_total_with_an_unknown_part_is_unmeasured() -> None:
    assert total_watts([power(100.0), power(None)]) == "unmeasured"
    assert total_watts([]) == "unmeasured"

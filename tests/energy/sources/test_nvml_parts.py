"""GPUs that are read apart from each other, and calls that the driver holds up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from etui.energy.sources.nvml import INSTANT_POWER, TOTAL_ENERGY, NvmlSource
from etui.energy.types import DividedSource
from tests.support.devices import FakeClock


class Driver:
    """The part of pynvml that a source uses, with calls that take time of a fake clock."""

    class NVMLError(Exception):
        pass

    def __init__(self, clock: FakeClock, gpus: int) -> None:
        self.clock, self.gpus = clock, gpus
        self.stalls_s: list[float] = []
        self.calls: list[int] = []
        self.closed = 0

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetFieldValues(self, handle: int, fields: Any) -> list[Any]:  # noqa: N802
        self.calls.append(handle)
        self.clock.advance(self.stalls_s.pop(0) if self.stalls_s else 0.0002)
        stamp_us = self.clock() // 1000
        return [
            SimpleNamespace(
                fieldId=field,
                nvmlReturn=0,
                valueType=3,
                timestamp=stamp_us,
                value=SimpleNamespace(ullVal=value),
            )
            for field, value in ((TOTAL_ENERGY, 1_000_000), (INSTANT_POWER, 90_000))
        ]


def opened(gpus: int = 2) -> tuple[FakeClock, Driver, NvmlSource]:
    clock = FakeClock()
    driver: Any = Driver(clock, gpus)
    source = NvmlSource(clock, clock, driver)
    driver.calls.clear()
    return clock, driver, source


def test_each_gpu_can_be_read_apart() -> None:
    _, driver, source = opened(3)
    assert isinstance(source, DividedSource)
    assert [part.channels for part in source.parts] == [[c] for c in source.channels]
    readings = source.parts[1].read()
    assert driver.calls == [1]
    assert readings.keys() == {source.channels[1].id}
    assert source.read().keys() == {channel.id for channel in source.channels}
    source.parts[1].close()
    assert not driver.closed
    source.close()
    assert driver.closed == 1


def test_a_call_that_was_held_up_is_made_again() -> None:
    """Its values are of an unknown time: of its begin, or of its end."""
    clock, driver, source = opened(1)
    source.read()
    driver.stalls_s = [3.0]
    begin_s = clock.seconds
    (reading,) = source.read().values()
    assert (reading.t_ns - clock.start_ns) / 1e9 == pytest.approx(begin_s + 3.0, abs=0.001)
    assert len(driver.calls) == 3


def test_a_driver_that_is_always_slow_is_not_called_twice() -> None:
    _, driver, source = opened(1)
    driver.stalls_s = [0.08] * 20
    for _ in range(6):
        source.read()
    assert len(driver.calls) == 6

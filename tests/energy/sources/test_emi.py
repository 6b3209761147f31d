"""The Energy Meter Interface of Windows, told by devices that answer as emi.h says."""

from __future__ import annotations

import random
import struct

import pytest

from etui.energy.recorder import Recorder
from etui.energy.sources import rapl as emi
from etui.energy.sources.rapl import EmiSource
from etui.energy.types import Kind
from tests.support.devices import FakeClock
from tests.support.play import sample

PARTS = ("RAPL_Package0_PKG", "RAPL_Package0_DRAM", "RAPL_Package0_PP0", "RAPL_Package0_PP1")


def meter(clock: FakeClock, *names: str, watts: float = 30.0, version: int = 2, unit: int = 0):
    """A device whose channels draw ``watts``, each a tenth of the one before."""

    def answer(code: int, size: int) -> bytes:
        texts = [f"{name}\0".encode("utf-16-le") for name in names]
        if version == 2:
            metadata = struct.pack("<64xHH", 1, len(names)) + b"".join(
                struct.pack("<IH", unit, len(text)) + text for text in texts
            )
        else:
            metadata = struct.pack("<I64xHH", unit, 1, len(texts[0])) + texts[0]
        counted = b"".join(
            struct.pack("<QQ", int(watts / 10**number * clock.seconds / 3.6e-9), 1)
            for number in range(len(names))
        )
        known = {
            emi.VERSION: struct.pack("<H", version),
            emi.METADATA_SIZE: struct.pack("<I", len(metadata)),
            emi.METADATA: metadata,
            emi.MEASUREMENT: counted,
        }[code]
        if size < len(known):
            raise OSError(122, "the data area is too small")
        return known

    return answer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_the_codes_are_those_of_emi_h():
    assert [emi.VERSION, emi.METADATA_SIZE, emi.METADATA, emi.MEASUREMENT] == [
        0x224000, 0x224004, 0x224008, 0x22400C,
    ]  # fmt: skip


def test_package_and_memory_are_counted_and_parts_never(clock):
    source = EmiSource(clock, [meter(clock, *PARTS)])
    assert [(c.id, c.kind) for c in source.channels] == [
        ("package:0", Kind.COUNTER),
        ("dram:0", Kind.COUNTER),
    ]
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(9))
    assert energy.joules == pytest.approx(7 * 33, rel=0.01)
    assert energy.kind is Kind.COUNTER


def test_dies_that_mirror_a_package_count_once(clock):
    devices = [meter(clock, "RAPL_Package0_PKG"), meter(clock, "RAPL_Package0_PKG"),
               meter(clock, "RAPL_Package1_PKG")]  # fmt: skip
    source = EmiSource(clock, devices)
    assert [channel.id for channel in source.channels] == ["package:0", "package:1"]


@pytest.mark.parametrize(
    ("names", "version", "unit", "found"),
    [
        (["VBAT"], 1, 0, []),
        (["rapl_package3_pkg"], 2, 0, ["package:3"]),
        (["RAPL_Package0_PKG"], 2, 1, []),  # another unit than picowatt-hours
        ([], 2, 0, []),
    ],
)
def test_channels_are_chosen_by_name_and_unit(clock, names, version, unit, found):
    device = meter(clock, *names, version=version, unit=unit)
    source = EmiSource(clock, [device])
    assert [channel.id for channel in source.channels] == found


@pytest.mark.parametrize("answer", [b"", b"\x02", b"\x02\x00" * 2])
def test_a_device_that_answers_nonsense_is_named_and_the_next_is_read(clock, answer):
    devices = [lambda code, size: answer, meter(clock, "RAPL_Package0_PKG")]
    source = EmiSource(clock, devices)
    assert [channel.id for channel in source.channels] == ["package:0"]
    assert not source.probe()[0].readable
    assert source.probe()[0].why_not


def test_a_device_that_fails_later_is_a_gap(clock):
    device = meter(clock, "RAPL_Package0_PKG")
    broken = False

    def control(code: int, size: int) -> bytes:
        if broken:
            raise OSError(5, "access is denied")
        return device(code, size)

    source = EmiSource(clock, [control])
    clock.advance(1)
    assert source.read()["package:0"].joules == pytest.approx(30)
    broken = True
    assert source.read()["package:0"].joules is None


def test_other_systems_have_no_such_device(clock):
    assert EmiSource(clock).probe() == []

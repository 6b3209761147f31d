"""Jetson, Grace and GB10: sensors whose labels say what they measure."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from etui.energy.discovery import find_sources, open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sources import nvml
from etui.energy.sources.hwmon import BoardSource
from etui.energy.types import BaseSource, Channel, Kind, Reading
from tests.support.devices import FakeClock
from tests.support.play import sample

NANO = ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")
XAVIER = (("GPU", "CPU", "SOC"), ("CV", "VDDRQ", "SYS5V"))
TX2 = (("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"), ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"))
ORIN_NX = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
ORIN = (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("NC", "VDDQ_VDD2_1V8AO", "NC"))
THOR = ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
TEGRA = "nvidia,p3767\0nvidia,tegra234"


@pytest.fixture
def jetson(write):
    """Writes INA3221s: 5 V, and 1 A, 2 A and so on."""

    def make(*chips: tuple[str, ...]) -> None:
        write("firmware/devicetree/base", compatible=TEGRA)
        amperes = 0
        for number, labels in enumerate(chips):
            files: dict[str, object] = {}
            for rail, label in enumerate(labels, 1):
                amperes += 1
                files[f"in{rail}_label"] = label
                files[f"in{rail}_input"] = 5000
                files[f"curr{rail}_input"] = 1000 * amperes
            write(f"class/hwmon/hwmon{number}", name="ina3221", **files)

    return make


@pytest.mark.parametrize(
    ("chips", "summed", "watts"),
    [
        ([NANO], {"gpu:board", "package:0"}, 25),
        (XAVIER, {"gpu:board", "package:0", "soc:soc", "soc:cv", "dram:0"}, 75),
        (TX2, {"gpu:board", "soc:vdd_sys_soc", "package:0", "dram:0"}, 70),
        ([ORIN_NX], {"module:board", "soc:vdd_soc"}, 25),
        (ORIN, {"gpu:board", "package:0", "dram:0"}, 40),
        ([THOR], {"gpu:board", "package:0"}, 15),
    ],
)
def test_each_rail_of_a_jetson_counts_once(jetson, config, chips, summed, watts):
    jetson(*chips)
    recorder = open_recorder(config)
    assert {channel.scope for channel in recorder.selection.summed} == summed
    assert recorder.unmeasured == ()
    readings = BoardSource(config.sysfs_dir).read()
    total = sum(readings[channel.id].watts for channel in recorder.selection.summed)
    assert total == pytest.approx(watts)
    assert {channel.scope for channel in recorder.selection.cross_checks} <= {"system"}


@pytest.mark.parametrize("labels", [None, ("VDD_CPU", "VDD_SOC", "NC"), ("a", "b", "c")])
def test_a_gpu_that_no_rail_supplies_is_named(jetson, write, config, labels):
    if labels is None:  # a Nano 2GB has no sensor
        write("firmware/devicetree/base", compatible=TEGRA)
    else:
        jetson(labels)
    found = find_sources(config)
    assert "gpu:board" in found.unmeasured
    assert next(p for p in found.probes if p.id == "gpu:board").why_not


def test_a_rail_that_cannot_be_read_is_named(jetson, sysfs, config):
    jetson(ORIN_NX)
    (sysfs / "class/hwmon/hwmon0/curr2_input").write_text("")
    found = find_sources(config)
    assert {"module:board", "gpu:board"} <= set(found.unmeasured)


def test_a_rail_that_is_off_is_no_gap(jetson, sysfs):
    """The offset of its shunt makes it negative; one that never was above 0 measures nothing."""
    jetson(THOR)
    clock = FakeClock()
    recorder = Recorder([BoardSource(sysfs, clock)], clock=clock)
    rail = sysfs / "class/hwmon/hwmon0/curr1_input"
    for milliamperes in (2000, -78, 2000):
        rail.write_text(f"{milliamperes}\n")
        sample(recorder, clock, 5, random.Random(1))
    energy = recorder.energy(clock.at(1), clock.at(14))
    gpu = next(part for part in energy.channels if part.id == "gpu:board/board")
    assert abs(gpu.joules - 80) <= gpu.uncertainty
    assert gpu.coverage == 1


def test_a_sensor_that_always_reads_0_is_missing(jetson, sysfs):
    jetson(THOR)
    clock = FakeClock()
    recorder = Recorder([BoardSource(sysfs, clock)], clock=clock)
    (sysfs / "class/hwmon/hwmon0/curr1_input").write_text("0\n")
    sample(recorder, clock, 5, random.Random(1))
    energy = recorder.energy(clock.at(1), clock.at(4))
    assert [part.id for part in energy.channels] == ["package:0/board"]
    assert energy.unmeasured == ("gpu:board",)
    assert next(p.watts for p in recorder.latest() if p.channel.scope == "gpu:board") is None


def test_a_channel_whose_counter_stands_at_0_w_is_missing():
    class Dead(BaseSource):
        def read_channel(self, channel: Channel) -> Reading:
            return Reading(self.clock(), 5.0, 0.0)

    clock = FakeClock()
    source = Dead(clock)
    source.add(Channel("gpu:a", "gpu:a", Kind.COUNTER))
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 5, random.Random(1))
    energy = recorder.energy(clock.at(1), clock.at(4))
    assert (energy.joules, energy.unmeasured) == (None, ("gpu:a",))


def socket(write, number: int, *parts: str, place: str = "", interval_ms: int = 50) -> None:
    for index, part in enumerate(parts):
        write(
            f"class/hwmon/hwmon{10 * number + index}",
            name="power_meter",
            **{
                f"{place}power1_oem_info": f"{part} Power Socket {number}",
                f"{place}power1_average": 10_000_000 * (index + 1),
                f"{place}power1_average_interval": interval_ms,
            },
        )


@pytest.mark.parametrize("place", ["", "device__"])
def test_grace_is_the_cpu_with_all_beside_the_gpu(write, config, place):
    socket(write, 0, "CPU", "SysIO", "Module", "Grace", place=place, interval_ms=1000)
    socket(write, 1, "CPU", place=place)
    found = BoardSource(config.sysfs_dir)
    channels = {channel.scope: channel for channel in found.channels}
    assert set(channels) == {"package:0", "package:1"}
    assert found.read()["package:0/board"].watts == 40
    assert (channels["package:0"].average_s, channels["package:1"].average_s) == (1, 0)
    assert open_recorder(config).unmeasured == ()


def test_another_power_meter_is_left_alone(write, sysfs):
    write("class/hwmon/hwmon0", name="power_meter", power1_average=300_000_000)
    write("class/hwmon/hwmon1", name="ina3221", in1_label="5V_SUPPLY", in1_input=5000)
    assert BoardSource(sysfs).probe() == []


def spbm(write) -> None:
    """The sensors of a GB10: https://github.com/antheas/spark_hwmon."""
    power = {"sys_total": 90, "soc_pkg": 70, "cpu_gpu": 60, "cpu_p": 15, "gpu": 40, "pl1": 70}
    energy = {"pkg": 7000, "cpu_e": 10, "cpu_p": 500, "gpu": 4000}
    files: dict[str, object] = {}
    for kind, values in (("power", power), ("energy", energy)):
        for number, (label, value) in enumerate(values.items(), 1):
            files[f"{kind}{number}_label"] = label
            files[f"{kind}{number}_input"] = value * 1_000_000
    write("class/hwmon/hwmon4", name="spbm", **files)


class Nvml(BaseSource):
    """One GPU as NVML lists it on these boards, readable or not."""

    readable = True
    failure = ""

    def __init__(self, clock) -> None:
        super().__init__(clock)
        if self.readable:
            self.add(Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, parent="module:GPU-1"))
        else:
            self.refuse("gpu:GPU-1", "Orin (nvgpu) reports neither energy nor power")
        self.handles = ()
        self.library = SimpleNamespace(NVMLError=ValueError)

    def ask(self, *_: object) -> None:
        return None

    def read_channel(self, channel: Channel) -> Reading:
        return Reading(self.clock(), 1.0, 40.0)


@pytest.fixture
def nvml_gpu(monkeypatch):
    monkeypatch.setattr("etui.energy.discovery.NvmlSource", Nvml)
    assert nvml.NvmlSource is not Nvml


@pytest.mark.usefixtures("nvml_gpu")
def test_a_gb10_with_its_driver_is_counted_as_a_whole(write, config):
    spbm(write)
    recorder = open_recorder(config)
    [package] = recorder.selection.summed
    assert (package.scope, package.kind) == ("module:GPU-1", Kind.COUNTER)
    checks = {channel.scope for channel in recorder.selection.cross_checks}
    assert checks == {"gpu:GPU-1", "system"}
    assert recorder.unmeasured == ()


@pytest.mark.usefixtures("nvml_gpu")
def test_a_gb10_without_it_names_the_cpu(config):
    recorder = open_recorder(config)
    assert [channel.scope for channel in recorder.selection.summed] == ["gpu:GPU-1"]
    assert recorder.unmeasured == ("package:0",)


@pytest.mark.usefixtures("nvml_gpu")
@pytest.mark.parametrize("chip", [ORIN_NX, THOR])
@pytest.mark.parametrize("readable", [True, False])
def test_a_gpu_of_a_rail_and_of_nvml_counts_once(jetson, config, monkeypatch, chip, readable):
    monkeypatch.setattr(Nvml, "readable", readable)
    jetson(chip)
    recorder = open_recorder(config)
    summed = {channel.scope for channel in recorder.selection.summed}
    whole = {"module:GPU-1", "soc:vdd_soc"} if chip is ORIN_NX else {"gpu:GPU-1", "package:0"}
    assert summed == whole
    assert len(recorder.selection.summed) == len(whole)
    assert recorder.unmeasured == ()

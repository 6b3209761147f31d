"""What is read of power limits without privileges."""

from __future__ import annotations

from typing import Any

import pytest

from etui.energy.power_limits.limit import LimitPart, describe_limit, format_tee
from etui.energy.power_limits.limits import open_power_limits
from etui.errors import UsageError
from tests.energy.power_limits.conftest import StubbornFiles
from tests.energy.power_limits.fake_pynvml import FakeNvml
from tests.support.power_limits import write_amd_gpu, write_package


def test_a_machine_without_devices_has_no_limits(config):
    with open_power_limits(config, {}) as limits:
        assert limits.read() == ()
        with pytest.raises(UsageError, match="no device of this machine has a power limit"):
            limits.check("package:0", 30)


def test_a_package_has_both_limits_with_their_windows(open_limits, sysfs):
    folder = write_package(sysfs)
    [limit] = open_limits().read()
    assert limit.scope == "package:0"
    assert limit.label == "CPU package 0"
    assert (limit.watts, limit.enforced_watts, limit.max_watts) == (65.0, 65.0, 125.0)
    assert limit.min_watts is None
    assert limit.default_watts is None
    assert limit.setter == "etui"
    assert limit.parts == (
        LimitPart("long_term", 65.0, 125.0, 27.983872),
        LimitPart("short_term", 120.0, None, 0.00244),
    )
    long_file = folder / "constraint_0_power_limit_uw"
    short_file = folder / "constraint_1_power_limit_uw"
    assert limit.command == "; ".join(
        [format_tee(65_000_000, [long_file]), format_tee(120_000_000, [short_file])]
    )
    assert "long_term 65 W over 28.0 s, short_term 120 W over 2.4 ms" in describe_limit(limit)


def test_only_packages_have_limits_here(open_limits, sysfs):
    write_package(sysfs)
    write_package(sysfs, 1, name="psys")
    write_package(sysfs, 2, name="package-1-die-1")
    limits = open_limits().read()
    assert [limit.scope for limit in limits] == ["package:0", "package:1/die:1"]
    assert limits[1].label == "CPU package 1 die 1"


def test_a_package_without_limits_is_not_listed(open_limits, sysfs):
    zone = sysfs / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text("1\n")
    assert open_limits().read() == ()


@pytest.mark.parametrize(
    ("package", "other", "found"),
    [
        ({"max_watts": 0, "short_watts": None}, {}, (65, 65, None, "")),
        ({"long_watts": 200}, {}, (200, 120, 200, "")),  # above the design power of 125 W
        ({"enabled": False}, {}, (65, None, 125, "the limit is switched off")),
        ({}, {"long_watts": 45, "short_watts": 51}, (65, 45, 125, "")),
    ],
)
def test_limits_of_packages(open_limits, sysfs, package, other, found):
    write_package(sysfs, **package)
    if other:
        write_package(sysfs, zone="intel-rapl-mmio:0", **other)
    [limit] = open_limits().read()
    assert (limit.watts, limit.enforced_watts, limit.max_watts, limit.note) == found
    assert ("45 W enforced" in describe_limit(limit)) == bool(other)


def test_an_amd_gpu_has_a_range_and_no_enforced_limit(open_limits, sysfs):
    folder = write_amd_gpu(sysfs)
    [limit] = open_limits(files=StubbornFiles(writable=False)).read()
    assert limit.scope == "gpu:0000:03:00.0"
    assert (limit.watts, limit.min_watts, limit.max_watts) == (250.0, 100.0, 300.0)
    assert limit.default_watts == 272.0
    assert limit.enforced_watts is None
    assert limit.setter == "user"
    assert limit.command == f"echo 250000000 | sudo tee {folder}/power1_cap"
    assert "only root may set it" in describe_limit(limit)


def test_an_apu_has_the_scope_of_its_package(open_limits, sysfs):
    write_amd_gpu(sysfs, vram_bytes=512 << 20, watts=28, min_watts=5, max_watts=54)
    [limit] = open_limits().read()
    assert limit.scope == "package:0"
    write_package(sysfs)
    assert [one.scope for one in open_limits().read()] == ["package:0/hwmon", "package:0"]


@pytest.mark.parametrize(("root", "setter"), [(True, "etui"), (False, "user")])
def test_an_nvidia_gpu_has_everything(open_limits, root, setter):
    nvml = FakeNvml(350_000, 250_000, enforced=300_000)
    limits = open_limits(nvml, root=root)
    one, two = limits.read()
    assert (one.scope, one.label) == ("gpu:GPU-fake-0", "GPU 0")
    assert (one.watts, one.enforced_watts) == (350.0, 300.0)
    assert (one.min_watts, one.max_watts, one.default_watts) == (100.0, 450.0, 450.0)
    assert one.setter == setter
    assert one.command == "sudo nvidia-smi -i GPU-fake-0 -pl 350"
    assert (two.label, two.watts, two.enforced_watts) == ("GPU 1", 250.0, 250.0)
    limits.close()
    assert not nvml.is_open


def test_a_gpu_without_limits_is_not_listed(open_limits):
    assert open_limits(FakeNvml(0)).read() == ()


def test_values_that_the_driver_does_not_state_are_none(open_limits):
    class Terse(FakeNvml):
        def __getattribute__(self, name: str) -> Any:
            hidden = ("Default", "Constraints", "Enforced", "EventReasons", "GetIndex")
            if any(part in name for part in hidden):
                raise AttributeError(name)
            return super().__getattribute__(name)

    limits = open_limits(Terse(350_000))
    [limit] = limits.read()
    assert limit.watts == 350
    assert limit.enforced_watts is None
    assert limit.min_watts is None
    assert limit.max_watts is None
    assert limit.default_watts is None
    assert limits.device("gpu:GPU-fake-0").explain_lower() == "another limit of the board"


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, "another limit of the board"),
        (0x4, "another limit of the board"),
        (0x24, "heat (driver)"),
        (0x40, "heat (hardware)"),
        (0x81, "power brake (power supply)"),
        (0x12, "application clocks, sync boost"),
        (None, "another limit of the board"),
    ],
)
def test_the_reasons_for_lower_clocks_are_read(open_limits, bits, names):
    limits = open_limits(FakeNvml(350_000, reasons=bits))
    assert limits.device("gpu:GPU-fake-0").explain_lower() == names


def test_an_unknown_device_names_the_nearest(open_limits, sysfs):
    write_package(sysfs)
    with pytest.raises(UsageError, match=r"no power limit of 'packge:0'") as error:
        open_limits().check("packge:0", 30)
    assert "package:0" in error.value.fix

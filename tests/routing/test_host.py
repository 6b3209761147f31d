"""The state of the machine, read below a made-up sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.config import load_config
from etui.host import read_host


def supply(etui_home: Path, name: str, **files: str) -> None:
    folder = etui_home.parent / "sysfs" / "class" / "power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text + "\n")


@pytest.mark.parametrize(
    ("status", "on_battery"),
    [("Discharging", True), ("Charging", False), ("Full", False), ("Unknown", None)],
)
def test_battery(etui_home: Path, status: str, on_battery: bool | None) -> None:
    supply(etui_home, "AC", type="Mains", online="1")
    supply(etui_home, "BAT0", type="Battery", capacity="73", status=status)
    supply(etui_home, "A-mouse", type="Battery", scope="Device", capacity="5", status="Discharging")
    host = read_host(load_config(), resident="tiny", watts=12.5, gpu_free_memory_bytes=2 * 10**9)
    assert (host.battery_percent, host.on_battery) == (73, on_battery)
    assert (host.resident, host.watts, host.gpu_free_memory_gb) == ("tiny", 12.5, 2.0)
    assert host.hour is not None
    assert 0 <= host.hour < 24
    assert host.free_memory_gb is not None
    assert host.free_memory_gb > 0


def test_no_battery_and_nonsense(etui_home: Path) -> None:
    assert read_host(load_config()).battery_percent is None
    supply(etui_home, "BAT0", type="Battery", capacity="full")
    host = read_host(load_config())
    assert (host.battery_percent, host.on_battery) == (None, None)

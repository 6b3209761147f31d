"""Graphics cards on the bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.energy.sources.sysfs import graphics_cards


def add(sysfs: Path, address: str, vendor: str, class_: str) -> Path:
    device = sysfs / "bus" / "pci" / "devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{class_}\n")
    return device


def test_cards_are_told_from_other_devices_and_vendors(tmp_path: Path) -> None:
    integrated = add(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    server = add(tmp_path, "0000:01:00.0", "0x10de", "0x030200")
    add(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # its audio
    other = add(tmp_path, "0000:03:00.0", "0x1002", "0x038000")
    add(tmp_path, "0000:04:00.0", "0x1a03", "0x030000")  # a board's own display chip
    assert [(card.vendor, card.path) for card in graphics_cards(tmp_path)] == [
        ("Intel", integrated),
        ("NVIDIA", server),
        ("AMD", other),
    ]


@pytest.mark.parametrize("missing", ["vendor", "class"])
def test_a_device_that_says_too_little_is_none(tmp_path: Path, missing: str) -> None:
    (add(tmp_path, "0000:01:00.0", "0x10de", "0x030200") / missing).unlink()
    assert graphics_cards(tmp_path) == ()


def test_without_a_bus_there_is_no_card(tmp_path: Path) -> None:
    assert graphics_cards(tmp_path) == ()

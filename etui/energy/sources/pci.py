"""The graphics cards on the PCI bus, as Linux lists them in sysfs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etui.energy.sources.sysfs import entries, text_or

_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")
"""VGA controller, 3D controller, other display controller."""


@dataclass(frozen=True, slots=True)
class GraphicsCard:
    """A card on the bus, with or without a driver; ``path`` is its folder in sysfs."""

    vendor: str
    path: Path


def graphics_cards(sysfs_dir: Path) -> tuple[GraphicsCard, ...]:
    """List the cards of the vendors for which llama.cpp has a GPU backend, in bus order."""
    return tuple(
        GraphicsCard(_VENDORS[vendor], device)
        for device in entries(sysfs_dir / "bus" / "pci" / "devices")
        if (vendor := text_or(device / "vendor")) in _VENDORS
        and text_or(device / "class").startswith(_DISPLAY_CLASSES)
    )

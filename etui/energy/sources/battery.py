"""A laptop's battery while it discharges: it covers the whole machine, with its screen.

Readings come every few seconds and are coarse, so the battery is a cross-check; it is the total
only where nothing finer can be read. While it charges or is idle on mains there is no reading.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from etui.energy.sources.sysfs import entries, int_or_none, text_or
from etui.energy.types import BaseSource, Channel, Kind, sum_known

_CHANNEL = Channel(
    id="battery",
    scope="battery",
    kind=Kind.BATTERY,
    label="battery, whole machine",
    period_s=5.0,
    relative_error=0.1,  # gauges are specified to a few percent and lag behind: 10 % covers both
)


class BatterySource(BaseSource):
    """Every battery below ``<sysfs>/class/power_supply``, summed into one channel."""

    def __init__(self, sysfs_dir: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(clock)
        self._batteries = [
            folder
            for folder in entries(sysfs_dir / "class" / "power_supply")
            if text_or(folder / "type") == "Battery" and text_or(folder / "scope") != "Device"
        ]
        if self._watts() is not None:
            self.add(_CHANNEL, read=lambda: (None, self._watts()))
        elif self._batteries:
            states = {text_or(folder / "status", "unknown").lower() for folder in self._batteries}
            state = " and ".join(sorted(states))
            why = f"the battery is {state}; its power is known only while it discharges"
            self.refuse("battery", why, "unplug the machine")

    def _watts(self) -> float | None:
        """Read the power drawn from all batteries; None while one of them charges."""
        states = [text_or(folder / "status") for folder in self._batteries]
        if "Discharging" not in states or "Charging" in states:
            return None
        return sum_known(
            _read_watts(folder)
            for folder, state in zip(self._batteries, states, strict=True)
            if state == "Discharging"
        )


def _read_watts(folder: Path) -> float | None:
    """Read watts from ``power_now``, or from ``current_now`` and ``voltage_now`` (in micro)."""
    power = int_or_none(folder / "power_now")
    if power is None:
        current = int_or_none(folder / "current_now")
        voltage = int_or_none(folder / "voltage_now")
        if current is None or voltage is None:
            return None
        power = abs(current) * voltage // 1_000_000
    watts = abs(power) / 1e6  # some drivers count a discharge as negative
    return watts or None

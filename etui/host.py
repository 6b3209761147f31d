"""Reads the state of the machine that policies look at: battery, memory, time of day."""

from __future__ import annotations

import time
from pathlib import Path

from etui.config import Config
from etui.routing.host import HostState


def read_host(
    config: Config,
    *,
    resident: str | None = None,
    watts: float | None = None,
    gpu_temperature: float | None = None,
    gpu_free_memory_bytes: int | None = None,
) -> HostState:
    """The state of the machine now; takes about a millisecond and never fails.

    Args:
        config: Names the root of sysfs.
        resident: Model in memory, known to whoever runs the engine.
        watts: Power of the machine, known to whoever runs the recorder.
        gpu_temperature: Hottest GPU, degrees Celsius.
        gpu_free_memory_bytes: Free memory of the GPU with the most.
    """
    percent, discharging = _battery(config.sysfs_dir / "class" / "power_supply")
    now = time.localtime()
    return HostState(
        battery_percent=percent,
        on_battery=discharging,
        hour=now.tm_hour + now.tm_min / 60,
        free_memory_gb=_free_memory_gb(),
        gpu_free_memory_gb=None if gpu_free_memory_bytes is None else gpu_free_memory_bytes / 1e9,
        gpu_temperature=gpu_temperature,
        watts=watts,
        resident=resident,
    )


def _free_memory_gb() -> float | None:
    import psutil

    try:
        return float(psutil.virtual_memory().available) / 1e9
    except (OSError, NotImplementedError, RuntimeError):
        return None


def _battery(supplies: Path) -> tuple[float | None, bool | None]:
    """(charge in percent, whether it is discharged) of the machine's first battery.

    Linux says it below sysfs; elsewhere psutil knows. Batteries of a mouse or a headset carry
    ``scope: Device`` and are not the machine's.
    """
    if not supplies.is_dir():
        return _battery_elsewhere()
    for supply in sorted(supplies.iterdir()):
        if _read(supply / "type") != "Battery" or _read(supply / "scope") == "Device":
            continue
        capacity, status = _read(supply / "capacity"), _read(supply / "status")
        try:
            percent = float(capacity) if capacity is not None else None
        except ValueError:
            percent = None
        return percent, None if status in (None, "Unknown") else status == "Discharging"
    return None, None


def _battery_elsewhere() -> tuple[float | None, bool | None]:
    import psutil

    if psutil.LINUX or not hasattr(psutil, "sensors_battery"):
        return None, None
    battery = psutil.sensors_battery()
    if battery is None:
        return None, None
    plugged = battery.power_plugged
    return float(battery.percent), None if plugged is None else not plugged


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None

"""Read the state of the machine that policies may use: battery, memory, GPUs, time of day."""

from __future__ import annotations

import importlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from etui.config.config import Config
from etui.routing.signals import HostState


def read_host(config: Config, *, nvml: Any = None) -> HostState:
    """Read the state of the machine but its models and watts; what cannot be read is None.

    It takes about a millisecond, plus the start of NVML if this process has not started it yet.
    """
    temperature, gpu_free_bytes = _read_gpus(nvml)
    percent, discharging = read_battery(config.sysfs_dir / "class" / "power_supply")
    return HostState(
        battery_percent=percent,
        on_battery=discharging,
        hour=read_hour(),
        free_memory_gb=_read_free_memory_gb(),
        gpu_free_memory_gb=None if gpu_free_bytes is None else gpu_free_bytes / 1e9,
        gpu_temperature=temperature,
    )


def read_hour() -> float:
    """Return the hour of the day in local time, with its minutes as a fraction."""
    now = time.localtime()
    return now.tm_hour + now.tm_min / 60


def _read_gpus(nvml: Any) -> tuple[float | None, float | None]:
    """Read the temperature of the hottest NVIDIA GPU, and the most free bytes of any of them."""
    try:
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except (ImportError, AttributeError):
        return None, None
    except nvml.NVMLError:
        return None, None
    temperatures, free_bytes = [], []
    with suppress(nvml.NVMLError):  # a GPU may fall off the bus: the others count
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            with suppress(nvml.NVMLError):
                core = nvml.NVML_TEMPERATURE_GPU
                temperatures.append(float(nvml.nvmlDeviceGetTemperature(handle, core)))
            with suppress(nvml.NVMLError):
                free_bytes.append(float(nvml.nvmlDeviceGetMemoryInfo(handle).free))
    with suppress(nvml.NVMLError):
        nvml.nvmlShutdown()  # NVML counts its starts, so the recorder's stays valid
    return max(temperatures, default=None), max(free_bytes, default=None)


def _read_free_memory_gb() -> float | None:
    import psutil

    try:
        return float(psutil.virtual_memory().available) / 1e9
    except (OSError, NotImplementedError, RuntimeError):
        return None


def read_battery(supplies: Path) -> tuple[float | None, bool | None]:
    """Read the charge in percent and whether the machine's first battery is discharging.

    Each is None if unknown, or without a battery. The source is sysfs on Linux and psutil on other
    systems. Batteries of a mouse or a headset have ``scope: Device`` and do not count.
    """
    if not supplies.is_dir():
        return _read_battery_by_psutil()
    for supply in sorted(supplies.iterdir()):
        if _read_text(supply / "type") != "Battery" or _read_text(supply / "scope") == "Device":
            continue
        percent, status = None, _read_text(supply / "status")
        with suppress(ValueError):
            percent = float(_read_text(supply / "capacity") or "")
        return percent, None if status in (None, "Unknown") else status == "Discharging"
    return None, None


def _read_battery_by_psutil() -> tuple[float | None, bool | None]:
    import psutil

    if psutil.LINUX or not hasattr(psutil, "sensors_battery"):
        return None, None
    battery = psutil.sensors_battery()
    if battery is None:
        return None, None
    plugged = battery.power_plugged
    return float(battery.percent), None if plugged is None else not plugged


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None

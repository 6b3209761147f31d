"""Reads the state of the machine that policies look at: battery, memory, time of day."""

from __future__ import annotations

import importlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from etui.config.config import Config
from etui.routing.signals.host_state import HostState


def read_host(
    config: Config,
    *,
    resident: str | None = None,
    watts: float | None = None,
    nvml: Any = None,
) -> HostState:
    """The state of the machine now; never fails.

    It takes about a millisecond, and with an NVIDIA driver as long as starting NVML does where
    nothing in this process started it before.

    Args:
        config: Names the root of sysfs.
        resident: Model in memory, known to whoever runs the engine.
        watts: Power of the machine, known to whoever runs the recorder.
        nvml: The ``pynvml`` module; None imports it.
    """
    temperature, gpu_free_bytes = _gpus(nvml)
    percent, discharging = _battery(config.sysfs_dir / "class" / "power_supply")
    now = time.localtime()
    return HostState(
        battery_percent=percent,
        on_battery=discharging,
        hour=now.tm_hour + now.tm_min / 60,
        free_memory_gb=_free_memory_gb(),
        gpu_free_memory_gb=None if gpu_free_bytes is None else gpu_free_bytes / 1e9,
        gpu_temperature=temperature,
        watts=watts,
        resident=resident,
    )


def _gpus(nvml: Any) -> tuple[float | None, float | None]:
    """(temperature of the hottest, free bytes of the one with the most) of the NVIDIA GPUs."""
    try:
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except (ImportError, AttributeError):
        return None, None
    except nvml.NVMLError:
        return None, None
    temperatures, free_bytes = [], []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            with suppress(nvml.NVMLError):
                core = nvml.NVML_TEMPERATURE_GPU
                temperatures.append(float(nvml.nvmlDeviceGetTemperature(handle, core)))
            with suppress(nvml.NVMLError):
                free_bytes.append(float(nvml.nvmlDeviceGetMemoryInfo(handle).free))
    except nvml.NVMLError:
        pass  # a GPU that fell off the bus: what the others said still counts
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()  # counted by NVML: the recorder's own start stays in force
    return max(temperatures, default=None), max(free_bytes, default=None)


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

"""The state of the machine, as signals use it; ``etui.runtime.host`` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class HostState:
    """The current state of the machine; None is unknown, and a signal on it does not hold."""

    battery_percent: float | None = None  # Charge of the battery, 0..100
    on_battery: bool | None = None
    hour: float | None = None  # Local time in hours, with fraction, 0 <= hour < 24
    free_memory_gb: float | None = None  # Memory available without swapping, in 1e9 bytes
    gpu_free_memory_gb: float | None = None
    """Free memory of the GPU that has the most, in 1e9 bytes."""
    gpu_temperature: float | None = None  # Temperature of the hottest GPU, in degrees Celsius
    watts: float | None = None  # Power of the machine, as far as it is measured
    resident: str | None = None  # Model in memory, by its name in models.yaml


HOST_NUMBERS: Mapping[str, Callable[[HostState], float | None]] = MappingProxyType(
    {
        "battery_percent": lambda host: host.battery_percent,
        "hour": lambda host: host.hour,
        "free_memory_gb": lambda host: host.free_memory_gb,
        "gpu_free_memory_gb": lambda host: host.gpu_free_memory_gb,
        "gpu_temperature": lambda host: host.gpu_temperature,
        "watts": lambda host: host.watts,
    }
)
"""Host facts that are numbers, by their name in a policy."""

HOST_FIELDS = (*HOST_NUMBERS, "on_battery", "resident")
"""Every host fact a signal can name."""

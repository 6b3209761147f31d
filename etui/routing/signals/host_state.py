"""The state of the machine as a policy sees it; ``etui.runtime.host`` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class HostState:
    """What is known of the machine now; None is not known, and a signal on it does not hold.

    Attributes:
        battery_percent: Charge of the battery, 0..100.
        on_battery: Whether the battery is being discharged.
        hour: Hour of the local day with its fraction, 0 <= hour < 24.
        free_memory_gb: Memory that can be had without swapping, 1e9 bytes.
        gpu_free_memory_gb: Free memory of the GPU with the most, 1e9 bytes.
        gpu_temperature: Hottest GPU, degrees Celsius.
        watts: Power of the machine as far as it is measured.
        resident: Model that is in memory, by its name in models.yaml.
    """

    battery_percent: float | None = None
    on_battery: bool | None = None
    hour: float | None = None
    free_memory_gb: float | None = None
    gpu_free_memory_gb: float | None = None
    gpu_temperature: float | None = None
    watts: float | None = None
    resident: str | None = None


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
"""Host facts that a signal bounds, by their name in a policy."""

HOST_FIELDS = (*HOST_NUMBERS, "on_battery", "resident")
"""Every host fact a signal can name."""

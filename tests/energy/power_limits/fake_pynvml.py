"""The functions of pynvml that power limits need, over limits in memory."""

# ruff: noqa: N802, N815 - the names are those of pynvml

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        texts = {2: "Invalid Argument", 3: "Not Supported", 4: "Insufficient Permissions"}
        super().__init__(texts.get(value, "Unknown Error"))
        self.value = value


class FakeNvml:
    """GPUs with limits in milliwatts.

    Args:
        denied: Whether setting needs a permission that is missing.
        round_to: The driver cuts limits to multiples of this, milliwatts.
        enforced: Highest limit that is enforced, milliwatts.
        reasons: Bits of the clocks event reasons; None if the driver does not know them.
        silent: The driver returns success and sets nothing.
    """

    NVMLError = NVMLError

    def __init__(self, *limits: int, **options: Any) -> None:
        self.limits = list(limits or (350_000,))
        self.denied, self.silent, self.is_open = False, False, False
        self.round_to, self.enforced, self.reasons = 1, 450_000, 0
        vars(self).update(options)
        always = {
            "GetName": "Fake",
            "GetTotalEnergyConsumption": 1000,
            "GetPowerUsage": 100_000,
            "GetPowerManagementDefaultLimit": 450_000,
            "GetPowerManagementLimitConstraints": [100_000, 450_000],
        }
        for name, value in always.items():
            setattr(self, f"nvmlDevice{name}", lambda handle, value=value: value)

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.limits)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    nvmlDeviceGetIndex = nvmlDeviceGetHandleByIndex

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-fake-{handle}"

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(domain=0, bus=handle + 1, device=0)

    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:
        return self.limits[handle]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return min(self.limits[handle], self.enforced)

    def nvmlDeviceSetPowerManagementLimit(self, handle: int, limit: int) -> None:
        if self.denied:
            raise NVMLError(4)
        self.set_limit(handle, limit)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        if self.reasons is None:
            raise NVMLError(3)
        return self.reasons

    def set_limit(self, handle: int, limit: int) -> None:
        """Set a limit as a privileged program does."""
        if not 100_000 <= limit <= 450_000:
            raise NVMLError(2)
        if not self.silent:
            self.limits[handle] = limit // self.round_to * self.round_to

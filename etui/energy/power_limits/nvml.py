"""Power limits of NVIDIA GPUs through NVML, milliwatts.

Everyone may read them; ``nvmlDeviceSetPowerManagementLimit`` needs root. The enforced limit is the
lowest of several (NVML API reference, ``nvmlDeviceGetEnforcedPowerLimit``): the limit set here, and
those of the board or of a second power connector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etui.energy.power_limits.types import LimitReasons, PowerLimit, Setter, WriteRefused
from etui.energy.power_limits.zeusd import ZeusdGpu
from etui.energy.sources.nvml import NvmlSource
from etui.energy.types import Channel

KNOB = "limit"
_NO_PERMISSION = 4

_REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power limit",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "heat (driver)",
    0x040: "heat (hardware)",
    0x080: "power brake (power supply)",
    0x100: "display clocks",
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons``: nvmlClocksEventReason* of nvml.h."""

_POWER_CAP, _THERMAL = 0x004, 0x020 | 0x040


class NvmlGpuLimit:
    """The limit of one NVIDIA GPU.

    Args:
        source: The open driver.
        is_root: Whether etui runs as root.
        zeusd: The GPU in a running zeusd; None without one.
    """

    unit_watts = 0.001

    def __init__(
        self,
        source: NvmlSource,
        channel: Channel,
        handle: Any,
        index: int,
        is_root: bool,
        zeusd: ZeusdGpu | None,
    ) -> None:
        self._nvml = source.library
        self._handle = handle
        self._is_root = is_root
        self._zeusd = zeusd
        self.scope = channel.scope
        self.label = f"GPU {index}"
        uuid = channel.scope.partition(":")[2]
        self._name = uuid if uuid.startswith("GPU-") else str(index)

    def read(self) -> PowerLimit:
        """Read the limit, its range and what is enforced."""
        watts = self._ask_watts("nvmlDeviceGetPowerManagementLimit")
        default = self._ask_watts("nvmlDeviceGetPowerManagementDefaultLimit")
        span = self._ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        command_watts = watts or default
        return PowerLimit(
            scope=self.scope,
            label=self.label,
            watts=watts,
            enforced_watts=self._ask_watts("nvmlDeviceGetEnforcedPowerLimit"),
            min_watts=_to_watts(span[0]),
            max_watts=_to_watts(span[1]),
            default_watts=default,
            setter=self._find_setter(),
            command=self.format_command({KNOB: command_watts} if command_watts else {}),
        )

    def read_knobs(self) -> Mapping[str, float | None]:
        """Read the limit."""
        return {KNOB: self._ask_watts("nvmlDeviceGetPowerManagementLimit")}

    def plan(self, watts: float) -> Mapping[str, float]:
        """Set the only limit."""
        return {KNOB: watts}

    def write(self, knob: str, watts: float) -> None:
        """Set the limit, through zeusd if etui may not.

        Raises:
            WriteRefused: The driver or zeusd refused.
        """
        milliwatts = round(watts * 1e3)
        try:
            self._nvml.nvmlDeviceSetPowerManagementLimit(self._handle, milliwatts)
        except self._nvml.NVMLError as error:
            denied = getattr(error, "value", None) == _NO_PERMISSION
            if denied and self._zeusd is not None:
                self._zeusd.set_power_limit(watts)
                return
            why = "permission denied" if denied else str(error).rstrip(".").lower()
            raise WriteRefused(why, denied=denied) from error

    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command of nvidia-smi that sets the limit."""
        return "; ".join(
            f"sudo nvidia-smi -i {self._name} -pl {watts:.10g}" for watts in changes.values()
        )

    def explain_lower(self) -> str:
        """Name what the driver states as the reason for lower clocks."""
        found = [r for r in self._read_reasons() or () if r not in ("idle", "power limit")]
        return ", ".join(found) if found else "another limit of the board"

    def read_reasons(self, t_ns: int) -> LimitReasons:
        """Read the enforced limit and the reasons for lower clocks."""
        bits = self._read_bits()
        return LimitReasons(
            scope=self.scope,
            t_ns=t_ns,
            enforced_watts=self._ask_watts("nvmlDeviceGetEnforcedPowerLimit"),
            is_power_capped=None if bits is None else bool(bits & _POWER_CAP),
            is_hot=None if bits is None else bool(bits & _THERMAL),
            reasons=self._read_reasons() or (),
        )

    def _read_reasons(self) -> tuple[str, ...] | None:
        bits = self._read_bits()
        if bits is None:
            return None
        return tuple(name for bit, name in _REASONS.items() if bits & bit)

    def _read_bits(self) -> int | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # drivers before 535 know the older name only
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else int(bits)

    def _find_setter(self) -> Setter:
        if self._is_root:
            return "etui"
        return "zeusd" if self._zeusd is not None else "user"

    def _ask_watts(self, function: str) -> float | None:
        return _to_watts(self._ask(function))

    def _ask(self, function: str) -> Any:
        """Call an NVML function; return None if the card, the driver or pynvml lacks it."""
        call = getattr(self._nvml, function, None)
        if call is None:
            return None
        try:
            return call(self._handle)
        except self._nvml.NVMLError:
            return None


def find_gpus(
    source: NvmlSource, is_root: bool, find_zeusd: Callable[[str], ZeusdGpu | None]
) -> list[NvmlGpuLimit]:
    """Find the GPUs that have a power limit.

    Args:
        source: The open driver.
        is_root: Whether etui runs as root.
        find_zeusd: PCI address -> the GPU in a running zeusd.
    """
    found = []
    for position, (channel, handle) in enumerate(source.handles):
        nvml = source.library
        try:
            limit = nvml.nvmlDeviceGetPowerManagementLimit(handle)
        except (nvml.NVMLError, AttributeError):
            continue
        if not limit:
            continue
        try:
            index = int(nvml.nvmlDeviceGetIndex(handle))
        except (nvml.NVMLError, AttributeError):
            index = position
        remote = find_zeusd(_read_pci_address(nvml, handle))
        found.append(NvmlGpuLimit(source, channel, handle, index, is_root, remote))
    return found


def _read_pci_address(nvml: Any, handle: Any) -> str:
    """Read the PCI address as ``lspci -D`` writes it; empty if the driver has none."""
    try:
        pci = nvml.nvmlDeviceGetPciInfo(handle)
    except (nvml.NVMLError, AttributeError):
        return ""
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _to_watts(milliwatts: int | None) -> float | None:
    return milliwatts / 1e3 if milliwatts else None

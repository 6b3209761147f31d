"""NVIDIA GPUs through NVML.

One ``nvmlDeviceGetFieldValues`` call gives the energy counter (field 83), instant power (186) and
average power (185). Where fields are missing, ``nvmlDeviceGetTotalEnergyConsumption`` and
``nvmlDeviceGetPowerUsage`` replace them; the latter is an average over one second on Ampere
(except GA100) and newer, and is treated as one. 0 mW and "not supported" are missing values.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from etui.energy.types import BaseSource, Channel, Kind, Reading

TOTAL_ENERGY, AVERAGE_POWER, INSTANT_POWER = 83, 185, 186
_GPU_SCOPE, _MODULE_SCOPE = 0, 1
_AMPERE = 7
_AVERAGE_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How one GPU is read."""

    counter: str  # Where the energy counter comes from: `field`, `call` or empty
    power: str  # `instant`, `average` (fields), `usage` (call) or empty
    scope_id: int = _GPU_SCOPE
    """NVML power scope of the power fields: 0 for the GPU, 1 for the module."""
    average_s: float = 0.0  # Seconds over which the power reading is averaged; 0 if it is instant


class NvmlGpu(BaseSource):
    """One GPU of a :class:`NvmlSource`, which is read without waiting for the others."""

    def __init__(self, source: NvmlSource, channel: Channel, handle: Any, plan: Plan) -> None:
        super().__init__(source.clock)
        self._source = source
        self.channels = [channel]
        self.handle = handle
        self._plan = plan

    def read_channel(self, channel: Channel) -> Reading:
        """Read counter and power."""
        return self._source.read_gpu(self.handle, self._plan)


class NvmlSource(BaseSource):
    """Every NVIDIA GPU that the driver lists."""

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
        library: ModuleType | None = None,
    ) -> None:
        super().__init__(clock)
        self._wall = wall
        self._gpus: list[NvmlGpu] = []
        self._open = False
        self.failure = ""  # The error of NVML when it could not start
        try:
            self._nvml: Any = library or _import()
        except ImportError:
            self._nvml, self.failure = None, "the package nvidia-ml-py is not installed"
            return
        except OSError:
            self._nvml, self.failure = None, "nvml shared library not found"
            return
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            self.failure = _format_error(error)
            return
        except AttributeError:
            self.failure = "`pynvml` comes from a package other than nvidia-ml-py"
            return
        self._open = True
        self._open_gpus()

    @property
    def parts(self) -> Sequence[NvmlGpu]:
        """Every GPU that gave a reading, to be read apart."""
        return self._gpus

    @property
    def handles(self) -> Sequence[tuple[Channel, Any]]:
        """Channel and NVML handle of each GPU that is read."""
        return [(gpu.channels[0], gpu.handle) for gpu in self._gpus]

    def read_clock_reasons(self, handle: Any) -> int | None:
        """Read the bits of the reasons for lower clocks; None if the driver does not say."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # drivers before 535 know the older name only
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return None if bits is None else int(bits)

    @property
    def library(self) -> Any:
        """The ``pynvml`` module in use; None when NVML did not start."""
        return self._nvml if self._open else None

    def ask(self, function: str, *args: Any) -> Any:
        """Call an NVML function; return None if the card, the driver or pynvml lacks it."""
        library = self.library
        call = getattr(library, function, None)
        if call is None:
            return None
        try:
            return call(*args)
        except library.NVMLError:
            return None

    def read(self) -> Mapping[str, Reading]:
        """Read counter and power of every GPU; one that fails gives an empty reading."""
        return {key: reading for gpu in self._gpus for key, reading in gpu.read().items()}

    def read_gpu(self, handle: Any, plan: Plan) -> Reading:
        """Read one GPU."""
        before_ns = self.clock()
        values: dict[int, tuple[float | None, int]] = {}
        if plan.counter == "field" or plan.power in ("instant", "average"):
            values = self._read_fields(handle, plan.scope_id)
        millijoules: float | None = None
        stamp_us: int | None = None
        if plan.counter == "field" and TOTAL_ENERGY in values:
            millijoules, stamp_us = values[TOTAL_ENERGY]
        elif plan.counter == "call":
            millijoules = self.ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        if plan.power == "usage":
            milliwatts = self.ask("nvmlDeviceGetPowerUsage", handle)
        else:
            number = INSTANT_POWER if plan.power == "instant" else AVERAGE_POWER
            milliwatts = values.get(number, _NOTHING)[0] if plan.power else None
        # A stall between the two clocks makes the call a long one, which is made again.
        wall_ns = self._wall()
        after_ns = self.clock()
        return Reading(
            t_ns=(before_ns + after_ns) // 2,
            joules=None if millijoules is None else millijoules / 1e3,
            watts=milliwatts / 1e3 if milliwatts else None,
            driver_us=stamp_us or None,
            updated_ns=_to_monotonic(stamp_us, wall_ns, after_ns),
            half_ns=(after_ns - before_ns) // 2,
        )

    def close(self) -> None:
        """Release NVML."""
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()

    def _open_gpus(self) -> None:
        count = self.ask("nvmlDeviceGetCount") or 0
        if not count:
            self.failure = "the driver lists no GPU"
        for index in range(count):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            except self._nvml.NVMLError as error:
                self.refuse(f"gpu:{index}", _format_error(error), "check the GPU with nvidia-smi")
                continue
            self._open_gpu(index, handle)

    def _open_gpu(self, index: int, handle: Any) -> None:
        uuid = self.ask("nvmlDeviceGetUUID", handle) or str(index)
        name = self.ask("nvmlDeviceGetName", handle) or "NVIDIA GPU"
        plan = self._make_plan(handle)
        module = plan.scope_id == _MODULE_SCOPE
        scope = f"{'module' if module else 'gpu'}:{uuid}"
        if not plan.counter and not plan.power:
            why = f"{name} reports neither energy nor power"
            fix = "vGPU and MIG guests cannot read power: run etui on the host of the GPU"
            self.refuse(scope, why, "" if "nvgpu" in str(name) else fix)  # a Jetson has rails
            return
        limit_mw = self.ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        channel = Channel(
            id=scope,
            scope=scope,
            kind=Kind.COUNTER if plan.counter else Kind.INTEGRATED,
            parent=None if module else f"module:{uuid}",
            limit_watts=limit_mw / 1e3 if limit_mw else None,
            label=str(name) + (" (GPU and CPU together)" if module else ""),
            average_s=plan.average_s,
        )
        self._gpus.append(NvmlGpu(self, channel, handle, plan))
        self.add(channel, self._format_remark(handle, plan))

    def _make_plan(self, handle: Any) -> Plan:
        values = self._read_fields(handle, _GPU_SCOPE)
        energy = values.get(TOTAL_ENERGY)
        counter = "field" if energy and energy[0] is not None else ""
        if not counter and self.ask("nvmlDeviceGetTotalEnergyConsumption", handle) is not None:
            counter = "call"
        usage = self.ask("nvmlDeviceGetPowerUsage", handle)
        instant = values.get(INSTANT_POWER, _NOTHING)[0]
        if instant or (instant is not None and not usage):
            return Plan(counter, "instant")
        if usage is not None:
            average_s = _AVERAGE_S if self._is_averaged(handle) else 0.0
            return Plan(counter, "usage", average_s=average_s)
        if values.get(AVERAGE_POWER, _NOTHING)[0] is not None:
            return Plan(counter, "average", average_s=_AVERAGE_S)
        module = self._read_fields(handle, _MODULE_SCOPE).get(INSTANT_POWER, _NOTHING)[0]
        if not counter and module is not None:
            return Plan(counter, "instant", _MODULE_SCOPE)
        return Plan(counter, "")

    def _is_averaged(self, handle: Any) -> bool:
        """Return whether ``nvmlDeviceGetPowerUsage`` averages over a second: Ampere and newer.

        GA100 (the A100 and A30) is the exception; NVML gives it Ampere's architecture number.
        """
        architecture = self.ask("nvmlDeviceGetArchitecture", handle)
        if architecture is None or architecture >= 0xFFFF:
            return False
        name = str(self.ask("nvmlDeviceGetName", handle) or "")
        return bool(architecture >= _AMPERE) and not ("A100" in name or "A30" in name.split())

    def _format_remark(self, handle: Any, plan: Plan) -> str:
        remarks = []
        if not plan.counter:
            remarks.append("no energy counter, power is integrated")
        if plan.average_s:
            remarks.append("power is an average over one second")
        mode = self.ask("nvmlDeviceGetMigMode", handle)
        if mode and mode[0]:
            remarks.append("MIG is on: readings cover the whole board")
        return "; ".join(remarks)

    def _read_fields(self, handle: Any, scope_id: int) -> dict[int, tuple[float | None, int]]:
        """Read field id -> (value, timestamp in us); a value that is not supported is None."""
        fields = [TOTAL_ENERGY, (INSTANT_POWER, scope_id), (AVERAGE_POWER, scope_id)]
        found = self.ask("nvmlDeviceGetFieldValues", handle, fields)
        if found is None:
            return {}
        return {v.fieldId: (self._parse_value(v), int(v.timestamp)) for v in found}

    def _parse_value(self, value: Any) -> float | None:
        if value.nvmlReturn != 0:
            return None
        member = _MEMBERS.get(value.valueType)
        return None if member is None else getattr(value.value, member)


_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
"""nvmlValueType_t -> member of the union."""
_NOTHING: tuple[None, int] = (None, 0)


def _to_monotonic(stamp_us: int | None, wall_ns: int, now_ns: int) -> int | None:
    """Convert a driver's timestamp (microseconds since 1970) to the monotonic clock."""
    if not stamp_us:
        return None
    age_ns = wall_ns - stamp_us * 1000
    return now_ns - age_ns if -1_000_000_000 < age_ns < 60_000_000_000 else None


def _import() -> ModuleType:
    """Import pynvml; without a driver raise OSError instead of reading its 8,000 lines."""
    if sys.platform == "linux" and "pynvml" not in sys.modules:
        import ctypes

        ctypes.CDLL("libnvidia-ml.so.1")
    import pynvml

    module: ModuleType = pynvml
    return module


def _format_error(error: Exception) -> str:
    return str(error).rstrip(".").lower() or type(error).__name__

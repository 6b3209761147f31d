"""Other users of the NVIDIA GPUs, and temperature, clocks and memory; sampled twice a second."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etui.energy.gpu_sharing import GpuShare, GpuUse, compute_share
from etui.energy.sources.nvml import NvmlSource
from etui.energy.types import Channel, ChannelProbe, Reading

_EVERY_NS = 500_000_000
_REACH_NS = 700_000_000
_LOOKS = 8192
_CORE_TEMPERATURE, _SM_CLOCK, _MEMORY_CLOCK = 0, 1, 2


@dataclass(frozen=True, slots=True)
class GpuState:
    """The state of one GPU at a moment; None where the driver does not report a value."""

    t_ns: int
    scope: str
    temperature_celsius: float | None
    sm_mhz: float | None
    memory_mhz: float | None
    limit_watts: float | None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilisation_percent: float | None = None


class GpuWatch:
    """A source without channels: it only records the use and state of the GPUs.

    Args:
        is_own: Whether a process belongs to etui; None asks the system.
        proc: Folder with one entry per process.
    """

    name = "nvml-watch"

    def __init__(
        self,
        nvml: NvmlSource,
        clock: Callable[[], int] = time.monotonic_ns,
        is_own: Callable[[int], bool] | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._nvml = nvml
        self._clock = clock
        self._is_own = is_own or _is_own_process
        self._owners: dict[int, bool] = {}
        self._proc = proc
        self._uses: deque[GpuUse] = deque(maxlen=_LOOKS)
        self._states: dict[str, GpuState] = {}
        self._seen_us: dict[str, int] = {}
        self._due_ns = 0

    @property
    def channels(self) -> Sequence[Channel]:
        """No channels: this source measures no energy."""
        return ()

    @property
    def states(self) -> tuple[GpuState, ...]:
        """The newest state of every GPU."""
        return tuple(self._states.values())

    def probe(self) -> Sequence[ChannelProbe]:
        """Report nothing: there are no channels."""
        return ()

    def read(self) -> Mapping[str, Reading]:
        """Sample the GPUs when half a second has passed; return no readings."""
        now_ns = self._clock()
        if now_ns < self._due_ns or self._nvml.library is None:
            return {}
        self._due_ns = now_ns + _EVERY_NS
        for channel, handle in self._nvml.handles:
            self._uses.append(self._read_use(now_ns, channel.scope, handle))
            self._states[channel.scope] = self._read_state(now_ns, channel.scope, handle)
        return {}

    def close(self) -> None:
        """Do nothing: the NVML source closes the driver."""

    def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
        """Return whether a GPU was shared in an interval, and etui's part of it."""
        return compute_share(tuple(self._uses), scope, start_ns, end_ns, _REACH_NS)

    def is_used_by_own(self, scope: str, start_ns: int, end_ns: int) -> bool:
        """Return whether etui's processes are known to have used a GPU in an interval."""
        return any(
            use.own_percent
            for use in tuple(self._uses)
            if use.scope == scope and start_ns - _REACH_NS <= use.t_ns <= end_ns + _REACH_NS
        )

    def _select_own(self, pids: set[int]) -> set[int]:
        """Return the processes that belong to etui; each process is checked once."""
        self._owners = {pid: self._owners[pid] for pid in pids if pid in self._owners}
        for pid in pids - self._owners.keys():
            self._owners[pid] = self._is_own(pid)
        return {pid for pid in pids if self._owners[pid]}

    def _read_use(self, now_ns: int, scope: str, handle: Any) -> GpuUse:
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or []
        pids = {int(process.pid) for process in processes}
        own = self._select_own(pids)
        known = {pid for pid in pids if pid in own or (self._proc / str(pid)).exists()}
        samples = self._ask("nvmlDeviceGetProcessUtilization", handle, self._seen_us.get(scope, 0))
        own_percent = other_percent = None
        if samples is not None or not pids:
            newest: dict[int, tuple[int, float]] = {}
            for sample in samples or []:
                stamp, pid = int(sample.timeStamp), int(sample.pid)
                if stamp >= newest.get(pid, (0, 0.0))[0] and int(sample.smUtil) <= 100:
                    newest[pid] = (stamp, float(sample.smUtil))
                self._seen_us[scope] = max(self._seen_us.get(scope, 0), stamp)
            own_percent = sum(sm for pid, (_, sm) in newest.items() if pid in own)
            other_percent = sum(sm for pid, (_, sm) in newest.items() if pid not in own)
        return GpuUse(
            now_ns, scope, own_percent, other_percent, len(known - own), len(pids - known)
        )

    def _read_state(self, now_ns: int, scope: str, handle: Any) -> GpuState:
        limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return GpuState(
            t_ns=now_ns,
            scope=scope,
            temperature_celsius=self._ask("nvmlDeviceGetTemperature", handle, _CORE_TEMPERATURE),
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", handle, _SM_CLOCK),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", handle, _MEMORY_CLOCK),
            limit_watts=limit_mw / 1e3 if limit_mw else None,
            memory_used_bytes=int(memory.used) if memory else None,
            memory_total_bytes=int(memory.total) if memory else None,
            utilisation_percent=_parse_percent(self._ask("nvmlDeviceGetUtilizationRates", handle)),
        )

    def _ask(self, function: str, *args: Any) -> Any:
        library = self._nvml.library
        call = getattr(library, function, None)
        if call is None:
            return None
        with suppress(library.NVMLError):
            return call(*args)
        return None


def _parse_percent(rates: Any) -> float | None:
    """Return the share of time with a kernel; None if it is not reported (MIG) or out of range."""
    percent = getattr(rates, "gpu", None)
    return float(percent) if percent is not None and 0 <= percent <= 100 else None


def _is_own_process(pid: int) -> bool:
    """Return whether a process is this one or its descendant: the engine may run in a child."""
    import psutil

    own = os.getpid()
    if pid == own:
        return True
    with suppress(psutil.Error):
        return any(parent.pid == own for parent in psutil.Process(pid).parents())
    return False

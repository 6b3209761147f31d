"""Apple Silicon, without sudo: macOS's energy model, and the SMC's power of the whole Mac.

The optional package ``zeus-apple-silicon`` reads the cumulative counters of the energy model
(IOReport), so the kind is ``model``: the vendor's own model, not a sensor. Some counters are
refreshed by each read, others together, at uneven intervals of 0.4 to 1.7 s (macOS 27). The counter
of the CPU can also stop for good (https://github.com/vladkens/macmon/issues/76).

The SMC's key ``PSTR`` is the power of the whole Mac in watts: a cross-check, and the total where
the package is missing.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from etui.energy.types import BaseSource, Channel, Kind, Reading

_PARTS = {
    "package:0": (("cpu_total_mj", "ane_mj"), "Apple CPU and Neural Engine"),
    "gpu:apple": (("gpu_mj",), "Apple GPU"),
    "dram:0": (("dram_mj",), "Apple memory"),
}
"""Scope -> attributes of the metrics, and label; disjoint parts of one chip. The Neural
Engine is mostly idle and is added to the CPU: a counter that never moves would look broken."""
_REFRESH_S = 0.001
"""A counter that a read refreshes is as old as the read; of others the period is learned."""
_FROZEN_NS = 5_000_000_000
"""A CPU that reads its own counter moves it: one that stood still for longer has stopped."""
_SYSTEM = "system"
AskSmc = Callable[[bytes], bytes]
"""Sends a request to the SMC and returns its answer; OSError if that fails."""


class AppleSource(BaseSource):
    """The parts of an Apple chip for which macOS counts energy, and the whole Mac."""

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        monitor: Any = None,
        on_apple: bool | None = None,
        ask_smc: AskSmc | None = None,
    ) -> None:
        super().__init__(clock)
        on_apple = _is_apple_silicon() if on_apple is None else on_apple
        self._failure = ""
        self._monitor = self._open_monitor() if monitor is None and on_apple else monitor
        self._moved: dict[str, tuple[int, float, float]] = {}
        """Scope -> when its main counter last moved (ns), its value, and the sum then (joules)."""
        for scope, (lead, total) in self._read_counters().items():
            label = _PARTS[scope][1]
            if lead:
                self.add(Channel(scope, scope, Kind.MODEL, label=label, period_s=_REFRESH_S))
            else:
                self.refuse(scope, f"the counter of the {label} has counted {total:g} J in all")
        if on_apple and not self.channels:
            fix = "" if self._monitor is not None else "pip install zeus-apple-silicon"
            self.refuse("apple", self._failure or "macOS provides no energy counters", fix)
        self._ask_smc = _open_smc() if ask_smc is None and on_apple else ask_smc
        if self._read_smc():
            self.add(Channel(_SYSTEM, _SYSTEM, Kind.INTEGRATED, label="whole Mac (SMC)"))

    def read(self) -> Mapping[str, Reading]:
        """Read the cumulative joules of every part; all empty when macOS refuses."""
        begin_ns = self.clock()
        counters = self._read_counters()
        readings = {
            channel.id: self.date(begin_ns, self._follow(channel.scope, counters, begin_ns))
            for channel in self.channels
            if channel.scope != _SYSTEM
        }
        if len(readings) < len(self.channels):
            readings[_SYSTEM] = self.date(self.clock(), None, self._read_smc())
        return readings

    def _follow(
        self, scope: str, counters: Mapping[str, tuple[float, float]], now_ns: int
    ) -> float | None:
        """Return the joules of a part when its main counter last moved.

        A CPU whose counter does not move while that of its Neural Engine does is not one of 0 W.
        """
        lead, total = counters.get(scope, (0.0, 0.0))
        if not lead:
            return None  # some refreshes report 0, and the next one what both counted
        moved = self._moved.get(scope)
        if moved is None or lead != moved[1]:
            self._moved[scope] = (now_ns, lead, total)
            return total
        is_frozen = scope == "package:0" and now_ns - moved[0] > _FROZEN_NS
        return None if is_frozen else moved[2]

    def _open_monitor(self) -> Any:
        try:
            from zeus_apple_silicon import AppleEnergyMonitor
        except ImportError:
            self._failure = "the package zeus-apple-silicon is not installed"
            return None
        try:
            return AppleEnergyMonitor()
        except RuntimeError as error:
            self._failure = str(error)
            return None

    def _read_counters(self) -> dict[str, tuple[float, float]]:
        """Read scope -> the main counter of a part and the sum of all of them, joules."""
        if self._monitor is None:
            return {}
        try:
            metrics = self._monitor.get_cumulative_energy()
        except RuntimeError as error:
            self._failure = str(error)
            return {}
        found = {}
        for scope, (names, _) in _PARTS.items():
            parts = [getattr(metrics, name, None) for name in names]
            if parts[0] is not None:
                found[scope] = parts[0] / 1e3, sum(part for part in parts if part) / 1e3
        return found

    def _read_smc(self) -> float | None:
        try:
            return (read_smc_float(self._ask_smc, b"PSTR") or None) if self._ask_smc else None
        except OSError:
            return None


def _is_apple_silicon() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


_SMC = struct.Struct("<I6x2x16xIIB3xBBBxI32s")
"""The SMC's request and answer, 80 bytes: key; size, type and attributes of its value; result,
status, command, index; value."""
_KEY_INFO, _READ_KEY, _SMC_SELECTOR = 9, 5, 2


def read_smc_float(ask: AskSmc, key: bytes) -> float | None:
    """Read a floating-point value of the SMC; None if it has none of this name and type."""

    def send(command: int, size: int = 0, kind: int = 0) -> tuple[Any, ...] | None:
        number = int.from_bytes(key, "big")
        answer = _SMC.unpack(ask(_SMC.pack(number, size, kind, 0, 0, 0, command, 0, b"")))
        return answer if answer[4] == 0 else None

    info = send(_KEY_INFO)
    if info is None or info[1:3] != (4, int.from_bytes(b"flt ", "big")):
        return None
    answer = send(_READ_KEY, *info[1:3])
    return None if answer is None else float(struct.unpack("<f", answer[8][:4])[0])


def _open_smc() -> AskSmc | None:
    """Open the SMC by IOKit; None where that is not possible."""
    try:
        kit = ctypes.CDLL("/System/Library/Frameworks/IOKit.framework/IOKit")
        task = ctypes.c_uint.in_dll(ctypes.CDLL(None), "mach_task_self_")
    except (OSError, ValueError):
        return None
    word, pointer, size = ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t
    kit.IOServiceNameMatching.restype = pointer
    kit.IOServiceGetMatchingService.argtypes = [word, pointer]
    kit.IOConnectCallStructMethod.argtypes = [word, word, pointer, size, pointer, pointer]
    wanted, port = kit.IOServiceNameMatching(b"AppleSMCKeysEndpoint"), word()
    device = kit.IOServiceGetMatchingService(0, wanted)  # which releases what is wanted
    if not device or kit.IOServiceOpen(device, task, 0, ctypes.byref(port)):
        return None

    def ask(request: bytes) -> bytes:
        answer, length = ctypes.create_string_buffer(_SMC.size), size(_SMC.size)
        failed = kit.IOConnectCallStructMethod(
            port, _SMC_SELECTOR, request, len(request), answer, ctypes.byref(length)
        )
        if failed:
            raise OSError(failed, "the SMC refused")
        return answer.raw

    return ask

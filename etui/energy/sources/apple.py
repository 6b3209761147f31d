"""Apple Silicon through the optional package ``zeus-apple-silicon``, without sudo.

Its cumulative counters come from macOS's energy model (IOReport), so the kind is ``model``: the
vendor's own model, not a sensor.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etui.energy.types import BaseSource, Channel, Kind, Reading

_PARTS = {
    "package:0": (("cpu_total_mj", "ane_mj"), "Apple CPU and Neural Engine"),
    "gpu:apple": (("gpu_mj",), "Apple GPU"),
    "dram:0": (("dram_mj",), "Apple memory"),
}
"""Scope -> attributes of the metrics, and label; disjoint parts of one chip. The Neural
Engine is mostly idle and is added to the CPU: a counter that never moves would look broken."""


class AppleSource(BaseSource):
    """The parts of an Apple chip for which macOS counts energy."""

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        monitor: Any = None,
        on_apple: bool | None = None,
    ) -> None:
        super().__init__(clock)
        on_apple = _is_apple_silicon() if on_apple is None else on_apple
        self._failure = ""
        self._monitor = self._open_monitor() if monitor is None and on_apple else monitor
        energies = self._read_energies()
        for scope, (_, label) in _PARTS.items():
            if energies.get(scope) is not None:
                self.add(Channel(id=scope, scope=scope, kind=Kind.MODEL, label=label))
        if on_apple and not self.channels:
            fix = "" if self._monitor is not None else "pip install zeus-apple-silicon"
            self.refuse("apple", self._failure or "macOS provides no energy counters", fix)

    def read(self) -> Mapping[str, Reading]:
        """Read the cumulative joules of every part; all empty when macOS refuses."""
        now_ns = self.clock()
        energies = self._read_energies()
        return {c.id: Reading(now_ns, energies.get(c.id)) for c in self.channels}

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

    def _read_energies(self) -> dict[str, float | None]:
        if self._monitor is None:
            return {}
        try:
            metrics = self._monitor.get_cumulative_energy()
        except RuntimeError as error:
            self._failure = str(error)
            return {}
        return {scope: _sum_joules(metrics, names) for scope, (names, _) in _PARTS.items()}


def _is_apple_silicon() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _sum_joules(metrics: Any, names: Sequence[str]) -> float | None:
    """Sum millijoule attributes and return joules; None when the first is missing."""
    parts = [getattr(metrics, name, None) for name in names]
    return None if parts[0] is None else sum(part for part in parts if part) / 1e3

"""Whether the machine went back to its cold idle power after the last model was unloaded.

Freeing the weights is not enough: a process that holds a context keeps a GPU at 10 to 80 W more. So
the engine's process ends as well, and the power after it is compared with the cold baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etui.energy.keep_warm import Measured
from etui.units import watts_text

QUIET_SECONDS = 5.0
"""Wait after the end of the process: clocks and voltages step down gradually."""

MEASURED_SECONDS = 5.0
"""Length of the intervals before the unload and after the end of the process."""

LEAST_SECONDS = 2.0
"""A shorter interval before the unload is not measured."""

SETTLED_SECONDS = 2.0
"""Time after an answer or a load that does not count as idle before an unload."""

NOISE = 0.03
"""Difference to the cold baseline, relative, below which a machine is cold: sensors are noisy."""

CoolState = Literal["cold", "above", "unknown"]


@dataclass(frozen=True, slots=True)
class CoolDown:
    """Idle power around an unload, of the channels that are measured together; None if unknown."""

    before: Measured | None = None  # With the model in memory, just before the unload
    after: Measured | None = None  # After the engine's process has ended
    cold: Measured | None = None

    @property
    def above_cold(self) -> Measured | None:
        """How many watts more than cold the machine draws afterwards."""
        if self.after is None or self.cold is None:
            return None
        return self.after.minus(self.cold)

    @property
    def state(self) -> CoolState:
        """Whether the machine is back to cold, as far as the measurement can tell."""
        above = self.above_cold
        if above is None or self.cold is None:
            return "unknown"
        noise = max(above.uncertainty or 0.0, NOISE * self.cold.value)
        return "above" if above.value > noise else "cold"


def describe_cool_down(found: CoolDown) -> str:
    """Describe the state: ``back to cold``, ``still 9.0 ± 0.4 W above cold``, ``not known``."""
    above = found.above_cold
    if above is None:
        return "not known"
    if found.state == "cold":
        return "back to cold"
    return f"still {watts_text(above.value, uncertainty=above.uncertainty)} above cold"


def choose_before_interval(rested_ns: int | None, unload_ns: int) -> tuple[int, int] | None:
    """Choose the interval before an unload whose power is that of the idle model.

    Args:
        rested_ns: End of the last answer or load, monotonic clock; None if unknown.

    Returns:
        Start and end; None if the model has rested for too short a time.
    """
    if rested_ns is None:
        return None
    start_ns = max(rested_ns + int(SETTLED_SECONDS * 1e9), unload_ns - int(MEASURED_SECONDS * 1e9))
    return (start_ns, unload_ns) if unload_ns - start_ns >= LEAST_SECONDS * 1e9 else None

"""Limits of a run: the joules and the time after which it stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.bench.run.loop import Ending


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What a run may use; None is no limit."""

    joules: float | None = None  # Most joules, those before a resume included
    seconds: float | None = None  # Most seconds of this process, loads excluded

    def start(
        self, stopped: Callable[[], bool], now: Callable[[], float] = time.monotonic
    ) -> Callable[[float], Ending | None]:
        """Start the clock.

        Args:
            stopped: Whether the user stopped the run.
            now: The clock, in seconds.

        Returns:
            A function that takes the joules used so far and returns why the run ends now, or None.
        """
        begun = now()

        def check(joules: float) -> Ending | None:
            if stopped():
                return "stopped"
            if self.joules is not None and joules >= self.joules:
                return "joules"
            if self.seconds is not None and now() - begun >= self.seconds:
                return "time"
            return None

        return check


NO_LIMITS = RunLimits()

"""The idle baselines of a front end, measured in the pauses between two questions.

A pause with a model in memory gives that model's baseline, one without any model the cold one.

No dedicated measurement is needed: the meter records all the time, so a pause that was long enough
is evaluated afterwards, and a shorter one costs nothing. A pause whose power is below a saved
baseline shows that the machine was not at rest when that was measured, so it replaces it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from etui.config.config import Config
from etui.energy.idle_baseline import (
    IdleBaseline,
    compute_baseline,
    list_measured,
    load_baselines,
    save_baselines,
)
from etui.energy.recorder import Recorder

QUIET_SECONDS = 30.0
"""Wait before the power counts as idle: clocks and fans slow down gradually."""

MEASURED_SECONDS = 5.0
"""Length of the interval that is measured."""

MEASURABLE_SECONDS = QUIET_SECONDS + MEASURED_SECONDS + 1.0
"""A pause of this length is long enough for a baseline."""

KEPT_SECONDS = 300.0
"""Only this last part of a pause is used; a recorder keeps at least ten minutes."""


class IdleTracker:
    """Finds idle baselines in the pauses of a front end that answers one question at a time.

    Args:
        clock: Monotonic clock in nanoseconds, the same as the recorder's.
    """

    def __init__(
        self, recorder: Recorder, config: Config, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._recorder = recorder
        self._config = config
        self.clock = clock
        self._model: str | None = None
        self._since_ns: int | None = None

    @property
    def since_ns(self) -> int | None:
        """Start of the running pause on the monotonic clock; None outside of one."""
        return self._since_ns

    def begin(self, model: str | None) -> None:
        """Start a pause: an answer or a load has ended with this model in memory.

        Args:
            model: Name of the model; None without any, and without a process of the engine.
        """
        self._model = model
        self._since_ns = self.clock()

    def end(self) -> IdleBaseline | None:
        """End the pause before new work, and save the model's baseline if it was long enough.

        A model is measured once, and again when a pause draws less power than its baseline, or has
        other channels. The cold baseline is replaced as well if the machine draws less even with a
        model in memory. A pause in which something else ran is not used.

        Returns:
            The saved baseline; None if there was none to save.

        Raises:
            EtuiError: The baseline cannot be written.
        """
        since_ns, self._since_ns = self._since_ns, None
        if since_ns is None:
            return None
        model, now_ns = self._model, self.clock()
        start_ns = max(since_ns + _ns(QUIET_SECONDS), now_ns - _ns(KEPT_SECONDS))
        end_ns = start_ns + _ns(MEASURED_SECONDS)
        if end_ns > now_ns or not list_measured(self._recorder):
            return None
        idle = compute_baseline(self._recorder, start_ns, end_ns)
        if idle is None or not idle.steady:
            return None
        known = load_baselines(self._config)
        before = known.cold if model is None else known.loaded.get(model)
        if before is not None and not idle.replaces(before):
            return None
        known = known.with_idle(idle, model)
        if known.cold is not None and idle.is_below(known.cold):
            known = known.with_idle(idle, None)
        save_baselines(self._config, known)
        return idle


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)

"""Measure the idle power before an unload, and after the engine's process has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from etui.energy.cool_down import MEASURED_SECONDS, QUIET_SECONDS, choose_before_interval
from etui.energy.idle_baseline import load_baselines, measure_idle_watts
from etui.errors import EtuiError
from etui.turn.build_record import build_unload_record

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.recorder import Recorder
    from etui.events import Unloaded
    from etui.turn.residence_record import UnloadRecord

CallLater = Callable[[float, Callable[[], None]], object]
"""Calls a function once after some seconds, on any thread."""

SPARE_SECONDS = 0.5
"""Additional wait, so that the readings at the end of the interval have arrived."""


def start_timer(seconds: float, function: Callable[[], None]) -> None:
    """Call a function after some seconds on a thread that does not keep the process alive."""
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()


class Cooling:
    """Adds idle powers to the records of unloads; safe to use from several threads.

    Args:
        recorder: A recorder that runs all the time.
        save: Saves a record; one that was saved before is replaced.
        clock: Monotonic clock in nanoseconds, the same as the recorder's.
        call_later: Calls the measurement after the end of the process.

    Attributes:
        measured: How often the power after an unload was measured.
    """

    def __init__(
        self,
        recorder: Recorder,
        config: Config,
        save: Callable[[UnloadRecord], object],
        clock: Callable[[], int],
        call_later: CallLater = start_timer,
    ) -> None:
        self._recorder = recorder
        self._config = config
        self._save = save
        self._clock = clock
        self._call_later = call_later
        self._lock = threading.Lock()
        self._pending: tuple[UnloadRecord, int] | None = None
        self.measured = 0

    def record_unload(self, event: Unloaded, rested_ns: int | None) -> UnloadRecord:
        """Save the record of an unload, with the idle power before it.

        Args:
            event: The unload, whose readings are complete.
            rested_ns: End of the last answer or load, monotonic clock; None if unknown.
        """
        record = build_unload_record(event, self._recorder.energy)
        interval = choose_before_interval(rested_ns, event.start_ns)
        before = None if interval is None else measure_idle_watts(self._recorder, *interval)
        if before is not None:
            record = replace(
                record,
                idle_before_watts=before.value,
                idle_before_uncertainty=before.uncertainty,
            )
        self._save(record)
        return record

    def begin(self, record: UnloadRecord) -> None:
        """Wait for the power after an unload: the engine's process has just ended."""
        with self._lock:
            pending = self._pending = (record, self._clock())
        # The timer of an earlier wait, which new work has ended, must not end this one.
        self._call_later(
            QUIET_SECONDS + MEASURED_SECONDS + SPARE_SECONDS,
            lambda: self.end() if self._pending is pending else None,
        )

    def end(self) -> None:
        """Measure the power if enough time has passed since the process ended.

        Call it before new work as well: the wait ends there, with or without a measurement.
        """
        with self._lock:
            pending, self._pending = self._pending, None
        if pending is None:
            return
        record, ended_ns = pending
        start_ns = ended_ns + int(QUIET_SECONDS * 1e9)
        end_ns = start_ns + int(MEASURED_SECONDS * 1e9)
        if end_ns > self._clock():
            return
        self._recorder.settle(end_ns)
        after = measure_idle_watts(self._recorder, start_ns, end_ns)
        if after is None:
            return
        summed = {channel.id for channel in self._recorder.selection.summed}
        cold = load_baselines(self._config).cold
        known = cold.total if cold is not None and set(cold.watts) == summed else None
        record = replace(
            record,
            idle_after_watts=after.value,
            idle_after_uncertainty=after.uncertainty,
            idle_cold_watts=known.value if known is not None else None,
            idle_cold_uncertainty=known.uncertainty if known is not None else None,
        )
        with suppress(EtuiError):  # the first record is saved already
            self._save(record)
        self.measured += 1

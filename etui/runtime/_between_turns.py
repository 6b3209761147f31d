"""Look after the engine between turns: idle power, unloads, keep-warm times, the empty process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.energy.idle import (
    COOL_MEASURED_SECONDS,
    COOL_QUIET_SECONDS,
    choose_before_interval,
    load_baselines,
    measure_idle_watts,
)
from etui.errors import EtuiError, LogUnavailable
from etui.events import Loaded, Residence, Unloaded
from etui.turn.build_record import build_load_record, build_unload_record

if TYPE_CHECKING:
    from pathlib import Path

    from etui.backends.process import ProcessBackend
    from etui.config.config import Config
    from etui.energy.idle import IdleTracker
    from etui.energy.keep_warm import Measured
    from etui.energy.recorder import Recorder
    from etui.models.spec import ModelSpec
    from etui.routing.signals import HostState
    from etui.runtime.runtime import Runtime
    from etui.turn.record import TurnRecord, UnloadRecord

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

    ``save`` replaces a record that was saved before. ``measured`` counts how often the power after
    an unload was measured.
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
        """Save the record of an unload, with the idle power since the last answer or load."""
        record = build_unload_record(event, self._recorder.energy)
        interval = choose_before_interval(rested_ns, event.start_ns)
        before = None if interval is None else measure_idle_watts(self._recorder, *interval)
        record = replace(record, **_name("before", before))
        self._save(record)
        return record

    def begin(self, record: UnloadRecord) -> None:
        """Wait for the power after an unload: the engine's process has just ended."""
        with self._lock:
            pending = self._pending = (record, self._clock())
        # The timer of an earlier wait, which new work has ended, must not end this one.
        self._call_later(
            COOL_QUIET_SECONDS + COOL_MEASURED_SECONDS + SPARE_SECONDS,
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
        start_ns = ended_ns + int(COOL_QUIET_SECONDS * 1e9)
        end_ns = start_ns + int(COOL_MEASURED_SECONDS * 1e9)
        if end_ns > self._clock():
            return
        self._recorder.settle(end_ns)
        after = measure_idle_watts(self._recorder, start_ns, end_ns)
        if after is None:
            return
        summed = {channel.id for channel in self._recorder.selection.summed}
        cold = load_baselines(self._config).cold
        known = cold.total if cold is not None and set(cold.watts) == summed else None
        with suppress(EtuiError):  # the first record is saved already
            self._save(replace(record, **_name("after", after), **_name("cold", known)))
        self.measured += 1


def _name(when: str, watts: Measured | None) -> dict[str, Any]:
    """Return an idle power as the fields of an :class:`UnloadRecord`."""
    return {
        f"idle_{when}_watts": None if watts is None else watts.value,
        f"idle_{when}_uncertainty": None if watts is None else watts.uncertainty,
    }


HOST_SECONDS = 1.0
"""How long battery, memory and GPU temperature count as known: reading them takes a millisecond."""


class BetweenTurns:
    """Looks after the engine of a front end, whether its turns run one at a time or together.

    Attributes:
        busy: Held while turns, loads or unloads run. Idle unloads only measure what follows if
            they can take it.
        closed: Set when the front end closes: the process is then left to it.
        on_residence: Called with each load or unload that is outside of turns.
        resident: The model that was used last, if it is still in memory; None if unknown.
    """

    def __init__(
        self,
        runtime: Runtime[ProcessBackend],
        idle_tracker: IdleTracker,
        call_later: CallLater = start_timer,
    ) -> None:
        self._runtime = runtime
        self._config = runtime.config
        self._backend = runtime.backend
        self._recorder = runtime.recorder
        self._writer = runtime.writer
        self._idle_tracker = idle_tracker
        self._lock = threading.Lock()
        self._loaded: dict[str, None] = {}  # in the order of the loads, in the process `_pid`
        self._pid: int | None = None
        self._host: tuple[HostState, int] | None = None
        self._earlier: str | None = None  # in memory before the turns that run now
        self._ahead: str | None = None  # loaded ahead of a question that was not asked yet
        self.busy = threading.Lock()
        self.closed = False
        self.resident: str | None = None
        self.on_unloaded: Callable[[str], object] = lambda _model: None
        self.on_residence: Callable[[Residence], object] = lambda _event: None
        self.cooling = Cooling(
            self._recorder, self._config, self._writer.save_unload, idle_tracker.clock, call_later
        )
        self._backend.on_unloaded = self._handle_unload
        self._idle_tracker.begin(None)

    def residents(self) -> tuple[str, ...]:
        """Return the names of the models in memory, oldest load first."""
        pid = self._backend.pid
        with self._lock:
            return tuple(self._loaded) if pid is not None and pid == self._pid else ()

    def watch(self, event: object) -> None:
        """Follow the loads and unloads of a turn; other events change nothing."""
        pid = self._backend.pid
        with self._lock:
            if pid != self._pid:  # a new process starts with none
                self._loaded.clear()
                self._pid = pid
            match event:
                case Loaded(model=model):
                    self._loaded[model] = None
                case Unloaded(model=model):
                    self._loaded.pop(model, None)

    def end_idle(self) -> None:
        """End the idle measurements, and save their results if they were long enough."""
        self.cooling.end()
        with suppress(EtuiError):  # a baseline that cannot be saved must not prevent the answer
            self._idle_tracker.end()

    def begin_turns(self) -> None:
        """Note that a turn begins while none was running; the idle time has ended before."""
        self._earlier = self.resident
        self.resident = None  # until the turn has shown that the engine is alive
        self._ahead = None

    def note_record(self, record: TurnRecord) -> None:
        """Note which model a turn has used last; a remote one changes nothing in this memory."""
        if record.status == "error":
            return
        last = record.hops[-1].model if record.hops else record.model
        if not self._runtime.is_remote(last):
            self.resident = last

    def end_turns(self) -> None:
        """Note that the last running turn has ended: the idle time begins."""
        if self.resident is None and self._earlier in self.residents():
            self.resident = self._earlier  # no turn has used the engine
        if self.resident is not None:
            self._idle_tracker.begin(self.resident)
        elif not self.residents():  # its load failed after the others were unloaded
            if self._backend.pid is not None:  # without, only remote models have answered
                self._backend.close()
            self._idle_tracker.begin(None)

    def load(
        self, spec: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Loaded | None:
        """Load a model ahead of a question, and save the load; None if it is in memory already."""
        self.end_idle()
        loaded = None
        for event in self._backend.load(spec, path, draft):
            if isinstance(event, Unloaded):
                self.record_unload(event)
                continue
            loaded = event
            self.watch(event)
            self._settle(event)
            self._writer.save_load(build_load_record(event, spec.sha256, self._recorder.energy))
            self.on_residence(event)
            self._ahead = spec.name
        self.resident = spec.name
        self.update_keep_warm()
        self._runtime.use_idle_baseline(spec.name)
        self._idle_tracker.begin(spec.name)
        return loaded

    def unload(self, model: str) -> Unloaded | None:
        """Unload a model as the user asks, and save the unload; None if it was not in memory."""
        rested_ns = self._idle_tracker.since_ns
        if model == self.resident:
            self.end_idle()
            self.resident = None
        unloaded = None
        for event in self._backend.unload(model):
            if isinstance(event, Unloaded):
                unloaded = event
                record = self.record_unload(event, rested_ns)
                self._end_empty_process(record)
        return unloaded

    def empty(self) -> None:
        """Unload every model, and end the engine's process."""
        self.end_idle()
        self.resident = None
        for name in self.residents():
            for event in self._backend.unload(name):
                if isinstance(event, Unloaded):
                    self.record_unload(event)
        self._backend.close()

    def record_unload(self, event: Unloaded, rested_ns: int | None = None) -> UnloadRecord:
        """Save the energy of an unload, and that of idling since the work before it, if any."""
        self.watch(event)
        self.on_unloaded(event.model)
        self._settle(event)
        self.on_residence(event)
        return self.cooling.record_unload(event, rested_ns)

    def update_keep_warm(self) -> None:
        """Send the times that ``keep_warm: auto`` chooses now to the engine.

        The gaps between questions say when to unload after an answer. The wait for the first
        question after a load ahead is none of them, so that model is kept for at least T*, and for
        as long as measuring its idle power takes: with a short time the power would never be
        measured again.
        """
        if self._config.keep_warm != "auto":
            return
        from etui.energy.idle import MEASURABLE_SECONDS
        from etui.log.queries import LogReader
        from etui.runtime.keep_warm import read_model_idle

        with suppress(LogUnavailable), LogReader(self._config) as log:
            for name in self.residents():
                spec = self._runtime.catalogue.models.get(name)
                idle = read_model_idle(log, self._config, name, spec)
                keep, even = idle.keep_seconds, idle.choice.break_even
                if keep is not None and even is not None and name == self._ahead:
                    keep = max(keep, even.seconds, MEASURABLE_SECONDS)
                self._backend.keep_warm(name, keep)

    def read_host(self) -> HostState:
        """Read the state of the machine, with the model in memory and the power now."""
        from etui.runtime.host import read_host, read_hour

        now_ns = self._idle_tracker.clock()
        host, at_ns = self._host or (None, 0)
        if host is None or now_ns - at_ns >= HOST_SECONDS * 1e9:
            host = read_host(self._config)
            self._host = host, now_ns
        resident, residents = self.resident, self.residents()
        if resident is None and residents:  # turns run, and none of them has ended yet
            resident = self._earlier if self._earlier in residents else residents[-1]
        return replace(host, hour=read_hour(), resident=resident, watts=self.read_watts())

    def read_watts(self) -> float | None:
        """Return the power of the machine now; None if a channel of the total is unknown."""
        known = [power.watts for power in self._recorder.latest() if power.in_total]
        return None if None in known or not known else sum(w for w in known if w is not None)

    def _handle_unload(self, event: Unloaded) -> None:
        """Record an unload by the engine itself, and end its process after the last model."""
        record = self.record_unload(event, self._idle_tracker.since_ns)
        if not self.busy.acquire(blocking=False):
            return  # a turn has started, which has ended the idle measurement
        try:
            if event.model == self.resident:
                self.end_idle()
                self.resident = None
            self._end_empty_process(record)
        finally:
            self.busy.release()

    def _end_empty_process(self, unloaded: UnloadRecord) -> None:
        """End the engine's process after its last model, and measure the power after it.

        The process alone would keep a context on the GPU, and the GPU warm.
        """
        if self.closed or self.residents() or self.resident is not None:
            return
        self._backend.close()
        self.cooling.begin(unloaded)
        self._idle_tracker.begin(None)

    def _settle(self, event: Loaded | Unloaded) -> None:
        self._recorder.mark(event.start_ns)
        self._recorder.mark(event.end_ns, "idle")
        self._recorder.settle(event.end_ns)

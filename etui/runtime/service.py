"""Run turns one at a time in the engine's child process, and keep models warm between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from etui.chat import Query
from etui.errors import EtuiError, LogUnavailable, ModelUnavailable
from etui.events import Loaded, Unloaded
from etui.runtime.cooling import CallLater, Cooling, start_timer
from etui.runtime.route import Route
from etui.turn.build_record import build_load_record
from etui.turn.events import TurnEvent, TurnFinished
from etui.turn.intervals import find_marks
from etui.turn.record import REPLACES, TurnRecord, UnloadRecord

if TYPE_CHECKING:
    from pathlib import Path

    from etui.arm import Arm
    from etui.backends.process import ProcessBackend
    from etui.energy.idle_tracker import IdleTracker
    from etui.models.spec import ModelSpec
    from etui.routing.signals.host_state import HostState
    from etui.runtime.open import Runtime
    from etui.runtime.overrides import Overrides
    from etui.runtime.rerun import Direction


LEAVE_SECONDS = 10.0
"""How long closing waits until a running turn is in the log."""


class TurnService:
    """Runs turns one at a time; see :class:`etui.tui.services.TurnRunner`.

    Args:
        runtime: This machine, with llama.cpp in a child process; closed with the service.
        idle_tracker: Measures the idle baseline of a loaded model between turns, and of the machine
            without any.
        call_later: Calls a function after some seconds, to measure the power after an unload.

    Attributes:
        confirm: Asks the user whether to exceed a budget; None if there is no one to ask.
        on_loaded: Called after :meth:`load` has loaded a model.
        on_unloaded: Called with the name of each model that was unloaded.
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
        self._idle = threading.Lock()
        self._cancelled = threading.Event()
        self._answering = False
        self._closed = False
        self._closing = threading.Lock()
        self._resident: str | None = None
        self._ahead: str | None = None  # loaded ahead of a question that was not asked yet
        self._residents = Residents()
        self._refusal = ""
        self._idle_tracker = idle_tracker
        self.confirm: Callable[[str], bool] | None = None
        self.on_loaded: Callable[[Loaded], object] = lambda _loaded: None
        self.on_unloaded: Callable[[str], object] = lambda _model: None
        self._backend.on_unloaded = self._handle_unload
        self._cooling = Cooling(
            self._recorder, self._config, self._writer.save_unload, idle_tracker.clock, call_later
        )
        self._idle_tracker.begin(None)

    def run(self, query: Query, route: Route, replaces: str | None = None) -> Iterator[TurnEvent]:
        """Decide, answer and save, once the turn before has ended; yield the turn's events.

        Args:
            query: The question with its chat.
            route: How its arm is chosen.
            replaces: Id of the turn that this one replaces.
        """
        from etui.runtime.choose import choose
        from etui.runtime.serving import refit_curve

        self._raise_if_refused()
        with self._idle:
            self._end_idle()
            self._cancelled.clear()
            self._runtime.reload_catalogue()
            choice = choose(
                query,
                _build_overrides(route),
                self._runtime,
                self._read_host,
                confirm=self.confirm,
            )
            turn = self._runtime.run_turn(
                query,
                choice,
                settings={REPLACES: replaces} if replaces else None,
                cancelled=self._cancelled.is_set,
            )
            self._resident = None  # until the turn has shown that the engine is alive
            self._ahead = None
            self._answering = True
            try:
                with closing(turn) as events:
                    for event in events:
                        if self._cancelled.is_set():
                            self._backend.cancel()  # again: the first one may have been too early
                        self._residents.update(event, self._backend.pid)
                        yield event
                        if isinstance(event, TurnFinished):
                            refit_curve(event.record, self._config, self._writer.save_curve)
                        if isinstance(event, TurnFinished) and event.record.status != "error":
                            hops = event.record.hops
                            self._resident = hops[-1].model if hops else event.record.model
            finally:
                self._answering = False
                if self._resident is not None:
                    self._idle_tracker.begin(self._resident)
                elif not self.residents():  # its load failed after the others were unloaded
                    self._backend.close()
                    self._idle_tracker.begin(None)
            self._writer.flush()
            self._update_keep_warm()

    def warm_up(self, route: Route) -> Loaded | None:
        """Load the model that the route would most likely use, after checking its file."""
        from etui.runtime.serving import find_draft_file, find_model_file

        self._raise_if_refused()
        with self._idle:
            arm, catalogue = self._likely_arm(route), self._runtime.catalogue
            spec, path = find_model_file(arm, self._config, catalogue)
            return self._load(spec, path, find_draft_file(arm, spec, self._config, catalogue))

    def load(self, model: str) -> Loaded | None:
        """Load a model after checking its file; return None if it is in memory already.

        Raises:
            EtuiError: An answer or a load is running.
            ModelUnavailable: The file is missing, damaged, or has another sha256.
        """
        from etui.arm import Arm
        from etui.runtime.serving import find_model_file

        with self._exclusive():
            self._runtime.reload_catalogue()
            arm = Arm("direct", model)
            loaded = self._load(*find_model_file(arm, self._config, self._runtime.catalogue))
            if loaded is not None:
                self.on_loaded(loaded)
            return loaded

    def unload(self, model: str) -> Unloaded | None:
        """Unload a model; return None if it was not in memory.

        Raises:
            EtuiError: An answer or a load is running.
        """
        with self._exclusive():
            rested_ns = self._idle_tracker.since_ns
            if model == self._resident:
                self._end_idle()
                self._resident = None
            unloaded = None
            for event in self._backend.unload(model):
                if isinstance(event, Unloaded):
                    unloaded = event
                    record = self._record_unload(event, rested_ns)
                    self._end_empty_process(record)
            return unloaded

    def residents(self) -> tuple[str, ...]:
        """Return the names of the models in memory."""
        return self._residents.names(self._backend.pid)

    def cool_downs(self) -> int:
        """Return how often the power after the last unload was measured."""
        return self._cooling.measured

    @contextmanager
    def at_rest(self, why: str) -> Iterator[Callable[[], bool]]:
        """Unload every model, end the engine process, and refuse questions meanwhile.

        Args:
            why: The error message for questions that are refused.

        Yields:
            A function that returns whether the service was closed.

        Raises:
            EtuiError: An answer or a load is running.
        """
        with self._exclusive():
            self._refusal = why
            try:
                self._end_idle()
                self._resident = None
                for name in self.residents():
                    for event in self._backend.unload(name):
                        if isinstance(event, Unloaded):
                            self._record_unload(event)
                self._backend.close()
                yield lambda: self._closed
            finally:
                self._refusal = ""

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Run the body while nothing else runs.

        Raises:
            EtuiError: An answer or a load is running.
        """
        self._raise_if_refused()
        if not self._idle.acquire(blocking=False):
            raise EtuiError(
                "an answer or a model load is running",
                "wait until it ends, or stop it with Esc in the chat",
            )
        try:
            yield
        finally:
            self._idle.release()

    def _raise_if_refused(self) -> None:
        if self._refusal:
            raise EtuiError(self._refusal, "wait until it ends, or stop it with Esc on its screen")

    def _load(
        self, spec: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Loaded | None:
        self._end_idle()
        loaded = None
        for event in self._backend.load(spec, path, draft):
            if isinstance(event, Unloaded):
                self._record_unload(event)
            else:
                loaded = event
                self._residents.update(event, self._backend.pid)
                self._settle(event)
                self._writer.save_load(build_load_record(event, spec.sha256, self._recorder.energy))
        self._resident = spec.name
        if loaded is not None:
            self._ahead = spec.name
        self._update_keep_warm()
        self._runtime.use_idle_baseline(spec.name)
        self._idle_tracker.begin(spec.name)
        return loaded

    def _record_unload(self, event: Unloaded, rested_ns: int | None = None) -> UnloadRecord:
        """Save the energy of an unload, and notify the listener.

        Args:
            event: The unload.
            rested_ns: End of the work before it; None if it was not idle before.
        """
        self._residents.update(event, self._backend.pid)
        self.on_unloaded(event.model)
        self._settle(event)
        return self._cooling.record_unload(event, rested_ns)

    def _end_empty_process(self, unloaded: UnloadRecord) -> None:
        """End the engine's process after its last model, and measure the power after it.

        The process alone would keep a context on the GPU, and the GPU warm.
        """
        if self._closed or self.residents() or self._resident is not None:
            return
        self._backend.close()
        self._cooling.begin(unloaded)
        self._idle_tracker.begin(None)

    def _update_keep_warm(self) -> None:
        """Send the times that ``keep_warm: auto`` chooses now to the engine.

        The gaps between questions say when to unload after an answer. The wait for the first
        question after a load ahead is none of them, so that model is kept for at least T*, and for
        as long as measuring its idle power takes: with a short time the power would never be
        measured again.
        """
        if self._config.keep_warm != "auto":
            return
        from etui.energy.idle_tracker import MEASURABLE_SECONDS
        from etui.log.queries import LogReader
        from etui.runtime.keep_warm import read_model_idle

        with suppress(LogUnavailable), LogReader(self._config) as log:
            for name in self.residents():
                sha256 = self._find_sha256(name)
                idle = read_model_idle(log, self._config, name, sha256)
                keep, even = idle.keep_seconds, idle.choice.break_even
                if keep is not None and even is not None and name == self._ahead:
                    keep = max(keep, even.seconds, MEASURABLE_SECONDS)
                self._backend.keep_warm(name, keep)

    def _find_sha256(self, name: str) -> str | None:
        from etui.models.files import recorded_sha256

        if name not in self._runtime.catalogue:
            return None
        spec = self._runtime.catalogue.get(name)
        return spec.sha256 or recorded_sha256(spec, self._config)

    def _settle(self, event: Loaded | Unloaded) -> None:
        for mark_ns in find_marks(event):
            self._recorder.mark(mark_ns)
        self._recorder.settle(event.end_ns)

    def likely_model(self, route: Route) -> str | None:
        """Return the model that a plain question would use; None if no model can answer."""
        try:
            return self._likely_arm(route).model
        except ModelUnavailable:
            return None

    def other_route(self, record: TurnRecord, route: Route, direction: Direction) -> Route | None:
        """Return the route to the next smaller or larger arm than the one that answered."""
        from etui.models.catalogue import load_catalogue
        from etui.runtime.rerun import other_route

        return other_route(record, route, direction, self._config, load_catalogue(self._config))

    def cancel(self) -> None:
        """End the running answer within one batch."""
        self._cancelled.set()
        self._backend.cancel()

    def close(self) -> None:
        """Stop the running turn, wait until it is in the log, and close everything.

        Raises:
            LogUnavailable: Something could not be written; the message says where it was saved.
        """
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close()

    def _close(self) -> None:
        locked = False
        if not self._answering:
            self._end_idle()
        else:
            self.cancel()
            locked = self._idle.acquire(timeout=LEAVE_SECONDS)
        self._backend.close()  # a load or a turn that did not stop ends with its process
        locked = locked or self._idle.acquire(timeout=LEAVE_SECONDS)
        try:
            self._runtime.close()
        finally:
            if locked:
                self._idle.release()

    def _handle_unload(self, event: Unloaded) -> None:
        """Record an unload by the engine itself, and end its process after the last model."""
        record = self._record_unload(event, self._idle_tracker.since_ns)
        if not self._idle.acquire(blocking=False):
            return  # a turn has started, which has ended the idle measurement
        try:
            if event.model == self._resident:
                self._end_idle()
                self._resident = None
            self._end_empty_process(record)
        finally:
            self._idle.release()

    def _end_idle(self) -> None:
        """End the idle measurements, and save their results if they were long enough."""
        self._cooling.end()
        with suppress(EtuiError):  # a baseline that cannot be saved must not prevent the answer
            self._idle_tracker.end()

    def _likely_arm(self, route: Route) -> Arm:
        from etui.runtime.choose import choose

        self._runtime.reload_catalogue()
        choice = choose(
            Query("Hello"),
            _build_overrides(route),
            self._runtime,
            self._read_host,
            within_budgets=False,
        )
        return choice.decision.arm

    def _read_host(self) -> HostState:
        from etui.runtime.host import read_host

        known = [power.watts for power in self._recorder.latest() if power.in_total]
        watts = None if None in known or not known else sum(w for w in known if w is not None)
        return read_host(self._config, resident=self._resident, watts=watts)


def _build_overrides(route: Route) -> Overrides:
    from etui.runtime.overrides import Overrides

    return (
        Overrides(model=route.model)
        if route.model
        else Overrides(policy=route.policy, arm=route.arm)
    )


class Residents:
    """Names of the loaded models in the order of their loads; a new process starts with none."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._pid: int | None = None

    def update(self, event: object, pid: int | None) -> None:
        """Apply a load or an unload in process ``pid``; other events change nothing."""
        if pid != self._pid:
            self._names.clear()
            self._pid = pid
        match event:
            case Loaded(model=model):
                self._names[model] = None
            case Unloaded(model=model):
                self._names.pop(model, None)

    def names(self, pid: int | None) -> tuple[str, ...]:
        """Return the models in memory of process ``pid``; none without a process."""
        return tuple(self._names) if pid is not None and pid == self._pid else ()

"""Run turns one at a time on the engine's child process, and keep models warm between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from etui.chat import Query
from etui.errors import EtuiError, ModelUnavailable
from etui.events import Loaded, Unloaded
from etui.runtime.route import Route
from etui.turn.build_record import load_record, unload_record
from etui.turn.events import TurnEvent, TurnFinished
from etui.turn.record import REPLACES, TurnRecord

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
"""How long closing waits for a running turn to reach the log."""


class TurnService:
    """Run turns one at a time; see :class:`etui.tui.services.TurnRunner`.

    Args:
        runtime: This machine, with llama.cpp in a child process; closed with the service.
        idle_tracker: Measures the idle baseline of a loaded model between turns.
    """

    def __init__(self, runtime: Runtime[ProcessBackend], idle_tracker: IdleTracker) -> None:
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
        self._held = Residents()
        self._held_off = ""
        self._idle_tracker = idle_tracker
        self.confirm: Callable[[str], bool] | None = None  # asks whether to go on over a budget
        self.on_loaded: Callable[[Loaded], object] = lambda _loaded: None
        self.on_unloaded: Callable[[str], object] = lambda _model: None
        self._backend.on_unloaded = self._unloaded

    def run(self, query: Query, route: Route, replaces: str | None = None) -> Iterator[TurnEvent]:
        """Decide, answer and save; wait until the turn before it has ended."""
        from etui.runtime.choose import choose
        from etui.runtime.serving import refit_curve

        self._refuse_if_held_off()
        with self._idle:
            self._end_idle()
            self._cancelled.clear()
            self._runtime.reload_catalogue()
            choice = choose(
                query,
                _overrides_of(route),
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
            self._resident = None  # until the turn has shown that the engine lives
            self._answering = True
            try:
                with closing(turn) as events:
                    for event in events:
                        if self._cancelled.is_set():
                            self._backend.cancel()  # again: the first may have come too early
                        self._held.update(event, self._backend.pid)
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
            self._writer.flush()

    def warm_up(self, route: Route) -> Loaded | None:
        """Load the model that the route would likely use, checked as before an answer."""
        from etui.runtime.serving import find_model_file

        self._refuse_if_held_off()
        with self._idle:
            arm = self._likely_arm(route)
            return self._load(*find_model_file(arm, self._config, self._runtime.catalogue))

    def load(self, model: str) -> Loaded | None:
        """Load one model, checked as before an answer."""
        from etui.arm import Arm
        from etui.runtime.serving import find_model_file

        with self._alone():
            self._runtime.reload_catalogue()
            arm = Arm("direct", model)
            loaded = self._load(*find_model_file(arm, self._config, self._runtime.catalogue))
            if loaded is not None:
                self.on_loaded(loaded)
            return loaded

    def unload(self, model: str) -> Unloaded | None:
        """Give one model up."""
        with self._alone():
            if model == self._resident:
                self._end_idle()
                self._resident = None
            gone = None
            for event in self._backend.unload(model):
                if isinstance(event, Unloaded):
                    gone = event
                    self._record_unload(event)
            return gone

    def residents(self) -> tuple[str, ...]:
        """Names of the models in memory."""
        return self._held.names(self._backend.pid)

    @contextmanager
    def at_rest(self, why: str) -> Iterator[Callable[[], bool]]:
        """Give every model up, end the engine's process, and refuse questions meanwhile."""
        with self._alone():
            self._held_off = why
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
                self._held_off = ""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing else runs; refused while something does."""
        self._refuse_if_held_off()
        if not self._idle.acquire(blocking=False):
            raise EtuiError(
                "an answer or a load is on its way",
                "wait for its end, or stop it with Esc in the chat",
            )
        try:
            yield
        finally:
            self._idle.release()

    def _refuse_if_held_off(self) -> None:
        if self._held_off:
            raise EtuiError(self._held_off, "wait for its end, or stop it with Esc where it runs")

    def _load(self, spec: ModelSpec, path: Path) -> Loaded | None:
        self._end_idle()
        loaded = None
        for event in self._backend.load(spec, path):
            if isinstance(event, Unloaded):
                self._record_unload(event)
            else:
                loaded = event
                self._held.update(event, self._backend.pid)
                self._recorder.settle(event.end_ns)
                self._writer.save_load(load_record(event, spec.sha256, self._recorder.energy))
        self._resident = spec.name
        self._runtime.use_idle_baseline(spec.name)
        self._idle_tracker.begin(spec.name)
        return loaded

    def _record_unload(self, event: Unloaded) -> None:
        """A model is gone: keep what that cost, and tell whoever shows the models."""
        self._held.update(event, self._backend.pid)
        self.on_unloaded(event.model)
        self._recorder.settle(event.end_ns)
        self._writer.save_unload(unload_record(event, self._recorder.energy))

    def likely_model(self, route: Route) -> str | None:
        """Return the model that a plain question would use; None where none can serve."""
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
        """Stop the running turn, wait until it is in the log, and release everything.

        Raises:
            LogUnavailable: Something could not be written; says where it went.
        """
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close()

    def _close(self) -> None:
        held = False
        if not self._answering:
            self._end_idle()
        else:
            self.cancel()
            held = self._idle.acquire(timeout=LEAVE_SECONDS)
        self._backend.close()  # a load or a turn that did not stop ends with its process
        held = held or self._idle.acquire(timeout=LEAVE_SECONDS)
        try:
            self._runtime.close()
        finally:
            if held:
                self._idle.release()

    def _unloaded(self, event: Unloaded) -> None:
        """The engine no longer keeps a model warm: what it draws from now on is not the model's."""
        self._record_unload(event)
        if not self._idle.acquire(blocking=False):
            return  # a turn has begun, and with it the rest has ended
        try:
            if event.model == self._resident:
                self._end_idle()
                self._resident = None
        finally:
            self._idle.release()

    def _end_idle(self) -> None:
        """Keep the model's idle baseline if it has rested for long enough."""
        with suppress(EtuiError):  # a baseline that cannot be kept must not cost the answer
            self._idle_tracker.end()

    def _likely_arm(self, route: Route) -> Arm:
        from etui.runtime.choose import choose

        self._runtime.reload_catalogue()
        choice = choose(
            Query("Hello"),
            _overrides_of(route),
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


def _overrides_of(route: Route) -> Overrides:
    from etui.runtime.overrides import Overrides

    return (
        Overrides(model=route.model)
        if route.model
        else Overrides(policy=route.policy, arm=route.arm)
    )


class Residents:
    """Names in the order of their loads; another process begins with none."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._pid: int | None = None

    def update(self, event: object, pid: int | None) -> None:
        """Take note of what a load or an unload in process ``pid`` changes."""
        if pid != self._pid:
            self._names.clear()
            self._pid = pid
        match event:
            case Loaded(model=model):
                self._names[model] = None
            case Unloaded(model=model):
                self._names.pop(model, None)

    def names(self, pid: int | None) -> tuple[str, ...]:
        """The models that process ``pid`` holds; none without a process."""
        return tuple(self._names) if pid is not None and pid == self._pid else ()

"""Run turns one at a time on the engine's child process, and keep models warm between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from etui.chat import Query
from etui.config.config import Config
from etui.errors import EtuiError, ModelUnavailable
from etui.events import Loaded, Unloaded
from etui.runtime.route import Route
from etui.turn.build_record import load_record, unload_record
from etui.turn.events import TurnEvent, TurnFinished
from etui.turn.record import REPLACES, TurnRecord
from etui.turn.run import run_turn

if TYPE_CHECKING:
    from pathlib import Path

    from etui.backends.process import ProcessBackend
    from etui.energy.idle_tracker import IdleTracker
    from etui.energy.recorder import Recorder
    from etui.log.writer import TurnWriter
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec
    from etui.routing.decision import Decision
    from etui.routing.signals.host_state import HostState
    from etui.runtime.overrides import Overrides
    from etui.runtime.rerun import Direction


LEAVE_SECONDS = 10.0
"""How long closing waits for a running turn to reach the log."""


class TurnService:
    """Runs the turns of the app, one at a time; see :class:`etui.tui.services.TurnRunner`."""

    def __init__(
        self,
        config: Config,
        child: ProcessBackend,
        recorder: Recorder,
        writer: TurnWriter,
        rest: IdleTracker,
    ) -> None:
        self._config = config
        self._child = child
        self._recorder = recorder
        self._writer = writer
        self._idle = threading.Lock()
        self._cancelled = threading.Event()
        self._answering = False
        self._closed = False
        self._closing = threading.Lock()
        self._resident: str | None = None
        self._held = Residents()
        self._held_off = ""
        self._rest = rest
        self.confirm: Callable[[str], bool] | None = None  # asks whether to go on over a budget
        self.on_loaded: Callable[[Loaded], object] = lambda _loaded: None
        self.on_unloaded: Callable[[str], object] = lambda _model: None
        child.on_unloaded = self._unloaded

    def run(self, query: Query, route: Route, replaces: str | None = None) -> Iterator[TurnEvent]:
        """Decide, answer, save; blocks until the turn before it has ended."""
        from etui.models.catalogue import load_catalogue
        from etui.runtime.choose import choice_of
        from etui.runtime.provenance import provenance
        from etui.runtime.serving import refit_curve, serve_here

        self._refuse_if_held_off()
        with self._idle:
            self._end_rest()
            self._cancelled.clear()
            catalogue = load_catalogue(self._config)
            choice = choice_of(
                query, _wish(route), self._config, catalogue, self._host, confirm=self.confirm
            )
            settings = provenance(self._config)
            turn = run_turn(
                query,
                choice.decision,
                serve=serve_here(self._config, catalogue, self._baseline),
                answerer=self._child,
                meter=self._recorder,
                writer=self._writer,
                settings=settings | ({REPLACES: replaces} if replaces else {}),
                outlook=choice.outlook,
                cancelled=self._cancelled.is_set,
            )
            self._resident = None  # until the turn has shown that the engine lives
            self._answering = True
            try:
                with closing(turn) as events:
                    for event in events:
                        if self._cancelled.is_set():
                            self._child.cancel()  # again: the first may have come too early
                        self._held.saw(event, self._child.pid)
                        yield event
                        if isinstance(event, TurnFinished):
                            refit_curve(event.record, self._config, self._writer.save_curve)
                        if isinstance(event, TurnFinished) and event.record.status != "error":
                            hops = event.record.hops
                            self._resident = hops[-1].model if hops else event.record.model
            finally:
                self._answering = False
                if self._resident is not None:
                    self._rest.begin(self._resident)
            self._writer.flush()

    def warm_up(self, route: Route) -> Loaded | None:
        """Load the likely model, checked as before an answer."""
        from etui.models.catalogue import load_catalogue
        from etui.runtime.serving import find_model_file

        self._refuse_if_held_off()
        with self._idle:
            catalogue = load_catalogue(self._config)
            spec, path = find_model_file(
                self._likely(route, catalogue).arm, self._config, catalogue
            )
            return self._bring_in(spec, path)

    def load(self, model: str) -> Loaded | None:
        """Bring one model into memory, checked as before an answer."""
        from etui.arm import Arm
        from etui.models.catalogue import load_catalogue
        from etui.runtime.serving import find_model_file

        with self._alone():
            catalogue = load_catalogue(self._config)
            loaded = self._bring_in(*find_model_file(Arm("direct", model), self._config, catalogue))
            if loaded is not None:
                self.on_loaded(loaded)
            return loaded

    def unload(self, model: str) -> Unloaded | None:
        """Give one model up."""
        with self._alone():
            if model == self._resident:
                self._end_rest()
                self._resident = None
            gone = None
            for event in self._child.unload(model):
                if isinstance(event, Unloaded):
                    gone = event
                    self._gave_up(event)
            return gone

    def residents(self) -> tuple[str, ...]:
        """Names of the models in memory."""
        return self._held.names(self._child.pid)

    @contextmanager
    def at_rest(self, why: str) -> Iterator[Callable[[], bool]]:
        """Give every model up, end the engine's process, and refuse questions meanwhile."""
        with self._alone():
            self._held_off = why
            try:
                self._end_rest()
                self._resident = None
                for name in self.residents():
                    for event in self._child.unload(name):
                        if isinstance(event, Unloaded):
                            self._gave_up(event)
                self._child.close()
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

    def _bring_in(self, spec: ModelSpec, path: Path) -> Loaded | None:
        self._end_rest()
        loaded = None
        for event in self._child.load(spec, path):
            if isinstance(event, Unloaded):
                self._gave_up(event)
            else:
                loaded = event
                self._held.saw(event, self._child.pid)
                self._recorder.settle(event.end_ns)
                self._writer.save_load(load_record(event, spec.sha256, self._recorder.energy))
        self._resident = spec.name
        self._baseline(spec.name)
        self._rest.begin(spec.name)
        return loaded

    def _gave_up(self, event: Unloaded) -> None:
        """A model is gone: keep what that cost, and tell whoever shows the models."""
        self._held.saw(event, self._child.pid)
        self.on_unloaded(event.model)
        self._recorder.settle(event.end_ns)
        self._writer.save_unload(unload_record(event, self._recorder.energy))

    def likely_model(self, route: Route) -> str | None:
        """The model of a plain question."""
        from etui.models.catalogue import load_catalogue

        try:
            return self._likely(route, load_catalogue(self._config)).arm.model
        except ModelUnavailable:
            return None

    def other_route(self, record: TurnRecord, route: Route, direction: Direction) -> Route | None:
        """The next smaller or larger arm than the one that answered."""
        from etui.models.catalogue import load_catalogue
        from etui.runtime.rerun import other_route

        return other_route(record, route, direction, self._config, load_catalogue(self._config))

    def cancel(self) -> None:
        """End the running answer within one batch."""
        self._cancelled.set()
        self._child.cancel()

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
            self._end_rest()
        else:
            self.cancel()
            held = self._idle.acquire(timeout=LEAVE_SECONDS)
        self._child.close()  # a load or an engine that did not stop ends here, and its turn with it
        held = held or self._idle.acquire(timeout=LEAVE_SECONDS)
        try:
            self._writer.close()
        finally:
            self._recorder.close()
            if held:
                self._idle.release()

    def _unloaded(self, event: Unloaded) -> None:
        """The engine no longer keeps a model warm: what it draws from now on is not the model's."""
        self._gave_up(event)
        if not self._idle.acquire(blocking=False):
            return  # a turn has begun, and with it the rest has ended
        try:
            if event.model == self._resident:
                self._end_rest()
                self._resident = None
        finally:
            self._idle.release()

    def _end_rest(self) -> None:
        """Keep the model's idle baseline if it has rested for long enough."""
        with suppress(EtuiError):  # a baseline that cannot be kept must not cost the answer
            self._rest.end()

    def _baseline(self, model: str) -> str | None:
        """Which idle baseline the net joules of an answer go by, from now on."""
        from etui.energy.idle_baseline import load_baselines, use

        return use(self._recorder, load_baselines(self._config), model)

    def _likely(self, route: Route, catalogue: Catalogue) -> Decision:
        return self._decide(Query("Hello"), route, catalogue)

    def _decide(self, query: Query, route: Route, catalogue: Catalogue) -> Decision:
        from etui.runtime.choose import choose

        return choose(query, _wish(route), self._config, catalogue, self._host)

    def _host(self) -> HostState:
        from etui.runtime.host import read_host

        known = [power.watts for power in self._recorder.latest() if power.in_total]
        watts = None if None in known or not known else sum(w for w in known if w is not None)
        return read_host(self._config, resident=self._resident, watts=watts)


def _wish(route: Route) -> Overrides:
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

    def saw(self, event: object, pid: int | None) -> None:
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

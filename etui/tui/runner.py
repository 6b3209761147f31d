"""The real backend of the app: engine in a child process, recorder, log, models, policies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from etui.config import Config
from etui.engine.events import Loaded, Unloaded
from etui.errors import EtuiError, LogUnavailable, ModelUnavailable
from etui.log.records import TurnRecord
from etui.query import Query
from etui.residence import load_record, unload_record
from etui.tui.backend import REPLACES, Backend, Route
from etui.tui.residents import Residents
from etui.turn import TurnEvent, TurnFinished, run_turn

if TYPE_CHECKING:
    from pathlib import Path

    from etui.choice import Wish
    from etui.energy.recorder import Recorder
    from etui.energy.rest import Rest
    from etui.engine.child import ChildProcess
    from etui.log.writer import TurnWriter
    from etui.model_spec import ModelSpec
    from etui.models import Catalogue
    from etui.routing.decision import Decision
    from etui.routing.host import HostState
    from etui.tui.ladder import Direction

LEAVE_SECONDS = 10.0
"""How long closing waits for a running turn to reach the log."""


class ChatRunner:
    """Runs the turns of the app, one at a time; see :class:`etui.tui.backend.TurnRunner`."""

    def __init__(
        self,
        config: Config,
        child: ChildProcess,
        recorder: Recorder,
        writer: TurnWriter,
        rest: Rest,
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
        from etui.choice import choice_of
        from etui.models import load_catalogue
        from etui.provenance import provenance
        from etui.refit import refit_curve
        from etui.serve import serve_here

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
        from etui.choice import serving
        from etui.models import load_catalogue

        self._refuse_if_held_off()
        with self._idle:
            catalogue = load_catalogue(self._config)
            spec, path = serving(self._likely(route, catalogue).arm, self._config, catalogue)
            return self._bring_in(spec, path)

    def load(self, model: str) -> Loaded | None:
        """Bring one model into memory, checked as before an answer."""
        from etui.arm import Arm
        from etui.choice import serving
        from etui.models import load_catalogue

        with self._alone():
            catalogue = load_catalogue(self._config)
            loaded = self._bring_in(*serving(Arm("direct", model), self._config, catalogue))
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
        from etui.models import load_catalogue

        try:
            return self._likely(route, load_catalogue(self._config)).arm.model
        except ModelUnavailable:
            return None

    def other_route(self, record: TurnRecord, route: Route, direction: Direction) -> Route | None:
        """The next smaller or larger arm than the one that answered."""
        from etui.models import load_catalogue
        from etui.tui.arms_on_offer import other_route

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
        from etui.energy.baseline import load_baselines, use

        return use(self._recorder, load_baselines(self._config), model)

    def _likely(self, route: Route, catalogue: Catalogue) -> Decision:
        return self._decide(Query("Hello"), route, catalogue)

    def _decide(self, query: Query, route: Route, catalogue: Catalogue) -> Decision:
        from etui.choice import choose

        return choose(query, _wish(route), self._config, catalogue, self._host)

    def _host(self) -> HostState:
        from etui.host import read_host

        known = [power.watts for power in self._recorder.latest() if power.in_total]
        watts = None if None in known or not known else sum(w for w in known if w is not None)
        return read_host(self._config, resident=self._resident, watts=watts)


def _wish(route: Route) -> Wish:
    from etui.choice import Wish

    return Wish(model=route.model) if route.model else Wish(policy=route.policy, arm=route.arm)


def open_backend(config: Config) -> Backend:
    """Open everything behind the screen; the engine's process starts with its first model.

    Raises:
        LogUnavailable: The log cannot be written.
        InvalidFile: models.yaml or a setting cannot be used.
    """
    from etui.energy.open import open_recorder
    from etui.energy.rest import Rest
    from etui.engine.child import ChildProcess
    from etui.engine.library import default_threads, usable_cpus
    from etui.log.queries import LogReader
    from etui.log.writer import TurnWriter
    from etui.routing.policies import list_policies
    from etui.tui.chat_log import LoggedChats
    from etui.tui.live_meter import LiveMeter
    from etui.tui.model_shelf import ModelShelf

    writer = TurnWriter(config)
    try:
        shelf = ModelShelf(config)
        shelf.models()
        writer.ready()
        recorder = open_recorder(config)
        recorder.start()
    except BaseException:
        with suppress(LogUnavailable):
            writer.close()
        raise
    policies = tuple(place.name for place in list_policies(config))
    rest = Rest(recorder, config)
    runner = ChatRunner(config, ChildProcess(config), recorder, writer, rest)
    chats = LoggedChats(config, LogReader(config), writer)
    threads = config.threads or default_threads()
    meter = LiveMeter(recorder)
    return Backend(runner, meter, shelf, chats, policies, threads, usable_cpus())

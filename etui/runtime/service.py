"""Run turns one at a time in the engine's child process, and keep models warm between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from etui.chat import Query
from etui.engine.token_counter import TokenCounter
from etui.errors import EtuiError, ModelUnavailable
from etui.runtime.auditor import Auditor
from etui.runtime.between_turns import BetweenTurns, CallLater, start_timer
from etui.runtime.routes import Route
from etui.turn.events import TurnEvent, TurnFinished
from etui.turn.record import REPLACES, SAVED_PROMPT, TurnRecord

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.backends.process import ProcessBackend
    from etui.energy.idle import IdleTracker
    from etui.events import Loaded, Unloaded
    from etui.runtime.decide import Overrides
    from etui.runtime.forecast import Forecast
    from etui.runtime.routes import Direction
    from etui.runtime.runtime import Runtime


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
        self._writer = runtime.writer
        self._between = BetweenTurns(runtime, idle_tracker, call_later)
        self._between.on_unloaded = lambda model: self.on_unloaded(model)
        self._idle = self._between.busy
        self._auditor = Auditor(runtime, self._between, call_later)
        self._counter = TokenCounter()
        self._cancelled = threading.Event()
        self._answering = False
        self._closing = threading.Lock()
        self._refusal = ""
        self.confirm: Callable[[str], bool] | None = None
        self.on_loaded: Callable[[Loaded], object] = lambda _loaded: None
        self.on_unloaded: Callable[[str], object] = lambda _model: None

    def run(
        self,
        query: Query,
        route: Route,
        replaces: str | None = None,
        prompt: str | None = None,
    ) -> Iterator[TurnEvent]:
        """Decide, answer and save, once the turn before has ended; yield the turn's events.

        Args:
            route: How its arm is chosen.
            prompt: Name of the saved prompt whose system prompt and arm are those of the turn.
        """
        from etui.runtime.decide import choose
        from etui.runtime.model_resolution import refit_curve

        self._raise_if_refused()
        with self._idle_engine():
            self._between.end_idle()
            self._cancelled.clear()
            self._runtime.reload_catalogue()
            choice = choose(
                query,
                _build_overrides(route),
                self._runtime,
                self._between.read_host,
                confirm=self.confirm,
            )
            turn = self._runtime.run_turn(
                query,
                choice,
                settings=_build_settings(replaces, prompt),
                cancelled=self._cancelled.is_set,
            )
            self._between.begin_turns()
            self._answering = True
            try:
                with closing(turn) as events:
                    for event in events:
                        if self._cancelled.is_set():
                            self._backend.cancel()  # again: the first one may have been too early
                        self._between.watch(event)
                        yield event
                        if isinstance(event, TurnFinished):
                            refit_curve(event.record, self._config, self._writer.save_curve)
                            self._between.note_record(event.record)
                            self._auditor.offer(query, event.record)
            finally:
                self._answering = False
                self._between.end_turns()
            self._writer.flush()
            self._between.update_keep_warm()

    def warm_up(self, route: Route, chat_id: str | None = None) -> Loaded | None:
        """Load the model that the next question of a chat is likely to use, checking its file.

        A model of a remote backend is loaded there, with its first answer.
        """
        from etui.runtime.model_resolution import find_draft_file, find_model_file

        self._raise_if_refused()
        with self._idle_engine():
            arm, catalogue = self._likely_arm(route, chat_id), self._runtime.catalogue
            if catalogue.get(arm.model).backend is not None:
                return None
            spec, path = find_model_file(arm, self._config, catalogue)
            return self._between.load(
                spec, path, find_draft_file(arm, spec, self._config, catalogue)
            )

    def load(self, model: str) -> Loaded | None:
        """Load a model after checking its file; return None if it is in memory already.

        Raises:
            EtuiError: An answer or a load is running.
            ModelUnavailable: The file is missing, damaged, or has another sha256.
        """
        from etui.arm import Arm
        from etui.runtime.model_resolution import find_model_file

        with self._exclusive():
            self._runtime.reload_catalogue()
            arm = Arm("direct", model)
            loaded = self._between.load(
                *find_model_file(arm, self._config, self._runtime.catalogue)
            )
            if loaded is not None:
                self.on_loaded(loaded)
            return loaded

    def unload(self, model: str) -> Unloaded | None:
        """Unload a model; return None if it was not in memory.

        Raises:
            EtuiError: An answer or a load is running.
        """
        with self._exclusive():
            return self._between.unload(model)

    def residents(self) -> tuple[str, ...]:
        """Return the names of the models in memory."""
        return self._between.residents()

    def small_model(self) -> str | None:
        """Return the model with the smallest file on this machine; None without any."""
        from etui.models.catalogue import load_catalogue
        from etui.models.files import model_path
        from etui.runtime.model_resolution import models_on_disk

        catalogue = load_catalogue(self._config)
        is_on_disk = models_on_disk(self._config, catalogue, lambda _backend: False)
        here = [spec for spec in catalogue if is_on_disk(spec.name)]
        sizes = {spec.name: model_path(spec, self._config).stat().st_size for spec in here}
        return min(sizes, key=lambda name: sizes[name], default=None)

    def cool_downs(self) -> int:
        """Return how often the power after the last unload was measured."""
        return self._between.cool_downs

    def is_busy(self) -> bool:
        """Return whether an answer, a load or an unload is running."""
        return self._idle.locked() and not self._auditor.running

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
                self._between.empty()
                yield lambda: self._between.closed
            finally:
                self._refusal = ""

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Run the body while nothing else runs."""
        self._raise_if_refused()
        # An audit ends at once; nothing else is waited for.
        seconds = LEAVE_SECONDS if self._auditor.running else 0.0
        self._auditor.interrupt()
        if not self._idle.acquire(timeout=seconds):
            raise EtuiError(
                "an answer or a model load is running",
                "wait until it ends, or stop it with Esc in the chat",
            )
        try:
            yield
        finally:
            self._idle.release()
            self._auditor.rest()

    @contextmanager
    def _idle_engine(self) -> Iterator[None]:
        """Run the body once nothing else runs; an audit ends for it."""
        self._auditor.interrupt()
        try:
            with self._idle:
                yield
        finally:
            self._auditor.rest()

    def _raise_if_refused(self) -> None:
        if self._refusal:
            raise EtuiError(self._refusal, "wait until it ends, or stop it on its screen")

    def likely_model(self, route: Route, chat_id: str | None = None) -> str | None:
        """Return the model that the next question is likely to use; None if none can answer."""
        try:
            return self._likely_arm(route, chat_id).model
        except ModelUnavailable:
            return None

    def forecast(self, query: Query, route: Route, parts: Sequence[str]) -> Forecast:
        """Forecast a question before it is sent; safe while an answer runs.

        Raises:
            EtuiError: No arm would answer it.
        """
        from etui.runtime.decide import choose
        from etui.runtime.forecast import forecast_choice

        choice = choose(
            query,
            _build_overrides(route),
            self._runtime,
            self._between.read_host,
            within_budgets=False,
        )
        resident = self._between.resident
        return forecast_choice(query, choice, parts, self._runtime, self._counter, resident)

    def count_tokens(self, text: str, model: str) -> int:
        """Count the tokens of a text for a model, or estimate them without its tokenizer."""
        from etui.runtime.forecast import count_tokens

        return count_tokens(text, model, self._runtime, self._counter).tokens

    def other_route(self, record: TurnRecord, route: Route, direction: Direction) -> Route | None:
        """Return the route to the next smaller or larger arm than the one that answered."""
        from etui.models.catalogue import load_catalogue
        from etui.runtime.routes import other_route

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
            if not self._between.closed:
                self._between.closed = True
                self._auditor.close()
                self._close()

    def _close(self) -> None:
        self._counter.close()
        locked = False
        if not self._answering:
            self._between.end_idle()
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

    def _likely_arm(self, route: Route, chat_id: str | None) -> Arm:
        from etui.runtime.routes import find_likely_arm

        self._runtime.reload_catalogue()
        overrides = _build_overrides(route)
        return find_likely_arm(overrides, self._runtime, self._between.read_host, chat_id)


def _build_settings(replaces: str | None, prompt: str | None) -> dict[str, str] | None:
    settings = {REPLACES: replaces, SAVED_PROMPT: prompt}
    return {key: value for key, value in settings.items() if value} or None


def _build_overrides(route: Route) -> Overrides:
    from etui.runtime.decide import Overrides

    return (
        Overrides(model=route.model)
        if route.model
        else Overrides(policy=route.policy, arm=route.arm)
    )

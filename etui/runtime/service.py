"""The turns of the app: one at a time, in the engine's process, with models kept warm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING

from etui.chat import Query
from etui.engine.token_counter import TokenCounter
from etui.errors import EtuiError, ModelUnavailable
from etui.runtime._between_turns import CallLater, start_timer
from etui.runtime.routes import Route, build_overrides
from etui.runtime.turn_pool import LEAVE_SECONDS, TurnPool
from etui.runtime.turn_request import TurnRequest
from etui.turn.record import NAMES, REPLACES, SAVED_PROMPT, TurnRecord

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.backends.process import ProcessBackend
    from etui.energy.idle import IdleTracker
    from etui.events import Loaded, Unloaded
    from etui.runtime.forecast import Forecast
    from etui.runtime.routes import Direction
    from etui.runtime.runtime import Runtime
    from etui.tools.toolbox import Toolbox
    from etui.turn.events import TurnEvent


class TurnService(TurnPool):
    """A pool of one turn, and what the app asks besides; the runtime is closed with it.

    Attributes:
        confirm: Asks the user whether to exceed a budget; None if there is no one to ask.
        on_loaded: Called after :meth:`load` has loaded a model.
        on_unloaded: Called with the name of a model that was unloaded between two answers.
    """

    in_background = False

    def __init__(
        self,
        runtime: Runtime[ProcessBackend],
        idle_tracker: IdleTracker,
        call_later: CallLater = start_timer,
    ) -> None:
        super().__init__(runtime, idle_tracker=idle_tracker, call_later=call_later)
        self._between.on_unloaded = lambda model: self.on_unloaded(model)
        self._counter = TokenCounter()
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
        *,
        tools: bool = False,
        names: str | None = None,
    ) -> Iterator[TurnEvent]:
        """Decide, answer and save, once the turn before has ended; yield the turn's events.

        Args:
            prompt: Name of the saved prompt whose system prompt and arm are those of the turn.
            tools: Whether the model may call tools; their servers are started if they do not run.
            names: Id of the chat of which the answer is the title.
        """
        settings = {REPLACES: replaces, SAVED_PROMPT: prompt, NAMES: names}
        self._raise_if_refused()
        if tools:
            query = self.tools.offer(query)
        return self.run_here(
            TurnRequest(
                query,
                build_overrides(route),
                settings={name: value for name, value in settings.items() if value},
                confirm=self.confirm,
                tools=self.tools if query.options.tools else None,
            )
        )

    @cached_property
    def tools(self) -> Toolbox:
        """The tools of config.yaml; no server is started before the first use."""
        from etui.tools.toolbox import Toolbox, remember_permission

        config = self._runtime.config
        return Toolbox(config, remember=partial(remember_permission, config))

    def warm_up(self, route: Route, chat_id: str | None = None) -> Loaded | None:
        """Load the model that the next question of a chat is likely to use, checking its file.

        A model of a remote backend is loaded there, with its first answer.
        """
        from etui.runtime.model_resolution import find_draft_file, find_model_file

        self._raise_if_refused()
        self._auditor.interrupt()
        try:
            with self._between.busy:
                arm, catalogue = self._likely_arm(route, chat_id), self._runtime.catalogue
                if catalogue.get(arm.model).backend is not None:
                    return None
                config = self._runtime.config
                spec, path = find_model_file(arm, config, catalogue)
                draft = find_draft_file(arm, spec, config, catalogue)
                return self._between.load(spec, path, draft)
        finally:
            self._auditor.rest()

    def load(self, model: str) -> Loaded | None:
        """Load a model after checking its file; return None if it is in memory already.

        EtuiError if an answer or a load is running, or the file cannot be used.
        """
        from etui.arm import Arm
        from etui.runtime.model_resolution import find_model_file

        with self._exclusive():
            self._runtime.reload_catalogue()
            arm, config = Arm("direct", model), self._runtime.config
            loaded = self._between.load(*find_model_file(arm, config, self._runtime.catalogue))
            if loaded is not None:
                self.on_loaded(loaded)
            return loaded

    def unload(self, model: str) -> Unloaded | None:
        """Unload a model; None if it was not in memory, EtuiError if an answer or a load runs."""
        with self._exclusive():
            return self._between.unload(model)

    def residents(self) -> tuple[str, ...]:
        """Return the names of the models in memory."""
        return self._between.residents()

    def small_model(self) -> str | None:
        """Return the model with the smallest file on this machine; None without any."""
        from etui.models.catalogue import load_catalogue
        from etui.models.files import file_size, model_path
        from etui.runtime.model_resolution import models_on_disk

        config = self._runtime.config
        catalogue = load_catalogue(config)
        is_on_disk = models_on_disk(config, catalogue, lambda _backend: False)
        here = [spec for spec in catalogue if is_on_disk(spec.name)]
        sizes = {spec.name: file_size(model_path(spec, config)) or 0 for spec in here}
        return min(sizes, key=lambda name: sizes[name], default=None)

    def cool_downs(self) -> int:
        """Return how often the power after the last unload was measured."""
        return self._between.cooling.measured

    def is_busy(self) -> bool:
        """Return whether an answer, a load or an unload is running."""
        return self._between.busy.locked() and not self._auditor.running

    @contextmanager
    def at_rest(self, why: str) -> Iterator[Callable[[], bool]]:
        """Unload every model, end the engine process, and refuse questions meanwhile, saying why.

        It yields a function that returns whether the service was closed. EtuiError if an answer or
        a load is running.
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
        if not self._between.busy.acquire(timeout=seconds):
            raise EtuiError(
                "an answer or a model load is running",
                "wait until it ends, or stop it with Esc in the chat",
            )
        try:
            yield
        finally:
            self._between.busy.release()
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
        """Forecast a question before it is sent, also during an answer; errors as of `choose`."""
        from etui.runtime.decide import choose
        from etui.runtime.forecast import forecast_choice

        choice = choose(
            query,
            build_overrides(route),
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

        return other_route(
            record, route, direction, self._runtime.config, load_catalogue(self._runtime.config)
        )

    def close(self, grace_seconds: float = 0.0) -> None:
        """Stop the running turn, wait until it is in the log, and close everything.

        Raises:
            LogUnavailable: Something could not be written; the message says where it was saved.
        """
        with self._closing:
            if self._between.closed:
                return
            self._between.closed = True
            self._counter.close()
            try:
                super().close(grace_seconds)
            finally:
                if "tools" in vars(self):
                    self.tools.close()
                self._runtime.backend.close()  # a load that did not stop ends with its process
                locked = self._between.busy.acquire(timeout=LEAVE_SECONDS)
                try:
                    self._runtime.close()
                finally:
                    if locked:
                        self._between.busy.release()

    def _likely_arm(self, route: Route, chat_id: str | None) -> Arm:
        from etui.runtime.routes import find_likely_arm

        self._runtime.reload_catalogue()
        overrides = build_overrides(route)
        return find_likely_arm(overrides, self._runtime, self._between.read_host, chat_id)

"""The app's service over a scripted engine; timers run when a test says so."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from etui.chat import Query
from etui.config.config import Config
from etui.energy.idle import IdleTracker
from etui.energy.recorder import Recorder
from etui.events import Finished
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.spec import STARTER
from etui.runtime.routes import Route
from etui.runtime.runtime import Runtime
from etui.runtime.service import TurnService
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord
from tests.support.devices import FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import constant

QUESTION, BY_MODEL = Query("2+2?", chat_id="c"), Route("balanced", STARTER)


def finished(start: int, end: int, text: str = "Four.", status: Any = "complete") -> Finished:
    return Finished(start, start, start, end, None, status, "", text, "", 5, 0, 5, 0, 2)


class App:
    """A service, its engine, and a recorder that the test reads for it."""

    def __init__(self, config: Config, child: Any, recorder: Recorder, clock: FakeClock) -> None:
        self.config = config
        self.clock = clock
        self.recorder = recorder
        recorder.start = lambda: None  # type: ignore[method-assign]
        self.writer = TurnWriter(config)
        self.child = child
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.runtime: Runtime[Any] = Runtime(config, lambda _: child)
        self.runtime.recorder, self.runtime.writer = recorder, self.writer
        tracker = IdleTracker(recorder, config, clock)
        self.service = TurnService(
            self.runtime, tracker, lambda seconds, call: self.timers.append((seconds, call))
        )

    def ask(self, query: Query = QUESTION, route: Route = BY_MODEL) -> TurnRecord:
        *_, last = self.service.run(query, route)
        assert isinstance(last, TurnFinished)
        return last.record

    def ring(self) -> None:
        """Let the timers run out."""
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()

    def read(self, read: Callable[[LogReader], Any]) -> Any:
        """Read from the log, after all of it is written."""
        self.writer.flush()
        with LogReader(self.config) as log:
            return read(log)

    def close(self) -> None:
        self.service.close()


class SteadyApp(App):
    """An app on a machine that always draws the same."""

    def __init__(self, config: Config, watts: float, make_child: Callable[..., Any]) -> None:
        clock = FakeClock()
        recorder = Recorder([FakeDevice(constant(watts, 1000), clock)], clock=clock)
        self.clock, self.recorder = clock, recorder
        super().__init__(config, make_child(clock, self.wait), recorder, clock)
        self.wait(3)

    def wait(self, seconds: float) -> None:
        sample(self.recorder, self.clock, seconds, random.Random(1))

"""A pool over a scripted engine: answers wait for the test, and can be cancelled anywhere."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.backends.base import AnswerRequest, Cancel, LongStep
from etui.chat import Query
from etui.config.config import Config
from etui.energy.idle import IdleTracker
from etui.energy.recorder import Recorder
from etui.events import (
    Answer,
    BatchShare,
    Event,
    Finished,
    Loaded,
    Prefilled,
    Residence,
    SharedBatch,
    Unloaded,
)
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.spec import STARTER
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime
from etui.runtime.turn_pool import TurnPool
from etui.runtime.turn_request import PoolEvent, TurnFailed, TurnRequest
from etui.turn.events import TurnFinished
from etui.turn.record import ClientRecord, TurnRecord
from tests.support.devices import FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import constant

LIMIT_SECONDS = 60.0
WATTS = 50.0


class Host:
    """An engine whose answers wait at a gate, a second of the fake clock each.

    Attributes:
        gate: Answers wait here after their first token; set by default.
        load_gate: Loads wait here; set by default.
        asked: The questions that began, in order.
        most: The most answers that ran at a time.
        fault: Raised by each answer in place of its end; None for none.
        deaf: Answers hear no cancel.
        crash_seconds: Time after which the process ends with the fault; 0 leaves it alive.
        fault_seconds: Time after which the fault is raised, the process being alive.
    """

    def __init__(self, clock: FakeClock, advance: Callable[[float], None]) -> None:
        self.clock = clock
        self.advance = advance
        self.changed = threading.Condition()
        self.computing = threading.Lock()
        self.gate = True
        self.load_gate = True
        self.asked: list[str] = []
        self.running = 0
        self.most = 0
        self.closed = 0
        self.number = 0
        self.fault: BaseException | None = None
        self.crash_seconds = 0.0
        self.fault_seconds = 0.0
        self.deaf = False
        self.shares_batches = False
        self.status = "complete"
        self.loaded: set[str] = set()
        self.pid: int | None = 4711
        self.long_step: LongStep | None = None
        self.on_unloaded: Callable[[Unloaded], None] | None = None
        self.on_batch: Callable[[SharedBatch], None] | None = None

    def compute_batch(self, model: str, number: int) -> int:
        """Compute for a second, and report the batch; batches follow one another in time."""
        with self.computing:
            start = self.clock()
            self.advance(1.0)
            end = self.clock()
            if self.shares_batches and self.on_batch is not None:
                self.on_batch(SharedBatch(model, start, end, (BatchShare(number, 5, 1),)))
            return end

    def end_process(self, model: str, number: int) -> None:
        """Work for a while, and end; the time until then is reported like a batch."""
        start = self.clock()
        self.advance(self.crash_seconds)
        self.pid = None
        if self.on_batch is not None:
            shares = (BatchShare(number, 0, 0),)
            self.on_batch(SharedBatch(model, start, self.clock(), shares))

    def open_gate(self) -> None:
        with self.changed:
            self.gate = self.load_gate = True
            self.changed.notify_all()

    def wait_until(self, true: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(true, LIMIT_SECONDS), self.asked

    def load(self, spec: object, path: Path, draft: object = None) -> Iterator[Residence]:
        return iter(())

    def unload(self, model: str) -> Iterator[Residence]:
        return iter(())

    def keep_warm(self, model: str, seconds: float | None) -> None: ...

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        assert cancel is not None
        return HostAnswer(self, cancel).run(request)

    def close(self) -> None:
        with self.changed:
            self.closed += 1
            self.loaded.clear()
            self.changed.notify_all()


class HostAnswer:
    """One answer of the engine."""

    def __init__(self, host: Host, cancel: Cancel) -> None:
        self.host = host
        self.token = cancel
        self.number = 0
        self.cancelled = False

    def run(self, request: AnswerRequest) -> Iterator[Event]:
        host = self.host
        with host.changed:
            host.number += 1
            self.number = host.number
            self.token.numbers = (*self.token.numbers, host.number)
            host.asked.append(request.messages[-1].content)
            host.running += 1
            host.most = max(host.most, host.running)
            host.changed.notify_all()
        self.token.listen(self.cancel)
        try:
            yield from self._answer(request)
        finally:
            with host.changed:
                host.running -= 1
                host.changed.notify_all()

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:
        host, model = self.host, request.model.name
        load = self._load(model)
        if load is not None:
            yield load
        start = host.clock()
        if host.fault is not None:
            if host.fault_seconds:
                yield Prefilled(start, start, 5, 0, 5)
                host.advance(host.fault_seconds)
            if host.crash_seconds:
                host.end_process(model, self.number)
            raise host.fault
        yield Prefilled(start, start, 5, 0, 5)
        yield Answer(start, "Four", 1)
        self._wait(lambda: host.gate)
        end = host.compute_batch(model, self.number)
        status: Any = "stopped" if self.cancelled else host.status
        yield Finished(start, start, start, end, start, status, "", "Four", "", 5, 0, 5, 0, 1)

    def _load(self, model: str) -> Loaded | None:
        """Load a model for a second, in which nothing else is computed."""
        host = self.host
        with host.computing:
            if model in host.loaded:
                return None
            began = host.clock()
            self._wait(lambda: host.load_gate)
            host.advance(1.0)
            with host.changed:
                host.loaded.add(model)
                host.changed.notify_all()
            return Loaded(model, began, host.clock(), 0, 1000)

    def _wait(self, is_open: Callable[[], bool]) -> None:
        closed = self.host.closed
        with self.host.changed:
            assert self.host.changed.wait_for(
                lambda: is_open() or self.cancelled or self.host.closed > closed, LIMIT_SECONDS
            )

    def cancel(self) -> None:
        with self.host.changed:
            self.cancelled = not self.host.deaf
            self.host.changed.notify_all()


@dataclass
class Heard:
    """What the client of one turn hears.

    Attributes:
        fails_at: The listener raises an error at this kind of event; None never.
    """

    events: list[PoolEvent] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    fails_at: type | None = None
    failed: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: PoolEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()
        if self.fails_at is not None and isinstance(event, self.fails_at):
            raise RuntimeError("the listener is gone")
        if isinstance(event, TurnFailed):
            self.failed.set()
        if isinstance(event, TurnFinished | TurnFailed):
            self.ended.set()

    def wait_for(self, kind: type) -> None:
        """Wait for an event of a kind."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(isinstance(event, kind) for event in self.events), LIMIT_SECONDS
            ), self.events

    def wait(self) -> Heard:
        assert self.ended.wait(LIMIT_SECONDS), self.events
        return self

    @property
    def record(self) -> TurnRecord:
        (record,) = [e.record for e in self.wait().events if isinstance(e, TurnFinished)]
        return record

    @property
    def error(self) -> Exception:
        assert self.failed.wait(LIMIT_SECONDS), self.events
        last = self.events[-1]
        assert isinstance(last, TurnFailed), last
        return last.error


class Stage:
    """A pool, its engine, and a machine that always draws the same."""

    def __init__(self, config: Config, **options: Any) -> None:
        self.config = config
        self.clock = FakeClock()
        self.device = FakeDevice(constant(WATTS, 100_000), self.clock)
        self.recorder = Recorder([self.device], clock=self.clock)
        self.recorder.start = lambda: None  # type: ignore[method-assign]  # read by the test
        self._sampling = threading.Lock()
        self.recorder.settle = self._settle  # type: ignore[method-assign]
        self.advance(3)
        self.host = Host(self.clock, self.advance)
        self.host.shares_batches = options.get("parallel", 1) > 1
        self.runtime: Runtime[Any] = Runtime(config, lambda _: self.host)
        self.runtime.recorder, self.runtime.writer = self.recorder, TurnWriter(config)
        self.runtime.clock_ns = self.clock
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.tracker = IdleTracker(self.recorder, config, self.clock)
        self.pool = TurnPool(
            self.runtime,
            idle_tracker=self.tracker,
            call_later=lambda seconds, function: self.later.append((seconds, function)),
            **options,
        )

    def _settle(self, end_ns: int, timeout_s: float | None = None) -> bool:
        """Wait for the readings of another thread; none are taken here, out of their order."""
        with self._sampling:
            return True

    def advance(self, seconds: float) -> None:
        """Let the clock run, and the meter read meanwhile."""
        with self._sampling:
            sample(self.recorder, self.clock, seconds, random.Random(1))

    def submit(self, text: str = "2+2?", **given: Any) -> tuple[Heard, Any]:
        heard = Heard(fails_at=given.pop("fails_at", None))
        overrides = given.pop("overrides", Overrides(model=STARTER, lenient=True))
        key = given.pop("key", "")
        client = ClientRecord("/v1/chat/completions", key, given.pop("request_id", ""))
        request = TurnRequest(Query(text, owner=key), overrides, client, **given)
        return heard, self.pool.submit(request, heard)

    def submit_to(self, listener: Callable[[PoolEvent], None]) -> Any:
        """Submit a turn whose events another listener hears."""
        request = TurnRequest(Query("2+2?"), Overrides(model=STARTER), ClientRecord("/x"))
        return self.pool.submit(request, listener)

    def wait_idle(self) -> bool:
        """Wait until no turn runs; return whether the idle time has begun."""
        busy = self.pool._between.busy
        assert busy.acquire(timeout=LIMIT_SECONDS)
        busy.release()
        return self.tracker.since_ns is not None

    def wait_for_ends(self, turns: int) -> None:
        """Wait until a number of turns has ended and nothing waits or runs."""
        pool = self.pool
        with pool._changed:
            assert pool._changed.wait_for(
                lambda: (
                    not (pool._running or pool._queue or pool._left)
                    and sum(pool._ended.values()) == turns
                ),
                LIMIT_SECONDS,
            ), pool.status()

    def ask(self, text: str = "2+2?", **given: Any) -> TurnRecord:
        return self.submit(text, **given)[0].record

    def saved(self) -> Mapping[str, TurnRecord]:
        """Return the turns of the log by their id."""
        self.runtime.writer.flush()
        with LogReader(self.config) as log:
            return {record.turn_id: record for record in log.turns()}

    def close(self) -> None:
        self.host.open_gate()
        self.pool.close(LIMIT_SECONDS)
        self.runtime.close()

"""A pool that answers by script, and a server that listens on a free port of this machine."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.errors import EtuiError, InvalidRequest, QueueFull, Stopped
from etui.events import Answer, Event, Finished, Prefilled, Thought
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.runtime.decide import Choice
from etui.runtime.overrides import Overrides
from etui.runtime.turn_request import (
    EnergyBooks,
    PoolEvent,
    PoolStatus,
    TurnFailed,
    TurnRequest,
)
from etui.server.context import ServerContext, ServerSettings
from etui.server.run import GracefulServer, open_sockets
from etui.turn.events import TurnFinished
from etui.turn.interfaces import ResolvedModel
from etui.turn.record import Attribution, TurnRecord
from tests.turn.play import run_turn
from tests.turn.scripted import Meter10W, S, Saved

DEADLINE_SECONDS = 60.0
DECISION = Decision(
    Arm("quick", "small"), "balanced", "rest", "rest: nothing else matched", predicted_joules=21.0
)

Script = Callable[[AnswerRequest, "FakeTurn"], Iterator[Event]]


def wait(event: threading.Event) -> None:
    """Wait for an event; a fault fails the test instead of hanging it."""
    assert event.wait(DEADLINE_SECONDS), "nothing happened in time"


def finished(answer: str, **changes: Any) -> Finished:
    """The end of an answer of three seconds: one of prefill, two of decode."""
    values: dict[str, Any] = {
        "start_ns": 10 * S,
        "prefill_end_ns": 11 * S,
        "thinking_end_ns": 11 * S,
        "end_ns": 13 * S,
        "first_token_ns": 11 * S,
        "status": "complete",
        "why": "",
        "answer": answer,
        "thinking": "",
        "prompt_tokens": 20,
        "cached_tokens": 5,
        "computed_tokens": 15,
        "thinking_tokens": 0,
        "output_tokens": 8,
    }
    return Finished(**{**values, **changes})


def say(*parts: str, thinking: str = "", more: tuple[Event, ...] = (), **changes: Any) -> Script:
    """A script that thinks, says its parts, and ends."""

    def answer(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield Prefilled(10 * S, 11 * S, 20, 5, 15)
        if thinking:
            yield Thought(11 * S, thinking, 3)
        for part in parts:
            yield Answer(12 * S, part, 1)
        yield from more
        thought = {"thinking": thinking, "thinking_tokens": 3} if thinking else {}
        yield finished(**{"answer": "".join(parts), **thought, **changes})

    return answer


def fail(error: BaseException, *before: Event) -> Script:
    """A script that fails after some events."""

    def answer(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield from before
        raise error

    return answer


def until_cancelled(*before: Event, began: threading.Event | None = None) -> Script:
    """A script that goes on until its turn is cancelled."""

    def answer(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield from before
        if began is not None:
            began.set()
        wait(turn.cancelled)
        yield finished("", status="stopped", why="stopped")

    return answer


@dataclass
class FakeTurn:
    """A turn of the fake pool; it answers by its script."""

    turn_id: str
    request: TurnRequest
    script: Script
    cancelled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()

    def hurry(self) -> None:
        """Do nothing: these scripts have no thinking to end."""

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        yield from self.script(request, self)


class FakePool:
    """Runs every turn at once on a thread of its own, with the real flow of a turn.

    Args:
        script: How every answer goes; several are used in turn, the last one repeatedly.
        decision: What is decided for every request.
        joules_known: Whether the meter measures.
    """

    def __init__(
        self, *scripts: Script, decision: Decision = DECISION, joules_known: bool = True
    ) -> None:
        self.scripts = list(scripts or (say("Mars."),))
        self.decision = decision
        self.meter = Meter10W(joules_known)
        self.saved = Saved()
        self.turns: list[FakeTurn] = []
        self.full: QueueFull | None = None
        self.refusal: EtuiError | None = None
        self.closed: list[float] = []
        self.closing = threading.Event()
        self.submitted = threading.Semaphore(0)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def submit(self, request: TurnRequest, on_event: Callable[[PoolEvent], None]) -> FakeTurn:
        if self.closed:
            raise Stopped("the server is shutting down")
        if self.full is not None:
            raise self.full
        with self._lock:
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            turn = FakeTurn(f"{next(self._numbers):012x}", request, script)
            self.turns.append(turn)
        threading.Thread(target=self._run, args=(turn, on_event), daemon=True).start()
        self.submitted.release()
        return turn

    def _run(self, turn: FakeTurn, on_event: Callable[[PoolEvent], None]) -> None:
        request = turn.request
        assert request.client is not None
        client = replace(request.client, queue_seconds=0.25)
        try:
            if self.refusal is not None:
                raise self.refusal
            for event in run_turn(
                request.query,
                self.decision,
                serve=_serve,
                answerer=turn,
                meter=self.meter,
                writer=self.saved,
                cancelled=turn.cancelled.is_set,
                clock_ns=lambda: 16 * S,
            ):
                if isinstance(event, TurnFinished):
                    energy = replace(event.record.energy, attribution=Attribution("exclusive"))
                    event = TurnFinished(
                        replace(event.record, turn_id=turn.turn_id, client=client, energy=energy)
                    )
                on_event(event)
        except EtuiError as error:
            on_event(TurnFailed(error))
        finally:
            turn.over.set()

    def decide(self, request: TurnRequest) -> Choice:
        return Choice(self.decision)

    def status(self) -> PoolStatus:
        running = sum(not turn.over.is_set() for turn in self.turns)
        ended = len(self.turns) - running
        books = EnergyBooks(None, None, None, None)
        return PoolStatus(running, 0, 1, 32, ended, 0, 0, (), None, None, books, not self.closed)

    def find_turn(self, turn_id: str) -> TurnRecord | None:
        return next((t for t in self.saved.turns if t.turn_id == turn_id), None)

    def close(self, grace_seconds: float) -> None:
        self.closed.append(grace_seconds)
        self.closing.set()
        for turn in self.turns:
            if not turn.over.wait(grace_seconds):
                turn.cancel()
                wait(turn.over)


def parse_model(text: str) -> Overrides:
    """Know the policy ``balanced``, its arm ``balanced/think``, and the model ``small``."""
    known = {
        "balanced": Overrides(policy="balanced"),
        "balanced/think": Overrides(policy="balanced", arm="think"),
        "small": Overrides(model="small"),
    }
    if text not in known:
        raise InvalidRequest(f"there is no model {text!r}", "did you mean 'small'?", "model")
    return known[text]


@dataclass
class Running:
    """A server that runs on another thread."""

    settings: ServerSettings
    pool: FakePool
    server: GracefulServer
    thread: threading.Thread

    @property
    def port(self) -> int:
        return self.settings.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """Open a connection whose waits are limited."""
        if self.settings.unix is not None:
            opened = socket.socket(socket.AF_UNIX)
            opened.settimeout(DEADLINE_SECONDS)
            opened.connect(self.settings.unix)
            return opened
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_SECONDS)

    def stop(self) -> None:
        """Ask the server to stop, and wait for its end."""
        self.server.should_exit = True
        self.thread.join(DEADLINE_SECONDS)
        assert not self.thread.is_alive(), "the server did not end"


@contextmanager
def serving(
    pool: FakePool | None = None,
    *,
    runtime: Any = None,
    parse: Callable[[str], Overrides] | None = parse_model,
    **changes: Any,
) -> Iterator[Running]:
    """Run a server on a free port of the loopback address."""
    pool = pool or FakePool()
    sockets, bound = open_sockets(replace(ServerSettings(port=0, grace_seconds=0.0), **changes))
    context = ServerContext(pool, runtime, bound, parse)  # type: ignore[arg-type]
    started = threading.Event()
    server = GracefulServer(context, started.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets)), daemon=True)
    thread.start()
    wait(started)
    running = Running(bound, pool, server, thread)
    try:
        yield running
    finally:
        running.stop()


def connect(server: Running, **options: Any) -> openai.OpenAI:
    """Open the official client, which does not retry unless a test says so."""
    usual: dict[str, Any] = {"api_key": "none", "timeout": DEADLINE_SECONDS, "max_retries": 0}
    return openai.OpenAI(base_url=f"{server.url}/v1", **usual | options)


def connect_async(server: Running) -> openai.AsyncOpenAI:
    """Open the official asynchronous client."""
    usual: dict[str, Any] = {"api_key": "none", "timeout": DEADLINE_SECONDS, "max_retries": 0}
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", **usual)


def _serve(arm: Arm) -> ResolvedModel:
    return ResolvedModel(ModelSpec(arm.model, "tiny", (), sha256="ab" * 32), Path("m.gguf"))

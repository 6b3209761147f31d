"""What a node does with a request: run it on one thread, and stream what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from queue import SimpleQueue
from typing import Protocol, TypeVar

from etui.bench.run.scoring import StopRequested
from etui.bench.run.work import Answered
from etui.bench.store.run_config import RunConfig
from etui.cluster.messages import (
    Answers,
    Command,
    Facts,
    Failed,
    Message,
    Note,
    Opened,
    Opening,
    Task,
    Wasted,
    read_command,
    read_opening,
    read_task,
)
from etui.errors import EtuiError, format_internal_error
from etui.turn.ports import Meter

T = TypeVar("T")


class NodeWorker(Protocol):
    """A machine that answers; its methods are called on one thread, :meth:`stop` on another."""

    @property
    def meter(self) -> Meter:
        """Its power meter, started; only after :meth:`open`."""

    def describe(self) -> Facts:
        """Describe the node without loading anything."""

    def open(self, opening: Opening, say: Callable[[str], None]) -> RunConfig:
        """Load the questions and the models of a run; return its configuration here.

        Raises:
            UsageError: The data or a model are others than the driver's.
            EtuiError: They cannot be had.
        """

    def answer(self, task: Task) -> Iterator[Answered]:
        """Answer a piece.

        Raises:
            StopRequested: :meth:`stop` was called; the current question is discarded.
            EtuiError: The engine failed.
        """

    def run(self, command: Command) -> Iterator[Message]:
        """Run an etui command on this machine and yield what it prints."""

    def allow(self) -> None:
        """Take back an earlier :meth:`stop`, at the start of a request."""

    def stop(self) -> None:
        """End the current request as soon as possible."""


def serve(worker: NodeWorker, method: str, text: str, engine: Executor) -> Iterator[Message]:
    """Do what a driver asks; an error becomes a message, since errors are not pickled either.

    Args:
        method: A :data:`etui.cluster.carrier.Method`.
        engine: Its only thread runs the engine, whose parts belong to one thread.
    """
    try:
        if method == "describe":
            yield worker.describe()
        elif method == "open":
            yield from _open(worker, read_opening(text), engine)
        elif method == "answer":
            yield from _answer(worker, read_task(text), engine)
        elif method == "command":
            yield from worker.run(read_command(text))
        else:
            yield Failed(f"it cannot do {method!r}", "install the same etui on every node", 2)
    except EtuiError as error:
        yield Failed(error.what, error.fix, error.exit_code)
    except Exception as error:  # noqa: BLE001 - the driver names it; this node can go on
        yield Failed(format_internal_error(error), "see the log of this node", EtuiError.exit_code)


def _open(worker: NodeWorker, opening: Opening, engine: Executor) -> Iterator[Message]:
    def load(emit: Callable[[Message], None]) -> None:
        config = worker.open(opening, lambda text: emit(Note(text)))
        emit(Opened(config.to_json()))

    yield from _stream(engine, load)


def _answer(worker: NodeWorker, task: Task, engine: Executor) -> Iterator[Message]:
    """Answer a piece; the meter is waited for here while the engine computes the next question."""
    start_ns = time.monotonic_ns()
    counted: list[float | None] = []

    def compute(emit: Callable[[Answered], None]) -> None:
        for answered in worker.answer(task):
            emit(answered)

    try:
        for answered in _stream(engine, compute):
            worker.meter.settle(answered.end_ns)
            samples = answered.samples(worker.meter.energy)
            counted += [sample.joules for sample in samples]
            yield Answers(tuple(samples))
    except StopRequested:
        yield _measure_waste(worker.meter, start_ns, counted)
    except EtuiError:
        yield _measure_waste(worker.meter, start_ns, counted)
        raise


def _measure_waste(meter: Meter, start_ns: int, counted: list[float | None]) -> Wasted:
    """Measure the joules of a piece that are in none of its answers.

    These are those of the discarded question, and what the other questions would have paid of the
    shared prefix. The answers' joules are parts of the same readings, so the error is the whole's.
    """
    end_ns = time.monotonic_ns()
    meter.settle(end_ns)
    energy = meter.energy(start_ns, end_ns)
    known = [joules for joules in counted if joules is not None]
    if energy.joules is None or len(known) < len(counted):
        return Wasted(None, None)
    kind = None if energy.kind is None else energy.kind.value
    return Wasted(max(0.0, energy.joules - sum(known)), energy.uncertainty, kind)


def _stream(engine: Executor, function: Callable[[Callable[[T], None]], None]) -> Iterator[T]:
    """Run a function on the engine's thread and yield what it emits, as it does."""
    items: SimpleQueue[tuple[T] | None] = SimpleQueue()
    future = engine.submit(function, lambda item: items.put((item,)))
    future.add_done_callback(lambda _: items.put(None))
    while (item := items.get()) is not None:
        yield item[0]
    future.result()

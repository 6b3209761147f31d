"""Carry text over Ray: one actor on each node, which holds all its CPUs and GPUs.

Ray restarts and retries nothing here. A call streams its texts back as they come, so that what a
node has said before it dies is not lost.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from etui.bench.config import RunConfig
from etui.bench.scoring import Answered
from etui.cluster.messages import (
    Answers,
    ClusterNode,
    Command,
    Died,
    Ended,
    Facts,
    Failed,
    Message,
    Method,
    Note,
    Opened,
    Opening,
    Report,
    Said,
    Task,
    Wasted,
    read_command,
    read_opening,
    read_task,
    write_message,
)
from etui.errors import EtuiError, format_internal_error
from etui.measure.run import StopRequested
from etui.turn.interfaces import Meter

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
        method: A :data:`etui.cluster.messages.Method`.
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


OPENER = "etui.cluster.machine_worker:open_worker"
"""Where the function is that opens a machine: module and name."""


class NodeActor:
    """Serves one driver.

    Args:
        opener: Module and name of the function that opens the machine; a test has its own.
    """

    def __init__(self, opener: str = OPENER) -> None:
        module, _, name = opener.partition(":")
        open_worker: Callable[[], NodeWorker] = getattr(importlib.import_module(module), name)
        self._worker = open_worker()
        self._engine = ThreadPoolExecutor(1, "etui-engine")
        self._lock = threading.Lock()
        self._current = 0
        self._stopped = 0

    def call(self, number: int, method: str, text: str) -> Iterator[str]:
        """Do what a driver asks, and yield messages as lines of JSON.

        Args:
            number: Number of the request, from 1.
            method: A :data:`etui.cluster.messages.Method`.
        """
        with self._lock:
            self._current = number
            self._worker.allow()
            if self._stopped >= number:
                self._worker.stop()
        for message in serve(self._worker, method, text, self._engine):
            yield write_message(message)

    def stop(self, number: int) -> None:
        """End a request; one that has ended already is left alone, and the next one too."""
        with self._lock:
            self._stopped = max(self._stopped, number)
            if number == self._current:
                self._worker.stop()


_LABEL = "ray.io/node-id"
_MOST_REASON = 200


class RayCarrier:
    """A carrier of :mod:`etui.cluster.messages`.

    Args:
        ray: The module ``ray``, connected.
        opener: Module and name of the function that opens a machine in the process of a node.
    """

    def __init__(self, ray: Any, opener: str = OPENER) -> None:
        self._ray = ray
        self._opener = opener
        # A stop must reach a node that is busy, so it has a thread of its own there.
        self._actor_class = ray.remote(concurrency_groups={"control": 1})(NodeActor)
        self._actors: dict[str, Any] = {}
        self._streams: dict[Any, str] = {}
        self._numbers: dict[str, int] = {}

    def list_nodes(self) -> Sequence[ClusterNode]:
        """List the nodes that are alive and have a CPU."""
        found = []
        for node in self._ray.nodes():
            resources = node["Resources"]
            if node["Alive"] and resources.get("CPU", 0) >= 1:
                found.append(
                    ClusterNode(
                        node["NodeID"],
                        node["NodeManagerHostname"],
                        resources["CPU"],
                        resources.get("GPU", 0.0),
                    )
                )
        return found

    def start(self, node: ClusterNode) -> None:
        """Start the actor of a node; it waits while other work of Ray holds the node."""
        self.end(node.id)
        self._numbers[node.id] = 0
        self._actors[node.id] = self._actor_class.options(
            num_cpus=node.cpus,
            num_gpus=node.gpus,
            label_selector={_LABEL: node.id},
            max_restarts=0,
            max_task_retries=0,
        ).remote(self._opener)

    def call(self, node: str, method: Method, text: str) -> None:
        """Begin a streaming call."""
        self._numbers[node] += 1
        stream = (
            self._actors[node]
            .call.options(num_returns="streaming")
            .remote(self._numbers[node], method, text)
        )
        self._streams[stream] = node

    def wait(self, seconds: float) -> Sequence[Report]:
        """Wait until a stream has a text, or has ended."""
        if not self._streams:
            time.sleep(seconds)
            return ()
        streams = list(self._streams)
        ready, _ = self._ray.wait(streams, num_returns=1, timeout=seconds, fetch_local=False)
        if ready and len(streams) > 1:  # the others too, or the first could hold them up
            ready, _ = self._ray.wait(
                streams, num_returns=len(streams), timeout=0, fetch_local=False
            )
        return [self._read(stream) for stream in ready]

    def stop(self, node: str) -> None:
        """Ask the actor of a node to end its call."""
        actor = self._actors.get(node)
        if actor is not None:
            actor.stop.options(concurrency_group="control").remote(self._numbers[node])

    def end(self, node: str) -> None:
        """Kill the actor of a node."""
        actor = self._actors.pop(node, None)
        self._streams = {stream: each for stream, each in self._streams.items() if each != node}
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Kill all actors."""
        for node in list(self._actors):
            self.end(node)

    def _read(self, stream: Any) -> Report:
        node = self._streams[stream]
        try:
            return Said(node, self._ray.get(next(stream)))
        except StopIteration:
            del self._streams[stream]
            return Ended(node)
        except self._ray.exceptions.RayError as error:
            del self._streams[stream]
            return Died(node, _explain(error))


def _explain(error: Exception) -> str:
    """Return the line of Ray's message that says why, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line for line in lines if "Error" in line or line.startswith("The actor is dead because")
    ]
    text = telling[-1] if telling else lines[0] if lines else type(error).__name__
    text = text.removeprefix("The actor is dead because ").split(" Some common causes")[0]
    return text if len(text) <= _MOST_REASON else f"{text[:_MOST_REASON]}..."

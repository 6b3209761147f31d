"""A carrier without a cluster: nodes of this process, a clock that only moves in ``wait``.

Each node follows a script, one action a tick: ``say`` (its next message), ``wait`` (nothing),
``die`` (its process), ``gone`` (the node with it). After its script it always says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from etui.cluster.messages import ClusterNode, Died, Ended, Method, Report, Said, write_message
from etui.cluster.ray_carrier import serve
from tests.cluster.fake_node import Behaviour, FakeNode


class InlineExecutor(Executor):
    """Runs a function at once, on the calling thread."""

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        return future


@dataclass
class Script:
    """What a node does, tick by tick, while it is asked to answer."""

    node: ClusterNode
    actions: list[str] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    ready: bool = True
    alive: bool = True
    worker: FakeNode | None = None
    stream: Iterator[str] | None = None
    method: str = ""
    starts: int = 0
    said: int = 0
    stops: int = 0


class FakeCarrier:
    """See :class:`etui.cluster.messages.Carrier`."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.scripts = {script.node.id: script for script in scripts}
        self.seconds = 0.0
        self.closed = False
        self.calls: list[tuple[str, str, str]] = []

    def now(self) -> float:
        return self.seconds

    def list_nodes(self) -> list[ClusterNode]:
        return [script.node for script in self.scripts.values() if script.alive]

    def start(self, node: ClusterNode) -> None:
        script = self.scripts[node.id]
        script.worker = FakeNode(script.behaviour)
        script.stream = None
        script.starts += 1

    def call(self, node: str, method: Method, text: str) -> None:
        script = self.scripts[node]
        assert script.worker is not None, "a call to a node that was not started"
        assert script.stream is None, "a second call to a busy node"
        self.calls.append((node, method, text))
        script.method = method
        script.worker.allow()
        script.stream = self._lines(script.worker, method, text)

    @staticmethod
    def _lines(worker: FakeNode, method: str, text: str) -> Iterator[str]:
        for message in serve(worker, method, text, InlineExecutor()):
            yield write_message(message)

    def wait(self, seconds: float) -> list[Report]:
        self.seconds += seconds
        reports: list[Report] = []
        for script in self.scripts.values():
            if script.stream is not None and script.ready:
                reports += self._tick(script)
        return reports

    def _tick(self, script: Script) -> list[Report]:
        node = script.node.id
        scripted = script.method == "answer" and script.actions
        action = script.actions.pop(0) if scripted else "say"
        if action == "wait":
            return []
        if action in ("die", "gone"):
            script.stream = script.worker = None
            script.alive = action == "die"
            return [Died(node, f"it {action}")]
        assert script.stream is not None
        try:
            text = next(script.stream)
        except StopIteration:
            script.stream = None
            return [Ended(node)]
        script.said += 1
        return [Said(node, text)]

    def stop(self, node: str) -> None:
        script = self.scripts[node]
        script.stops += 1
        if script.worker is not None:
            script.worker.stop()

    def end(self, node: str) -> None:
        script = self.scripts[node]
        script.stream = script.worker = None

    def close(self) -> None:
        self.closed = True


def make_script(name: str, *actions: str, **changes) -> Script:
    return Script(ClusterNode(f"id-{name}", name, 1.0), list(actions), **changes)

"""A carrier without a cluster: nodes of this process, a clock that only moves in ``wait``.

Each node follows a script, one action a tick: ``say`` (its next message), ``wait`` (nothing),
``die`` (its process, which Ray starts again), ``gone`` (the node with it). After its script it
always says.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from etui.cluster.host import HostLedger
from etui.cluster.messages import Died, Ended, Message
from etui.cluster.node import NodeActor
from etui.cluster.ray_carrier import ClusterNode
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


def make_actor(machine, engine=None):
    """An actor on a given machine, and without a thread unless one is given."""
    actor = NodeActor("tests.cluster.fake_node:FakeNode")
    actor._machine = machine
    actor._engine = engine or InlineExecutor()
    return actor


class NotingLedger(HostLedger):
    """A ledger that notes what it is asked."""

    def __init__(self, noted):
        super().__init__()
        self.noted = noted

    def begin(self, number, cpus):
        self.noted.append("begin")
        super().begin(number, cpus)

    def end(self, number):
        self.noted.append("end")
        super().end(number)


@dataclass
class Script:
    """What a node does, tick by tick, while it is asked to answer."""

    node: ClusterNode
    actions: list[str] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    host: str = ""
    ready: bool = True
    alive: bool = True
    actor: NodeActor | None = None
    stream: Iterator[Message] | None = None
    method: str = ""
    starts: int = 0
    stops: int = 0
    calls: int = 0


class FakeCarrier:
    """See :class:`etui.cluster.ray_carrier.RayCarrier`."""

    def __init__(self, scripts):
        self.scripts = {script.node.id: script for script in scripts}
        self.seconds = 0.0

    def now(self):
        return self.seconds

    def list_nodes(self):
        return [script.node for script in self.scripts.values() if script.alive]

    def start(self, node):
        script = self.scripts[node.id]
        script.actor = make_actor(FakeNode(script.behaviour, host=script.host or node.id))
        script.stream = None
        script.starts += 1

    def open_ledger(self, nodes):
        return HostLedger()

    def call(self, node, method, request=None):
        script = self.scripts[node]
        assert script.actor is not None, "a call to a node that was not started"
        assert script.stream is None, "a second call to a busy node"
        script.calls += 1
        script.method = method
        script.stream = script.actor.call(script.calls, method, request)

    def wait(self, seconds):
        self.seconds += seconds
        ready = [each for each in self.scripts.values() if each.stream is not None and each.ready]
        return [(each.node.id, said) for each in ready if (said := self._tick(each)) is not None]

    def _tick(self, script):
        scripted = script.method == "answer" and script.actions
        action = script.actions.pop(0) if scripted else "say"
        if action == "wait":
            return None
        if action in ("die", "gone"):
            script.stream = script.actor = None
            script.alive = action != "gone"
            if action == "die":  # Ray starts it again
                self.start(script.node)
            return Died(f"it {action}", not script.alive)
        assert script.stream is not None
        said = next(script.stream, Ended())
        if isinstance(said, Ended):
            script.stream = None
        return said

    def stop(self, node):
        script = self.scripts[node]
        script.stops += 1
        if script.actor is not None:
            script.actor.stop(script.calls)

    def end(self, node):
        script = self.scripts[node]
        script.stream = script.actor = None


def make_script(name, *actions, **changes):
    return Script(ClusterNode(f"id-{name}", name, 1.0), list(actions), **changes)

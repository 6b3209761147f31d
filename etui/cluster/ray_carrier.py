"""Carry messages over Ray: one actor on each node, which holds all its CPUs and GPUs.

Ray pickles the messages, keeps an actor on its node, and restarts it where its process dies. A call
streams its messages back as they come, so that what a node has said before it dies is not lost. A
call itself is not retried by Ray (``max_task_retries``): that would ask the whole piece again and
tell the driver nothing, so that the joules of the first try appeared nowhere. The driver asks what
is left of it instead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etui.cluster.host import HostLedger, RayLedger
from etui.cluster.messages import Died, Ended, Message, Method
from etui.cluster.node import OPENER, NodeActor

_MOST_REASON = 200


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the cluster."""

    id: str
    host: str
    cpus: float
    gpus: float = 0.0


class RayCarrier:
    """Carries messages to the nodes of a cluster and back; used from one thread."""

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
        return [
            ClusterNode(
                node["NodeID"],
                node["NodeManagerHostname"],
                node["Resources"]["CPU"],
                node["Resources"].get("GPU", 0.0),
            )
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]

    def start(self, node: ClusterNode) -> None:
        """Start the process of a node, and return at once; it waits for other work of Ray there."""
        self._numbers[node.id] = 0
        self._actors[node.id] = self._actor_class.options(
            num_cpus=node.cpus,
            num_gpus=node.gpus,
            scheduling_strategy=self._pin(node.id),
            max_restarts=-1,  # the driver ends a node that dies again and again
            max_task_retries=0,
        ).remote(self._opener)

    def open_ledger(self, nodes: Sequence[str]) -> RayLedger:
        """Start the ledger of the host of some nodes: on that of this process, if it is one."""
        here = self._ray.get_runtime_context().get_node_id()
        node = here if here in nodes else nodes[0]
        options = {"num_cpus": 0, "scheduling_strategy": self._pin(node)}
        ledger = RayLedger(self._ray.remote(HostLedger).options(**options).remote())
        self._actors[f"ledger {node}"] = ledger.actor
        return ledger

    def call(self, node: str, method: Method, request: object = None) -> None:
        """Ask a node to do something; it does one thing at a time."""
        self._numbers[node] += 1
        stream = (
            self._actors[node]
            .call.options(num_returns="streaming")
            .remote(self._numbers[node], method, request)
        )
        self._streams[stream] = node

    def wait(self, seconds: float) -> Sequence[tuple[str, Message]]:
        """Wait until nodes say something, or for this time; return node ids and messages."""
        if not self._streams:
            time.sleep(seconds)
            return ()
        streams = list(self._streams)
        ready, _ = self._ray.wait(streams, num_returns=1, timeout=seconds, fetch_local=False)
        if ready and len(streams) > 1:  # the others too, or the first could hold them up
            ready, _ = self._ray.wait(
                streams, num_returns=len(streams), timeout=0, fetch_local=False
            )
        return [(self._streams[stream], self._read(stream)) for stream in ready]

    def stop(self, node: str) -> None:
        """Ask a node to end what it is doing; return at once."""
        actor = self._actors.get(node)
        if actor is not None:
            actor.stop.options(concurrency_group="control").remote(self._numbers[node])

    def end(self, node: str) -> None:
        """Kill the process of a node for good."""
        actor = self._actors.pop(node, None)
        self._streams = {stream: each for stream, each in self._streams.items() if each != node}
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Kill all processes."""
        for node in list(self._actors):
            self.end(node)

    def _pin(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _read(self, stream: Any) -> Message:
        found: Message
        try:
            found = self._ray.get(next(stream))
            return found
        except StopIteration:
            found = Ended()
        except self._ray.exceptions.RayError as error:
            restarts = isinstance(error, self._ray.exceptions.ActorUnavailableError)
            node = self._streams[stream]
            gone = not restarts or node not in {each.id for each in self.list_nodes()}
            found = Died(_explain(error), gone)
        del self._streams[stream]
        return found


def _explain(error: Exception) -> str:
    """Return the line of Ray's message that says why, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [
        line for line in lines if "Error" in line or line.startswith("The actor is dead because")
    ]
    text = reasons[-1] if reasons else lines[0] if lines else type(error).__name__
    text = text.removeprefix("The actor is dead because ").split(" Some common causes")[0]
    return text if len(text) <= _MOST_REASON else f"{text[:_MOST_REASON]}..."

"""Carry messages over Ray: one actor on each node, which holds all its CPUs and GPUs.

A call streams its messages back as they come, so that what a node has said before it dies is not
lost. Ray restarts and retries nothing. Its own retries were tried on pieces of five questions: a
process that died in the third one was replaced without a word, all three were asked again, and the
joules of the first try appeared nowhere. When a node went, its actor found no other free CPU, and
its stream never ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etui.cluster.messages import Died, Ended, Message, Method, Opening
from etui.cluster.node import OPENER, NodeActor

_LABEL = "ray.io/node-id"
_MOST_REASON = 200


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the cluster."""

    id: str
    host: str
    cpus: float
    gpus: float = 0.0


class RayCarrier:
    """Carries messages to the nodes of a cluster and back; used from one thread.

    Args:
        ray: The module ``ray``, connected.
        opener: What opens a machine in the process of a node.
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

    def start(self, node: ClusterNode, opening: Opening | None = None) -> None:
        """Start the process of a node in place of an earlier one; return at once.

        It waits while other work of Ray holds the node.

        Args:
            opening: The run that it opens before its first answer.
        """
        self.end(node.id)
        self._numbers[node.id] = 0
        self._actors[node.id] = self._actor_class.options(
            num_cpus=node.cpus,
            num_gpus=node.gpus,
            label_selector={_LABEL: node.id},
            max_restarts=0,
            max_task_retries=0,
        ).remote(self._opener, opening)

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
        """Kill the process of a node."""
        actor = self._actors.pop(node, None)
        self._streams = {stream: each for stream, each in self._streams.items() if each != node}
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Kill all processes."""
        for node in list(self._actors):
            self.end(node)

    def _read(self, stream: Any) -> Message:
        found: Message
        try:
            found = self._ray.get(next(stream))
            return found
        except StopIteration:
            found = Ended()
        except self._ray.exceptions.RayError as error:
            found = Died(_explain(error))
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

"""Carry text over Ray: one actor on each node, which holds all its CPUs and GPUs.

Ray restarts and retries nothing here. A call streams its texts back as they come, so that what a
node has said before it dies is not lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from etui.cluster.actor import OPENER, NodeActor
from etui.cluster.carrier import ClusterNode, Died, Ended, Method, Report, Said

_LABEL = "ray.io/node-id"
_MOST_REASON = 200


class RayCarrier:
    """A carrier of :mod:`etui.cluster.carrier`.

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

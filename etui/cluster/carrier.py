"""Interface between the driver and what carries its text to the nodes.

Ray implements it; a test implements it with nodes of the same process that die as planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Method = Literal["describe", "open", "answer", "command"]
"""What a node can be asked to do; see :class:`etui.cluster.ray_carrier.NodeActor`."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the cluster."""

    id: str
    host: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Said:
    """A node sent a line of text."""

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A node has done what it was asked to do."""

    node: str


@dataclass(frozen=True, slots=True)
class Died:
    """The process of a node has died, or could not start."""

    node: str
    why: str  # As the carrier reports it, in one line


Report = Said | Ended | Died


class Carrier(Protocol):
    """Carries text to the nodes of a cluster and back; used from one thread."""

    def list_nodes(self) -> Sequence[ClusterNode]:
        """List the nodes that are alive now."""

    def start(self, node: ClusterNode) -> None:
        """Start the process of a node, which holds all its CPUs and GPUs; return at once.

        An earlier process of the node is ended.
        """

    def call(self, node: str, method: Method, text: str) -> None:
        """Ask a node to do something; its reports come from :meth:`wait`.

        A node does one thing at a time.
        """

    def wait(self, seconds: float) -> Sequence[Report]:
        """Wait for reports; return those that came, or none after this time."""

    def stop(self, node: str) -> None:
        """Ask a node to end what it is doing; return at once."""

    def end(self, node: str) -> None:
        """End the process of a node."""

    def close(self) -> None:
        """End all processes, and leave the cluster."""

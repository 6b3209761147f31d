"""What travels between the driver of a run and its nodes: lines of JSON, never pickled objects.

A node may run another etui, whose classes differ; text is compared by us and refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from etui.bench.sample import Sample
from etui.codec import DocumentError, from_document, to_document

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


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node says of itself before anything is loaded there."""

    host: str
    versions: Mapping[str, str | None]
    """Program -> version, as :func:`etui.cluster.open_nodes.read_versions` reads them."""
    pid: int  # Id of the process that answers


@dataclass(frozen=True, slots=True)
class Note:
    """A line about what the node does now."""

    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The node is ready; ``config`` is the document of its own configuration of the run."""

    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """Questions that the node answered together, with their joules."""

    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Wasted:
    """Work that gave no answer, as the node's own meter measured it."""

    joules: float | None
    """Joules from the start of the piece that are in none of its answers; None if unmeasured."""
    uncertainty: float | None  # Half width in joules
    kind: str | None = None  # How the energy was obtained; None if unmeasured


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a command of the node printed on its standard output."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A command of the node has ended."""

    exit_code: int
    errors: str  # The end of its standard error
    files: Mapping[str, str]  # Name -> text of the files that it wrote for the driver


@dataclass(frozen=True, slots=True)
class Failed:
    """An error of the node, which has survived it.

    Attributes:
        what, fix: As in :class:`etui.errors.EtuiError`.
    """

    what: str
    fix: str
    exit_code: int  # As in :class:`etui.errors.EtuiError`; 2 says that every node would fail


Message = Facts | Note | Opened | Answers | Wasted | Line | Finished | Failed

_KINDS: Mapping[str, type[Any]] = {
    "facts": Facts,
    "note": Note,
    "opened": Opened,
    "answers": Answers,
    "wasted": Wasted,
    "line": Line,
    "finished": Finished,
    "failed": Failed,
}


@dataclass(frozen=True, slots=True)
class Opening:
    """What a node must make ready for a bench run."""

    config: Mapping[str, Any]
    """Document of the configuration as the driver plans it, without models."""
    models: Mapping[str, str | None]
    """Model -> sha256 of its file; None where the driver does not know it."""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions that a node is to answer."""

    system: str  # Name of the arm or of the policy
    subject: str
    rows: tuple[int, ...]
    """Every row of the piece, so that the groups that are computed together stay the same."""
    done: tuple[int, ...] = ()  # Rows of it that are already answered


@dataclass(frozen=True, slots=True)
class Command:
    """An etui command that a node runs, and which of its files the driver wants."""

    words: tuple[str, ...]  # The command line behind `etui`
    collect: bool = False
    """Whether the folder that ``--out`` names is sent back; it is appended to ``words``."""


def write_message(message: Message) -> str:
    """Write a message of a node as text."""
    kind = next(name for name, each in _KINDS.items() if each is type(message))
    return json.dumps({"message": kind, **to_document(message)})


def read_message(text: str) -> Message:
    """Read a message of a node.

    Raises:
        DocumentError: It is not one; the node runs another etui.
    """
    try:
        document = json.loads(text)
        kind = _KINDS[document.pop("message")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DocumentError(f"not a message of a node: {text[:80]!r}") from error
    message: Message = from_document(kind, document, extra="ignore")
    return message


def write_request(request: Opening | Task | Command) -> str:
    """Write a request to a node as text."""
    return json.dumps(to_document(request))


def read_opening(text: str) -> Opening:
    """Read the request to open a run."""
    return from_document(Opening, json.loads(text))


def read_task(text: str) -> Task:
    """Read the request to answer a piece."""
    return from_document(Task, json.loads(text))


def read_command(text: str) -> Command:
    """Read the request to run a command."""
    return from_document(Command, json.loads(text))

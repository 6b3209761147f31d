"""What travels between the driver of a run and its nodes, pickled by Ray.

The versions are compared first: a plain dict, which every etui can read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from etui.bench.config import RunConfig
from etui.bench.sample import Sample
from etui.bench.schedule import Piece
from etui.calibration.measure import MeasuredPoint

if TYPE_CHECKING:
    from etui.cluster.host import HostShare

Method = Literal["describe", "open", "answer", "finish", "command"]
"""What a node can be asked to do; see :class:`etui.cluster.node.NodeActor`."""
Versions = dict[str, str | None]
"""Program -> version, as :func:`etui.cluster.open_nodes.read_versions` reads them; a node adds its
``host`` (:func:`etui.cluster.host.read_host_id`)."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a node must make ready for a bench run."""

    config: RunConfig  # The configuration as the driver plans it, without models
    models: Mapping[str, str | None]
    """Model -> sha256 of its file; None where the driver does not know it."""
    host: HostShare | None = None  # Set on a node that shares its host, and so the meter
    points: Mapping[str, tuple[MeasuredPoint, ...]] | None = None
    """Model -> points of its curve that this machine has measured; None measures no curves."""
    seconds: float = 0.0  # Of the answers of this machine so far, of which curves take a share


@dataclass(frozen=True, slots=True)
class Task:
    """Questions that a node is to answer."""

    piece: Piece  # With all rows, so that the groups that are computed together stay the same
    done: tuple[int, ...] = ()  # Rows of it that are already answered
    opening: Opening | None = None  # What a process opens that was restarted meanwhile


@dataclass(frozen=True, slots=True)
class Command:
    """An etui command that a node runs."""

    words: tuple[str, ...]  # The command line behind `etui`
    collect: bool = False  # Whether the files of the folder that it writes are sent back


@dataclass(frozen=True, slots=True)
class Note:
    """A line about what the node does now."""

    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The node is ready."""

    config: RunConfig  # Its own configuration of the run


@dataclass(frozen=True, slots=True)
class Answers:
    """Questions that the node answered together, with their joules."""

    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of the operating curve of a model on this node."""

    model: str
    point: MeasuredPoint
    joules: float  # Of all its repeats


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
class NodeResult:
    """How a command ended on a node."""

    exit_code: int | None  # None if the node died, was silent, or could not run it
    errors: str  # The end of its standard error, or why there is no exit code
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of the files that it wrote for the driver."""
    lines: tuple[str, ...] = ()  # What it printed; the driver collects them


@dataclass(frozen=True, slots=True)
class Failed:
    """An error of the node, which has survived it; fields as of :class:`etui.errors.EtuiError`."""

    what: str
    fix: str
    exit_code: int  # 2 says that every node would fail


@dataclass(frozen=True, slots=True)
class Ended:
    """The node has done what it was asked to do."""


@dataclass(frozen=True, slots=True)
class Died:
    """The process of the node has died, or could not start; Ray restarts it if the node lives."""

    why: str  # As Ray reports it, in one line
    gone: bool = False  # Whether Ray does not restart it


Message = (
    Versions | Note | Opened | Answers | CurvePoint | Wasted | Line | NodeResult | Failed
    | Ended | Died
)  # fmt: skip

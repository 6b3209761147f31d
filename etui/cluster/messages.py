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
from etui.calibration.grid import Grid
from etui.calibration.measure import MeasuredPoint
from etui.curves.operating_curve import OperatingCurve
from etui.measure.progress import Progress
from etui.sweep.config import SweepConfig

if TYPE_CHECKING:
    from etui.cluster.host import HostShare

Method = Literal["describe", "open", "answer", "finish", "measure"]
"""What a node can be asked to do; see :class:`etui.cluster.node.NodeActor`."""
Versions = dict[str, str | None]
"""Program -> version, as :func:`etui.cluster.open_nodes.read_versions` reads them; a node adds its
``host`` (:func:`etui.cluster.host.read_host_id`)."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a node must make ready for a bench run."""

    config: RunConfig  # The configuration as the driver plans it, without models
    models: Mapping[str, str | None]  # Model -> sha256 of its file; None if unknown
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
class Measurement:
    """A calibration or a sweep that a node makes of itself."""

    model: str | None  # The model, which is pulled if it is missing; None for the arm of a policy
    asked: Grid | SweepConfig  # Lengths of a calibration, or what a sweep compares
    force: bool  # Measure even if other programs use the machine
    fresh: bool  # Start over, instead of resuming an interrupted one


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it; the node has it in its own log and folders too."""

    complete: bool  # False if it was interrupted
    curve: OperatingCurve | None = None  # Of a calibration
    folder: str = ""  # Name of the folder of a sweep
    files: Mapping[str, bytes] = field(default_factory=dict)  # The files in it


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
    Versions
    | Progress  # A step, or a line about what the node does now
    | RunConfig  # The node is open: its own configuration of the run
    | Answers
    | CurvePoint
    | Wasted
    | Measured
    | Failed
    | Ended
    | Died
)

"""The points that a calibration has measured so far, so that an interrupted one can resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etui.calibration.grid import Grid, Length, Visit
from etui.calibration.measure import MeasuredPoint
from etui.codec import from_document, to_document
from etui.config.config import Config
from etui.curves.fit import TurnPoint
from etui.curves.measured_under import Conditions
from etui.energy.types import Kind
from etui.errors import EtuiError


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the file; the point has the tokens of its visit, so they are stored once."""

    held_out: bool
    point: TurnPoint
    kind: Kind | None
    shared: bool


class PointsFile:
    """The points of one calibration, a line each, in ``ETUI_HOME/calibrations``.

    The first line identifies the model file, the grid and the conditions; points of another grid
    or under other conditions are discarded.

    Args:
        grid: The requested lengths.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        sha256: str | None,
        grid: Grid,
        conditions: Conditions,
    ) -> None:
        self.path: Path = config.home / "calibrations" / f"{model}.jsonl"
        self._head = json.dumps(
            to_document({"sha256": sha256, "grid": grid, "conditions": conditions})
        )

    def read(self, order: Sequence[Visit]) -> list[MeasuredPoint]:
        """Read the points of the first visits of ``order``; empty where the file does not match."""
        try:
            head, *lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError, ValueError):
            return []
        if head != self._head:
            return []
        points: list[MeasuredPoint] = []
        for line, visit in zip(lines, order, strict=False):
            try:
                point = parse_line(json.loads(line))
            except ValueError:
                break  # the last line is incomplete
            if point.visit != visit:
                break
            points.append(point)
        return points

    def write(self, points: Sequence[MeasuredPoint]) -> None:
        """Replace the file by these points.

        Raises:
            EtuiError: The file cannot be written.
        """
        lines = [self._head, *(json.dumps(build_line(point)) for point in points)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            what = f"cannot write {self.path}: {error.strerror or error}"
            raise EtuiError(what, "make the folder writable, or set ETUI_HOME") from error

    def add(self, point: MeasuredPoint) -> None:
        """Append a point; ignore a full disk, which only prevents a later resume."""
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(build_line(point)) + "\n")

    def remove(self) -> None:
        """Remove the file of a finished calibration."""
        with suppress(OSError):
            self.path.unlink()


def build_line(measured: MeasuredPoint) -> Any:
    """Return the document of a measured point; the visit's tokens are those of its point."""
    line = _Line(measured.visit.held_out, measured.point, measured.kind, measured.shared)
    return to_document(line)


def parse_line(document: object) -> MeasuredPoint:
    """Parse the document that :func:`build_line` returns.

    Raises:
        DocumentError: The document is not a measured point.
    """
    line = from_document(_Line, document)
    length = Length(line.point.computed_tokens, line.point.output_tokens)
    return MeasuredPoint(Visit(length, line.held_out), line.point, line.kind, line.shared)

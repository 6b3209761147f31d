"""What a calibration has measured so far, so that one that was stopped can go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etui.calibration.grid import Grid, Length, Visit
from etui.calibration.measure import MeasuredPoint
from etui.config.config import Config
from etui.curves.fit import TurnPoint
from etui.curves.measured_under import Conditions
from etui.energy.types import Kind
from etui.errors import EtuiError
from etui.text.codec import from_document, to_document


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the file; its length is that of the point, so it is not kept twice."""

    held_out: bool
    point: TurnPoint
    kind: Kind | None
    shared: bool


class PointsFile:
    """One calibration's points, a line each, in ``ETUI_HOME/calibrations``.

    A first line says what they were measured with; points of another grid or under other
    conditions are begun anew.

    Args:
        config: Whose folder.
        model, sha256: Whose points.
        grid: The lengths asked for.
        conditions: What the points hold for.
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
        """The points of the first visits of ``order``; none where they are not of this kind."""
        try:
            head, *lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError, ValueError):
            return []
        if head != self._head:
            return []
        points: list[MeasuredPoint] = []
        for line, visit in zip(lines, order, strict=False):
            try:
                point = _measured(from_document(_Line, json.loads(line)))
            except ValueError:
                break  # the last line was cut off
            if point.visit != visit:
                break
            points.append(point)
        return points

    def write(self, points: Sequence[MeasuredPoint]) -> None:
        """Keep these points and no others.

        Raises:
            EtuiError: The file cannot be written.
        """
        lines = [self._head, *(json.dumps(_line(point)) for point in points)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            what = f"cannot write {self.path}: {error.strerror or error}"
            raise EtuiError(what, "make the folder writable, or set ETUI_HOME") from error

    def add(self, point: MeasuredPoint) -> None:
        """Keep one more; a disk that is full costs the resuming, not the calibration."""
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_line(point)) + "\n")

    def remove(self) -> None:
        """The calibration is done."""
        with suppress(OSError):
            self.path.unlink()


def _line(measured: MeasuredPoint) -> Any:
    line = _Line(measured.visit.held_out, measured.point, measured.kind, measured.shared)
    return to_document(line)


def _measured(line: _Line) -> MeasuredPoint:
    length = Length(line.point.computed_tokens, line.point.output_tokens)
    return MeasuredPoint(Visit(length, line.held_out), line.point, line.kind, line.shared)

"""The points of operating curves in a run folder: ``curves.jsonl``, a line for each visit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from etui.bench.folder import CURVES
from etui.calibration.measure import MeasuredPoint
from etui.codec import from_document, to_document
from etui.errors import EtuiError
from etui.measure.folder import append_line, read_lines


def read_curve_points(
    folder: Path, machines: Collection[str] | None = None
) -> dict[str, tuple[MeasuredPoint, ...]]:
    """Read the points that a run has measured so far.

    Args:
        machines: Keys of the machines whose points are read; None is all.

    Returns:
        Model -> its points in the order of their measurement; empty without a file. A last line
        that was cut off is left out.

    Raises:
        InvalidFile: The file is unreadable, or a line of it is not a point.
    """
    found: dict[str, list[MeasuredPoint]] = {}
    for model, machine, point in _read(folder / CURVES):
        if machines is None or machine in machines:
            found.setdefault(model, []).append(point)
    return {model: tuple(points) for model, points in found.items()}


def append_curve_point(folder: Path, model: str, machine: str | None, point: MeasuredPoint) -> None:
    """Append a point and wait until it is on the disk; a line that was cut off is dropped first.

    Args:
        machine: Key of the machine that measured it; None for the only machine of a run.

    Raises:
        EtuiError: The file cannot be written.
    """
    path = folder / CURVES
    document = {"model": model, "machine": machine, **to_document(point)}
    try:
        append_line(path, document)
    except OSError as error:
        raise EtuiError(
            f"cannot write {path}: {error.strerror or error}",
            "make room or make the folder writable, and resume the run",
        ) from error


def _read(path: Path) -> tuple[tuple[str, str | None, MeasuredPoint], ...]:
    fix = "the file was changed outside etui; remove the line"
    return read_lines(path, _parse_point, "a valid point of a curve", fix).values


def _parse_point(document: Mapping[str, Any]) -> tuple[str, str | None, MeasuredPoint]:
    rest = {key: value for key, value in document.items() if key not in ("model", "machine")}
    return str(document["model"]), document.get("machine"), from_document(MeasuredPoint, rest)

"""The points of operating curves in a run folder: ``curves.jsonl``, a line for each visit."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from etui.bench.store.run_folder import CURVES
from etui.bench.store.sealed_folder import append_whole
from etui.calibration.checkpoint import build_line, parse_line
from etui.calibration.measure import MeasuredPoint
from etui.errors import EtuiError, InvalidFile


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
    for model, machine, point in _read_lines(folder / CURVES):
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
    document = {"model": model, "machine": machine, **build_line(point)}
    try:
        with path.open("a+b", buffering=0) as file:
            _drop_partial_line(file)
            append_whole(file, json.dumps(document).encode() + b"\n", sync=True)
    except OSError as error:
        raise EtuiError(
            f"cannot write {path}: {error.strerror or error}",
            "make room or make the folder writable, and resume the run",
        ) from error


def _drop_partial_line(file: Any) -> None:
    file.seek(0)
    whole = file.read()
    if whole and not whole.endswith(b"\n"):
        file.truncate(whole.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)


def _read_lines(path: Path) -> list[tuple[str, str | None, MeasuredPoint]]:
    try:
        raw = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error
    found: list[tuple[str, str | None, MeasuredPoint]] = []
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # cut off while it was written
        try:
            document = json.loads(line)
            found.append(_parse_point(document))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFile(
                f"{path}:{number}: not a valid point of a curve: {error}",
                "the file was changed outside etui; remove the line",
            ) from error
    return found


def _parse_point(document: Mapping[str, Any]) -> tuple[str, str | None, MeasuredPoint]:
    rest = {key: value for key, value in document.items() if key not in ("model", "machine")}
    return str(document["model"]), document.get("machine"), parse_line(rest)

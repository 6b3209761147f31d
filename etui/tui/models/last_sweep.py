"""The newest sweep of each model, from the results in ``ETUI_HOME/sweeps``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etui.codec import from_document
from etui.sweep.folder import REPORT, RESULT


@dataclass(frozen=True, slots=True)
class LastSweep:
    """The newest sweep of a model."""

    id: str
    folder: Path
    created: str  # When it began, ISO 8601
    verdict: str  # Its result in one sentence
    is_complete: bool
    is_better: bool  # Whether it found a setting that beats the one in use then beyond doubt
    has_report: bool  # Whether there is a report to open in a browser

    @property
    def report(self) -> Path:
        """The report, a page for a browser."""
        return self.folder / REPORT


@dataclass(frozen=True, slots=True)
class _Result:
    """The part of ``result.json`` that is needed."""

    id: str
    created: str
    model: str
    verdict: str
    is_complete: bool
    baseline: str
    best: str | None
    is_best_claimed: bool = True


class SweepResults:
    """Reads the results; those of unchanged files are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[Path, int], _Result | None] = {}

    def find_last(self) -> Mapping[str, LastSweep]:
        """Return the newest sweep of each model; a result that cannot be read is left out."""
        found: dict[str, LastSweep] = {}
        read: dict[tuple[Path, int], _Result | None] = {}
        for path in sorted(self._folder.glob(f"*/{RESULT}")):  # names begin with the time
            try:
                key = (path, path.stat().st_mtime_ns)
            except OSError:
                continue
            read[key] = result = self._read[key] if key in self._read else _read_result(path)
            if result is not None:
                found[result.model] = _build_sweep(path.parent, result)
        self._read = read
        return found


def _build_sweep(folder: Path, result: _Result) -> LastSweep:
    return LastSweep(
        id=result.id,
        folder=folder,
        created=result.created,
        verdict=result.verdict,
        is_complete=result.is_complete,
        is_better=result.is_complete
        and result.best not in (None, result.baseline)
        and result.is_best_claimed,
        has_report=(folder / REPORT).is_file(),
    )


def _read_result(path: Path) -> _Result | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return from_document(_Result, document, extra="ignore")
    except (OSError, ValueError):
        return None

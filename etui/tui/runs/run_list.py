"""The bench runs of this machine as the runs screen lists them, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etui.bench.analysis.summary import ArmSummary, Summary
from etui.bench.analysis.summary_text import ends, headline
from etui.plots.terminal import ArmPoint
from etui.text.codec import from_document


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run folder.

    Attributes:
        name: Name of the folder.
        folder: Where it lies.
        summary: What ``summary.json`` holds; None where it is not there or cannot be read.
        why: Why there is no summary; empty with one.
    """

    name: str
    folder: Path
    summary: Summary | None
    why: str = ""

    @property
    def report(self) -> Path:
        """The HTML report, which may be missing."""
        return self.folder / "report.html"

    @property
    def headline(self) -> str:
        """How it came out, one line an arm."""
        return self.why if self.summary is None else headline(self.summary)

    @property
    def kind(self) -> str | None:
        """How its joules are known; an estimate where any of them is one."""
        kinds = {arm.energy.kind for arm in self._arms.values() if arm.energy}
        return "estimate" if "estimate" in kinds else next(iter(kinds), None)

    @property
    def points(self) -> dict[str, ArmPoint]:
        """Its arms on the plane of joules and accuracy; those without joules are left out."""
        return {
            name: ArmPoint(
                arm.energy.per_question.value,
                arm.accuracy.micro.value,
                *ends(arm.accuracy.micro),
            )
            for name, arm in self._arms.items()
            if arm.energy
        }

    @property
    def _arms(self) -> Mapping[str, ArmSummary]:
        return {} if self.summary is None else self.summary.arms


def runs_in(folder: Path) -> list[RunEntry]:
    """Every run folder below ``folder``, the last one started first."""
    if not folder.is_dir():
        return []
    found = [_run(path) for path in folder.iterdir() if (path / "config.json").is_file()]
    return sorted(found, key=_started, reverse=True)


def _started(run: RunEntry) -> tuple[str, str]:
    return ("" if run.summary is None else run.summary.started_at, run.name)


def _run(folder: Path) -> RunEntry:
    try:
        document = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        summary = from_document(Summary, document, extra="ignore")
        run = RunEntry(folder.name, folder, summary)
        _ = run.headline, run.points  # asked for once, so that damage is not found while drawing
    except FileNotFoundError:
        return RunEntry(folder.name, folder, None, "not finished: it has no summary yet")
    except (OSError, ValueError, KeyError) as error:
        return RunEntry(folder.name, folder, None, f"its summary.json cannot be read: {error}")
    return run

"""Read the bench runs of this machine from their folders, for the runs screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etui.bench.summary import ArmSummary, Summary
from etui.bench.summary_text import ends, headline
from etui.codec import from_document
from etui.plots.terminal import ArmPoint


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run folder."""

    name: str
    folder: Path
    summary: Summary | None  # Content of `summary.json`; None if it is missing or cannot be read
    why: str = ""  # Why there is no summary; empty if there is one
    models: tuple[str, ...] = ()  # Models of its arms, in the order of the arms

    @property
    def report(self) -> Path:
        """Path of the HTML report, which may not exist."""
        return self.folder / "report.html"

    @property
    def headline(self) -> str:
        """The results, one line for each arm."""
        return self.why if self.summary is None else headline(self.summary)

    @property
    def kind(self) -> str | None:
        """Kind of its joules: ``estimate`` if any of them is one."""
        kinds = {arm.energy.kind for arm in self._arms.values() if arm.energy}
        return "estimate" if "estimate" in kinds else next(iter(kinds), None)

    @property
    def points(self) -> dict[str, ArmPoint]:
        """Its arms by joules and accuracy; arms without joules are left out."""
        return {
            name: ArmPoint(
                arm.energy.per_question.value,
                arm.accuracy.micro.value,
                *ends(arm.accuracy.micro),
                arm.energy.per_question.low,
                arm.energy.per_question.high,
            )
            for name, arm in self._arms.items()
            if arm.energy
        }

    @property
    def _arms(self) -> Mapping[str, ArmSummary]:
        return {} if self.summary is None else self.summary.arms


def list_runs(folder: Path) -> list[RunEntry]:
    """List the run folders in ``folder``, the one started last first."""
    if not folder.is_dir():
        return []
    runs = [_read_run(path) for path in folder.iterdir() if (path / "config.json").is_file()]
    return sorted(runs, key=_start_key, reverse=True)


def _start_key(run: RunEntry) -> tuple[str, str]:
    return ("" if run.summary is None else run.summary.started_at, run.name)


def _read_models(folder: Path) -> tuple[str, ...]:
    """Read the models from ``config.json``; none if it cannot be read."""
    try:
        arms = json.loads((folder / "config.json").read_text(encoding="utf-8"))["arms"].values()
        return tuple(dict.fromkeys(str(arm["model"]) for arm in arms))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _read_run(folder: Path) -> RunEntry:
    models = _read_models(folder)
    try:
        document = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        summary = from_document(Summary, document, extra="ignore")
        run = RunEntry(folder.name, folder, summary, models=models)
        _ = run.headline, run.points  # so that a damaged summary fails here, not while drawing
    except FileNotFoundError:
        return RunEntry(folder.name, folder, None, "not finished: no summary yet", models)
    except (OSError, ValueError, KeyError) as error:
        why = f"summary.json cannot be read: {error}"
        return RunEntry(folder.name, folder, None, why, models)
    return run

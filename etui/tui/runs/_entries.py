"""Rows of the runs screen: run folders, sweeps, and what was measured in this session."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from etui import units
from etui.bench import summary_text
from etui.bench.precision import describe_precision
from etui.bench.summary import ArmSummary, Summary
from etui.codec import from_document
from etui.errors import EtuiError
from etui.plots.terminal import LABELS, ArmPoint
from etui.sweep.folder import RESULT
from etui.text import format_table, one_line
from etui.tui.jobs import AppJob
from etui.tui.measurements import SweepResult
from etui.tui.widgets.tables import TableColumn

READ_AGAIN = "fix it, then press r to read again"


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run, a sweep or a calibration: of the first two their folder."""

    name: str
    folder: Path | None
    summary: Summary | None  # Content of `summary.json`; None if it is missing or cannot be read
    why: str = ""  # Why there is no summary, or the result; empty if there is a summary
    models: tuple[str, ...] = ()  # Models of its arms, in the order of the arms
    suite: str = ""  # What was asked; ``sweep`` or ``calibration`` for the others
    started_at: str = ""  # ISO 8601
    is_run: bool = True

    @property
    def report(self) -> Path | None:
        return None if self.folder is None else self.folder / "report.html"

    @property
    def can_continue(self) -> bool:
        """Whether questions of it are left."""
        return self.is_run and (self.summary is None or not self.summary.complete)

    @property
    def verdict(self) -> str:
        """What its most right answers are worth, or its result in words."""
        arm = self.best
        if self.summary is None or arm is None:
            return self.why
        return summary_text.guess_verdict(arm, self.summary.chance)

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
                *summary_text.ends(arm.accuracy.micro),
                arm.energy.per_question.low,
                arm.energy.per_question.high,
            )
            for name, arm in self._arms.items()
            if arm.energy
        }

    @property
    def best(self) -> ArmSummary | None:
        """The arm with the most right answers; None without a summary or an arm."""
        best = None if self.summary is None else summary_text.find_best(self.summary)
        return None if best is None else best[1]

    @property
    def figures(self) -> dict[str, float | None]:
        """The numbers to sort by, by column: those of the best arm; None if not known."""
        arm = self.best
        energy = None if arm is None else arm.energy
        per_token = None if energy is None else energy.per_output_token
        return {
            "when": _start_key(self)[0] or None,
            "questions": None if self.summary is None else float(self.summary.questions),
            "best": None if arm is None else arm.accuracy.micro.value,
            "interval": None if arm is None else arm.accuracy.micro.low,
            "chance": None if self.summary is None else self.summary.chance,
            "joules": None if energy is None else energy.per_question.value,
            "per_token": None if per_token is None else per_token.value,
        }

    @property
    def _arms(self) -> Mapping[str, ArmSummary]:
        return {} if self.summary is None else self.summary.arms


def list_runs(folder: Path, sweeps: Path, jobs: Iterable[AppJob] = ()) -> list[RunEntry]:
    """List run folders, sweeps and the calibrations of this session, the newest first."""
    found = [_build_job_entry(job) for job in jobs if job.kind == "calibration"]
    for place, name, read in ((folder, "config.json", _read_run), (sweeps, RESULT, _read_sweep)):
        try:
            if place.is_dir():
                found += [read(path) for path in place.iterdir() if (path / name).is_file()]
        except OSError as error:
            what = f"cannot read {place}: {error.strerror or error}"
            raise EtuiError(what, READ_AGAIN) from error
    return sorted(found, key=_start_key, reverse=True)


def _start_key(run: RunEntry) -> tuple[float, str]:
    moment = _parse_moment(run.started_at)
    return (0.0 if moment is None else moment.timestamp(), run.name)


def _parse_moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def _build_job_entry(job: AppJob) -> RunEntry:
    result = job.outcome or job.progress.text
    name, began = f"calibration of {job.subject}", job.began.isoformat()
    return RunEntry(name, None, None, result, (job.subject,), job.kind, began, is_run=False)


def _read_sweep(folder: Path) -> RunEntry:
    try:
        document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        found = from_document(SweepResult, document, extra="ignore")
    except (OSError, ValueError) as error:
        why = f"{RESULT} cannot be read: {error}"
        return RunEntry(folder.name, folder, None, why, suite="sweep", is_run=False)
    why, models = found.verdict, (found.model,)
    return RunEntry(folder.name, folder, None, why, models, "sweep", found.created, is_run=False)


def _read_config(folder: Path) -> RunEntry:
    """Read what ``config.json`` says of a run; nothing if it cannot be read."""
    run = RunEntry(folder.name, folder, None)
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        models = dict.fromkeys(str(arm["model"]) for arm in config["arms"].values())
        return replace(
            run, models=tuple(models), suite=str(config["suite"]),
            started_at=str(config["started_at"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return run


def _read_run(folder: Path) -> RunEntry:
    run = _read_config(folder)
    try:
        document = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        run = replace(run, summary=from_document(Summary, document, extra="ignore"))
        _ = (
            arm_lines(run, 80),
            run.points,
        )  # so that a damaged summary fails here, not while drawing
    except FileNotFoundError:
        return replace(run, why="not finished")
    except (OSError, ValueError, KeyError) as error:
        return replace(run, summary=None, why=f"summary.json cannot be read: {error}")
    return run


COLUMNS = (
    TableColumn("when", "WHEN", 1, 12),
    TableColumn("suite", "SUITE", 0, 24, least=7),
    TableColumn("model", "MODEL", 6, 28, least=10),
    TableColumn("questions", "QUESTIONS", 4, 20, right=True),
    TableColumn("best", "RIGHT", 2, 9, right=True),
    TableColumn("interval", "95 % RANGE", 7, 12, right=True),
    TableColumn("chance", "GUESSING", 8, 9, right=True),
    TableColumn("joules", "J/QUESTION", 3, 14, right=True),
    TableColumn("verdict", "VERDICT", 5, 60, least=20, enough=23),
    TableColumn("per_token", "J/OUT TOKEN", 9, 14, right=True),
    TableColumn("run", "NAME", 10, 40, least=12),
)
"""Accuracy, joules and verdict are those of the arm with the most right answers."""


def run_texts(run: RunEntry) -> dict[str, str]:
    """Format a run by column; a run without a summary says why."""
    summary, arm, figures = run.summary, run.best, run.figures
    moment = _parse_moment(run.started_at)
    texts = {column.key: "" for column in COLUMNS} | {
        "run": one_line(run.name),
        "when": "" if moment is None else f"{moment:%d %b %H:%M}",
        "suite": one_line(run.suite),
        "model": one_line(", ".join(run.models)),
        "verdict": one_line(run.verdict),
    }
    if summary is None:
        return texts
    if (best := summary_text.find_best(summary)) is not None and len(summary.arms) > 1:
        texts["verdict"] = one_line(f"{run.verdict} ({best[0]})")
    answered = 0 if arm is None else arm.accuracy.questions
    stopped = "" if summary.complete else f"{answered:,} of "
    texts["questions"] = f"{stopped}{summary.questions:,}"
    if arm is not None:
        kind = arm.energy.kind if arm.energy is not None else None
        shown = kind if kind == units.ESTIMATE else None
        texts["best"] = units.accuracy_text(arm.accuracy.micro.value)
        texts["interval"] = summary_text.interval_text(arm.accuracy.micro)
        texts["chance"] = units.accuracy_text(summary.chance) if summary.chance else ""
        texts["joules"] = units.short_energy_text(figures["joules"], shown)
        if figures["per_token"] is not None:
            texts["per_token"] = units.short_energy_text(figures["per_token"], shown)
    return texts


def arm_lines(run: RunEntry, width: int) -> list[str]:
    """Format one row for each arm below a heading, with its letter in the plot.

    What has no room is left out from the right.
    """
    if run.summary is None:
        return [run.why]
    summary = run.summary
    head: tuple[str, ...] = ("", "ARM", "RIGHT", "95 % RANGE", "VERDICT", "J/QUESTION",
                             "J/RIGHT ANSWER", "NO ANSWER (WRONG)")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for label, (name, arm) in zip_longest(LABELS[: len(summary.arms)], summary.arms.items()):
        cost, right, lost = arm.energy, arm.accuracy.micro, summary_text.count_lost(arm.accuracy)
        kind = None if cost is None or cost.kind != units.ESTIMATE else cost.kind
        costs = [None] * 2 if cost is None else [cost.per_question, cost.per_correct]
        each, correct = (units.short_energy_text(c.value if c else None, kind) for c in costs)
        interval = summary_text.interval_text(right)
        verdict = summary_text.guess_verdict(arm, summary.chance)
        rows.append((label or "", one_line(name), units.accuracy_text(right.value), interval,
                     verdict, each, correct, f"{lost:,}"))  # fmt: skip
    lines = format_table(rows, header=head, align="<<>><>>>")
    while max(map(len, lines)) > width and len(head) > 3:
        head, rows = head[:-1], [row[:-1] for row in rows]
        lines = format_table(rows, header=head, align="<<>><>>>"[: len(head)])
    chance = f", guessing gets {units.accuracy_text(summary.chance)}" if summary.chance else ""
    shots = f", {summary.shots} worked examples in each prompt" if summary.shots else ""
    count = units.count_text(summary.questions, "question")
    precision = [] if summary.precision is None else describe_precision(summary.precision)
    return [f"{summary_text.suite_name(summary)}: {count}{chance}{shots}", "", *lines, *precision]


def sort_runs(runs: Sequence[RunEntry], key: str, descending: bool) -> list[RunEntry]:
    """Sort runs by a column; those without a value come last in either direction."""

    def value(run: RunEntry) -> float | str | None:
        figures = run.figures
        return figures[key] if key in figures else run_texts(run)[key].casefold() or None

    known = [(found, run) for run in runs if (found := value(run)) is not None]
    ordered = sorted(known, key=lambda pair: pair[0], reverse=descending)
    return [run for _, run in ordered] + [run for run in runs if value(run) is None]


ASCENDING = frozenset({"run", "suite", "model", "verdict", "joules", "per_token"})
"""Columns of which the lowest value comes first when they are chosen."""

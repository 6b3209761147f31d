"""Columns of the table of runs, the cells of one run, and their order."""

from __future__ import annotations

from collections.abc import Sequence

from etui import units
from etui.bench.analysis.summary import ArmSummary
from etui.text.tables import one_line
from etui.tui.runs.run_list import RunEntry
from etui.tui.widgets.columns import TableColumn

COLUMNS = (
    TableColumn("run", "RUN", 0, 40, least=12),
    TableColumn("what", "WHAT", 4, 44, least=12),
    TableColumn("questions", "QUESTIONS", 5, 18, right=True),
    TableColumn("best", "BEST", 1, 9, right=True),
    TableColumn("model", "MODEL", 3, 28, least=8),
    TableColumn("joules", "J/QUESTION", 2, 14, right=True),
    TableColumn("per_token", "J/TOKEN", 6, 14, right=True),
)
"""The accuracy and the joules are those of the arm with the most right answers."""


def run_texts(run: RunEntry) -> dict[str, str]:
    """Format a run by column; a run without a summary says why."""
    summary, arm = run.summary, best_arm(run)
    texts = {column.key: "" for column in COLUMNS} | {"run": one_line(run.name)}
    texts["model"] = one_line(", ".join(run.models))
    if summary is None:
        return texts | {"what": one_line(run.why)}
    setup = f"{summary.suite} {summary.format} {summary.shots}-shot"
    texts["what"] = f"{setup}, {units.count_text(len(summary.arms), 'arm')}"
    texts["questions"] = f"{summary.questions:,}{'' if summary.complete else ' (stopped)'}"
    if arm is not None:
        kind = arm.energy.kind if arm.energy is not None else None
        shown = kind if kind == units.ESTIMATE else None
        texts["best"] = units.accuracy_text(arm.accuracy.micro.value)
        texts["joules"] = units.short_energy_text(joules_per_question(run), shown)
        texts["per_token"] = units.short_energy_text(joules_per_token(run), shown)
    return texts


def best_arm(run: RunEntry) -> ArmSummary | None:
    """Return the arm with the most right answers; None without a summary or an arm."""
    arms = [] if run.summary is None else list(run.summary.arms.values())
    return max(arms, key=lambda arm: arm.accuracy.micro.value, default=None)


def joules_per_question(run: RunEntry) -> float | None:
    """Return the joules per question of the best arm; None if they are not known."""
    arm = best_arm(run)
    return None if arm is None or arm.energy is None else arm.energy.per_question.value


def joules_per_token(run: RunEntry) -> float | None:
    """Return the joules per output token of the best arm; None if they are not known."""
    arm = best_arm(run)
    figure = None if arm is None or arm.energy is None else arm.energy.per_output_token
    return None if figure is None else figure.value


def sort_runs(runs: Sequence[RunEntry], key: str, descending: bool) -> list[RunEntry]:
    """Sort runs by a column; those without a value come last in either direction.

    Args:
        runs: The runs, the one started last first: their order among equals.
        descending: Whether the highest value comes first.
    """

    def value(run: RunEntry) -> float | str | None:
        match key:
            case "best":
                arm = best_arm(run)
                return None if arm is None else arm.accuracy.micro.value
            case "joules":
                return joules_per_question(run)
            case "per_token":
                return joules_per_token(run)
            case "questions":
                return None if run.summary is None else float(run.summary.questions)
        return run_texts(run)[key].casefold() or None

    known = [(found, run) for run in runs if (found := value(run)) is not None]
    ordered = sorted(known, key=lambda pair: pair[0], reverse=descending)
    return [run for _, run in ordered] + [run for run in runs if value(run) is None]

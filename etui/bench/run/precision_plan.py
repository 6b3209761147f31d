"""Plan of a run that stops at a precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from etui.bench.run.plan import RunPlan
from etui.bench.store.difficulty_table import DifficultyTable, read_difficulty
from etui.bench.store.parts import BLOCK
from etui.bench.store.run_config import BenchPrecision, RunConfig
from etui.errors import InvalidFile, UsageError


@dataclass(frozen=True, slots=True)
class PrecisionRequest:
    """What the command line asks for."""

    points: float  # Half width in percentage points, above 0 and below 50
    of: Literal["accuracy", "difference"] | None = None
    """Whose half width; None is that of the accuracies."""
    difficulty: Path | None = None  # File with the difficulties of the questions; None without


def add_precision(
    plan: RunPlan, request: PrecisionRequest, say: Callable[[str], None] = lambda text: None
) -> RunPlan:
    """Make a plan stop at a precision.

    Args:
        say: Receives notes about the table of difficulties.

    Raises:
        UsageError: The plan cannot stop at a precision, or the difficulties are those of other data
            or of a model that is measured.
        InvalidFile: The table of difficulties is invalid.
    """
    of = request.of or "accuracy"
    _check_plan(plan, of)
    table = None if request.difficulty is None else read_difficulty(request.difficulty)
    if table is not None:
        _check_table(plan, table, str(request.difficulty), say)
    every_few = plan.format.generates and not (plan.reuse and plan.shots) and len(plan.models) == 1
    return replace(
        plan,
        order="balanced",
        block=BLOCK if every_few else None,
        precision=BenchPrecision(request.points, of, table.sha256 if table is not None else None),
        difficulty=table,
    )


def restore_difficulty(plan: RunPlan, run: RunConfig, copy: Path) -> RunPlan:
    """Put the table of difficulties of a run back into its plan.

    Raises:
        InvalidFile: The copy is missing, or differs from the table that the run was started with.
    """
    if run.precision is None or run.precision.difficulty_sha256 is None:
        return plan
    table = read_difficulty(copy) if copy.is_file() else None
    if table is None or table.sha256 != run.precision.difficulty_sha256:
        what = "is missing" if table is None else "differs from the one the run was started with"
        raise InvalidFile(
            f"{copy}: the table of difficulties {what}", "restore it, or start a new run"
        )
    return replace(plan, difficulty=table)


def _check_plan(plan: RunPlan, of: str) -> None:
    if plan.per_subject is not None:
        raise UsageError(
            "--precision cannot be combined with --per-subject: its questions are in proportion to "
            "the sizes of the subjects",
            "use --limit for the most questions to ask",
        )
    if plan.part is not None:
        raise UsageError(
            "--precision cannot be combined with --part: the run stops by all its answers",
            "remove one of them",
        )
    if of == "difference" and len(plan.systems) < 2:
        raise UsageError(
            "--precision-of difference needs at least two systems",
            "add a --model, a --reasoning or an arm, or use --precision-of accuracy",
        )


def _check_table(
    plan: RunPlan, table: DifficultyTable, place: str, say: Callable[[str], None]
) -> None:
    if table.data_sha256 is not None and table.data_sha256 != plan.suite.sha256:
        raise UsageError(
            f"{place} was made from other data (sha256 {table.data_sha256[:12]}) than "
            f"{plan.suite.name} ({plan.suite.sha256[:12]})",
            "make it from runs of these questions: etui bench difficulty RUN... -o FILE",
        )
    keys = {(q.subject, q.row) for inside in plan.population.values() for q in inside}
    known = len(keys & table.values.keys())
    if not known:
        raise UsageError(
            f"{place} has none of the questions of {plan.suite.name}",
            "make it from runs of these questions: etui bench difficulty RUN... -o FILE",
        )
    if known < len(keys):
        say(
            f"{place} has the difficulty of {known:,} of {len(keys):,} questions; the others count "
            "like the mean of their subject"
        )


def check_sources(
    plan: RunPlan, hashes: dict[str, str | None], say: Callable[[str], None] = lambda text: None
) -> None:
    """Refuse difficulties that are made from the answers of a model that is measured.

    Args:
        hashes: Model of the run -> hash of its file; None if it is not known.
        say: Receives a note about a source of the same name of which no hash is known.

    Raises:
        UsageError: A model of the run is among the sources.
    """
    if plan.difficulty is None:
        return
    for source in plan.difficulty.sources:
        same = [name for name, sha256 in hashes.items() if sha256 and sha256 == source.sha256]
        if same:
            raise UsageError(
                f"the difficulties are made from answers of {same[0]} itself ({source.source}): "
                "its accuracy would be that of the earlier answers",
                "make the table from runs of other models",
            )
        if source.sha256 is None and source.name in hashes:
            say(
                f"the difficulties are made from answers of a model called {source.name} "
                f"({source.source}); if it is the one measured here, its interval is worth less"
            )

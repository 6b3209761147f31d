"""Rank public runs: lists of what is comparable, in each the arms by joules per right answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.bench.publish.public_run import PublicArm, PublicRun
from etui.units import ESTIMATE

Standing = Literal["measured", "estimate", "unranked"]
"""``measured``: ranked; ``estimate``: no sensor, ranked apart; ``unranked``: not comparable."""


@dataclass(frozen=True, slots=True)
class Question:
    """What runs of one list have in common.

    Attributes:
        format, format_version, shots: How they were asked.
    """

    suite: str
    split: str
    data_sha256: str
    format: str
    format_version: int
    shots: int
    selection: str  # How the questions were drawn


@dataclass(frozen=True, slots=True)
class RankedArm:
    """A row of a list.

    Attributes:
        best, worst: The ranks that its interval allows; None if unranked.
    """

    run: PublicRun
    arm: PublicArm
    standing: Standing
    rank: int | None  # Its rank, from 1; None if unranked
    best: int | None
    worst: int | None
    why: str  # Why it is unranked; empty if it is ranked


@dataclass(frozen=True, slots=True)
class RankedList:
    """One list: what it is about, and its rows, ranked ones first."""

    question: Question
    rows: tuple[RankedArm, ...]


def rank_runs(runs: Iterable[PublicRun]) -> tuple[RankedList, ...]:
    """Rank the arms of runs.

    Only runs of the same data, format, shots and selection are in one list. Within it, measured
    joules are ranked; estimates are ranked apart, since their error is the same for all answers and
    may be larger than any difference.
    """
    lists: dict[Question, list[tuple[PublicRun, PublicArm]]] = {}
    for run in runs:
        lists.setdefault(_question_of(run), []).extend((run, arm) for arm in run.arms)
    ordered = sorted(lists, key=lambda q: (q.suite, q.split, q.format, q.shots, q.selection))
    return tuple(RankedList(question, _rank(lists[question])) for question in ordered)


def _question_of(run: PublicRun) -> Question:
    return Question(
        run.suite,
        run.split,
        run.data_sha256,
        run.format,
        run.format_version,
        run.shots,
        run.selection,
    )


def _rank(entries: Sequence[tuple[PublicRun, PublicArm]]) -> tuple[RankedArm, ...]:
    rows: list[RankedArm] = []
    by_standing: dict[Standing, list[tuple[PublicRun, PublicArm]]] = {
        "measured": [],
        "estimate": [],
    }
    unranked = []
    for run, arm in entries:
        why = _explain_unranked(run, arm)
        if why:
            unranked.append(RankedArm(run, arm, "unranked", None, None, None, why))
        else:
            by_standing["estimate" if arm.kind == ESTIMATE else "measured"].append((run, arm))
    for standing, inside in by_standing.items():
        inside.sort(key=lambda entry: (_value(entry[1]), entry[0].place, entry[1].name))
        arms = [arm for _, arm in inside]
        for at, (run, arm) in enumerate(inside):
            best = 1 + sum(_high(other) < _low(arm) for other in arms)
            worst = len(arms) - sum(_low(other) > _high(arm) for other in arms)
            rows.append(RankedArm(run, arm, standing, at + 1, best, worst, ""))
    unranked.sort(key=lambda row: (row.run.place, row.arm.name))
    return (*rows, *unranked)


def _explain_unranked(run: PublicRun, arm: PublicArm) -> str:
    if arm.by_machine:
        return "joules by machine only: the machines are not equal"
    if arm.per_question is None:
        return "joules unmeasured"
    if not run.complete:
        return "the run is unfinished"
    if arm.per_correct is None:
        return "no right answer"
    return ""


def _value(arm: PublicArm) -> float:
    return math.inf if arm.per_correct is None else arm.per_correct.value


def _low(arm: PublicArm) -> float:
    figure = arm.per_correct
    return 0.0 if figure is None or figure.low is None else figure.low


def _high(arm: PublicArm) -> float:
    figure = arm.per_correct
    return math.inf if figure is None or figure.high is None else figure.high

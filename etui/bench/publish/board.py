"""The board: one page that ranks public runs, without network and scripts of others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from etui import __version__, units
from etui.bench.publish.public_run import Bounds, PublicArm, PublicRun
from etui.bench.publish.read import Skipped
from etui.bench.report.render import read_resource, render_template
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


_PACKAGE = "etui.bench.publish"
_BENCH = "etui.bench.report"
_DASH = "–"
_SUITES = {
    "mmlu": "MMLU",
    "mmlu-pro": "MMLU-Pro",
    "arc-challenge": "ARC-Challenge",
    "gsm8k": "GSM8K",
}
_HEADINGS = {
    "measured": "Measured",
    "estimate": "Estimates, ranked apart: no sensor was read",
    "unranked": "Not ranked",
}


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A row of a list, as texts.

    ``order`` are the values by which the columns with numbers are sorted; empty is last. ``dot``,
    ``start`` and ``width`` are percentages of the scale; None without joules. ``filters`` are the
    names by which rows are chosen: suite, format, machines and models, separated by line breaks.
    """

    rank: str
    rank_title: str
    arm: str
    models: str
    per_correct: str
    why: str
    dot: float | None
    start: float
    width: float
    accuracy: str
    accuracy_interval: str
    per_question: str
    kind: str
    questions: str
    machine: str
    run: str
    date: str
    licence: str
    link: str
    order: dict[str, str]
    filters: dict[str, str]


@dataclass(frozen=True, slots=True)
class BoardGroup:
    """Rows of one standing: its heading and its rows."""

    standing: str
    heading: str
    rows: tuple[BoardRow, ...]


@dataclass(frozen=True, slots=True)
class BoardList:
    """A list of comparable runs: its title, what they have in common, its groups and its scale."""

    title: str
    about: str
    groups: tuple[BoardGroup, ...]
    scale: tuple[str, str] | None


def render_board(
    runs: Sequence[PublicRun], skipped: Sequence[Skipped], links: str | None = None
) -> str:
    """Render the page; texts of runs are escaped.

    Args:
        skipped: Folders that could not be read, which are named on the page.
        links: Relative path from the page to the folder that was searched, empty for the same
            folder; None for a page without links.
    """
    lists = [_build_list(one, links) for one in rank_runs(runs)]
    rows = [row for one in lists for group in one.groups for row in group.rows]
    return render_template(
        _PACKAGE,
        style=read_resource(_BENCH, "report.css") + read_resource(_PACKAGE, "board.css"),
        script=read_resource(_BENCH, "theme.js") + read_resource(_PACKAGE, "board.js"),
        version=__version__,
        lists=lists,
        runs=units.count_text(len(runs), "run"),
        systems=units.count_text(len(rows), "system"),
        skipped=skipped,
        filters=[
            (name, label, _collect(row.filters[name] for row in rows))
            for name, label in (
                ("suite", "Suite"),
                ("format", "Format"),
                ("machine", "Machine"),
                ("model", "Model"),
            )
        ],
    )


def _build_list(ranked: RankedList, links: str | None) -> BoardList:
    question = ranked.question
    scale = _choose_scale(ranked.rows)
    suite = _SUITES.get(question.suite, question.suite)
    split = "" if question.split == "test" else f" ({question.split})"
    groups = []
    for standing, heading in _HEADINGS.items():
        rows = [_build_row(row, scale, links) for row in ranked.rows if row.standing == standing]
        if rows:
            groups.append(BoardGroup(standing, heading, tuple(rows)))
    return BoardList(
        title=f"{suite}{split} {question.shots}-shot {question.format}@{question.format_version}",
        about=f"{question.selection} · data sha256 {question.data_sha256[:12]}",
        groups=tuple(groups),
        scale=None if scale is None else (_joules(scale[0], None), _joules(scale[1], None)),
    )


def _choose_scale(rows: Iterable[RankedArm]) -> tuple[float, float] | None:
    """Return both ends of a logarithmic scale of joules per right answer; None without joules."""
    values = [
        value
        for row in rows
        if row.rank is not None and row.arm.per_correct is not None
        for value in (row.arm.per_correct.value, row.arm.per_correct.low, row.arm.per_correct.high)
        if value is not None and value > 0
    ]
    return (min(values) / 1.1, max(values) * 1.1) if values else None


def _build_row(row: RankedArm, scale: tuple[float, float] | None, links: str | None) -> BoardRow:
    run, arm = row.run, row.arm
    accuracy = arm.accuracy
    dot, start, width = _place(arm.per_correct, scale) if row.rank is not None else (None, 0.0, 0.0)
    machine = "; ".join(run.machines)
    return BoardRow(
        rank=_DASH if row.rank is None else str(row.rank),
        rank_title=_describe_rank(row),
        arm=arm.name,
        models=", ".join(name for name in arm.models if name != arm.name),
        per_correct=_interval(arm.per_correct, arm.kind),
        why=row.why,
        dot=dot,
        start=start,
        width=width,
        accuracy=units.accuracy_text(accuracy.value),
        accuracy_interval=""
        if accuracy.low is None or accuracy.high is None
        else units.points_text(accuracy.low, accuracy.high),
        per_question=_DASH
        if arm.per_question is None
        else _joules(arm.per_question.value, arm.kind),
        kind=arm.kind or (_DASH if arm.by_machine else units.UNMEASURED),
        questions=f"{arm.questions:,}",
        machine=machine,
        run=run.run_id,
        date=run.started_at[:10],
        licence=run.licence,
        link="" if links is None else _link(links, run.place),
        order={
            "rank": "" if row.rank is None else str(row.rank),
            "correct": _number(arm.per_correct),
            "accuracy": _number(accuracy),
            "question": _number(arm.per_question),
            "questions": str(arm.questions),
        },
        filters={
            "suite": run.suite,
            "format": f"{run.format}@{run.format_version}",
            "machine": "\n".join(run.machines),
            "model": "\n".join(arm.models),
        },
    )


def _describe_rank(row: RankedArm) -> str:
    if row.best is None or row.worst is None or row.best == row.worst:
        return ""
    return f"{row.best}–{row.worst}"


def _place(
    figure: Bounds | None, scale: tuple[float, float] | None
) -> tuple[float | None, float, float]:
    """Return dot, start and width of the interval in percent of the scale."""
    if figure is None or scale is None or figure.value <= 0:
        return None, 0.0, 0.0
    low, high = (math.log(end) for end in scale)

    def at(value: float | None, default: float) -> float:
        if value is None:
            return default
        share = 100 * (math.log(value) - low) / (high - low) if value > 0 else 0.0
        return min(100.0, max(0.0, share))

    start, end = at(figure.low, 0.0), at(figure.high, 100.0)
    return at(figure.value, 0.0), start, end - start


def _interval(figure: Bounds | None, kind: str | None) -> str:
    if figure is None:
        return _DASH
    shown = kind if kind == units.ESTIMATE else None
    if figure.low is None or figure.high is None:
        return units.energy_text(figure.value, None, shown)
    return units.energy_range_text(figure.value, figure.low, figure.high, shown)


def _joules(value: float, kind: str | None) -> str:
    return units.energy_text(value, None, kind if kind == units.ESTIMATE else None)


def _number(figure: Bounds | None) -> str:
    return "" if figure is None else repr(figure.value)


def _link(links: str, place: str) -> str:
    """Return the address of a run's README; a name of a folder cannot become another scheme."""
    parts = [part for part in (*links.split("/"), *place.split("/")) if part not in ("", ".")]
    steps = [quote(part, safe="", errors="replace") for part in (*parts, "README.md")]
    return "./" + "/".join(steps)


def _collect(texts: Iterable[str]) -> list[str]:
    return sorted({part for text in texts for part in text.split("\n") if part})

"""Percentiles and course of a run as texts, for the table of the Markdown and the HTML report."""

from __future__ import annotations

from dataclasses import dataclass

from etui import units
from etui.bench.analysis.course import Course
from etui.bench.analysis.summary import ArmSummary, Summary
from etui.energy.detection_floor import compute_sensor_floor
from etui.energy.record_conditions import Distribution
from etui.energy.steadiness import Drift, SteadyState
from etui.text import sanitize

_DASH = "–"


@dataclass(frozen=True, slots=True)
class CourseRow:
    """One system on one machine; what does not exist is a dash.

    Attributes:
        per_question, per_token, between_tokens: Percentiles p50, p90 and p95, over all
            machines.
    """

    name: str
    at: int  # Its number, from 0
    machine: str  # Key of the machine; empty in a run of one machine
    per_question: str
    per_token: str
    between_tokens: str
    floor: str  # Smallest difference in per cent that the meter alone can show, over all machines
    early: str  # Joules (or seconds, if unmeasured) of the first, second and tenth answer
    early_percent: str  # The same in per cent of what as many tokens usually cost; may be empty
    steady: str  # Whether the machine worked evenly
    drift: tuple[str, ...]  # Drift of joules and of time, as far as known
    why: str  # The reason for `steady`


def build_course_rows(summary: Summary) -> list[CourseRow]:
    """Build the rows of the table; empty for a summary of an earlier version."""
    return [
        _build_row(sanitize(name), at, arm, course)
        for at, (name, arm) in enumerate(summary.arms.items())
        for course in arm.courses
    ]


def _build_row(name: str, at: int, arm: ArmSummary, course: Course) -> CourseRow:
    found, kind = arm.percentiles, arm.energy.kind if arm.energy else None
    state = course.steady_state
    return CourseRow(
        name=name,
        at=at,
        machine=sanitize(course.machine or ""),
        per_question=_joules(found.joules_per_question if found else None, kind),
        per_token=_joules(found.joules_per_output_token if found else None, kind),
        between_tokens=_seconds(found.inter_token_seconds if found else None),
        floor=_format_floor(arm),
        early=_format_early(course, kind),
        early_percent=_format_early_percent(course),
        steady={True: "steady", False: "not steady", None: "unknown"}[state.is_steady],
        drift=_format_drift(state),
        why=state.why,
    )


def _joules(found: Distribution | None, kind: str | None) -> str:
    if found is None:
        return _DASH
    return units.several_text((found.p50, found.p90, found.p95), "J", kind)


def _seconds(found: Distribution | None) -> str:
    if found is None:
        return _DASH
    return units.several_text((found.p50, found.p90, found.p95), "s")


def _format_floor(arm: ArmSummary) -> str:
    cost = arm.energy
    floor = None if cost is None else compute_sensor_floor(cost.uncertainty, cost.kind)
    if floor is None or cost is None or cost.joules <= 0:
        return _DASH
    return units.change_text(100 * floor / cost.joules, signed=False)


def _format_early(course: Course, kind: str | None) -> str:
    answers = course.early_answers
    if not answers:
        return _DASH
    joules = [one.joules for one in answers]
    known = [value for value in joules if value is not None]
    if len(known) < len(joules):
        return units.several_text([one.seconds for one in answers], "s")
    return units.several_text(known, "J", kind)


def _format_early_percent(course: Course) -> str:
    found = [one.percent_of_usual for one in course.early_answers]
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found):
        return ""
    return f"{', '.join(units.significant(value, 2) for value in known)} % of usual"


def _format_drift(state: SteadyState) -> tuple[str, ...]:
    return tuple(
        _one_drift(name, drift)
        for name, drift in (("J", state.joules), ("time", state.seconds))
        if drift is not None
    )


def _one_drift(name: str, drift: Drift) -> str:
    text = units.change_text(drift.percent, drift.low_percent, drift.high_percent)
    return f"{name} {text}"

"""Text forms of a summary: one line, a Markdown page for an issue, ``per_subject.csv``."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass

from etui import units
from etui.bench.accuracy import RightShare, SystemAccuracy
from etui.bench.config import RunConfig
from etui.bench.cost import CostFigure, CostOverTime
from etui.bench.formats import grades_numbers
from etui.bench.precision import describe_precision
from etui.bench.summary import ArmSummary, MachineSummary, Summary
from etui.datasets.mmlu import GROUPS, find_group
from etui.datasets.suites import suite_title
from etui.energy.energy_record import Distribution, compute_sensor_floor
from etui.measure.page import DASH as DASH
from etui.measure.page import render_text
from etui.stats.tests import Interval
from etui.text import sanitize
from etui.turn.text import speculation_text


@dataclass(frozen=True, slots=True)
class CostOverTimeRow:
    """One system on one machine; what does not exist is a dash."""

    name: str
    at: int  # Its number, from 0
    machine: str  # Key of the machine; empty in a run of one machine
    per_question: str  # Percentiles p50, p90 and p95, over all machines
    per_token: str
    between_tokens: str
    floor: str  # Smallest difference in per cent that the meter alone can show, over all machines
    early: str  # Joules (or seconds, if unmeasured) of the first, second and tenth answer
    early_percent: str  # The same in per cent of what as many tokens usually cost; may be empty
    steady: str  # Whether the machine worked evenly
    drift: tuple[str, ...]  # Drift of joules and of time, as far as known
    why: str  # The reason for `steady`


def build_cost_over_time_rows(summary: Summary) -> list[CostOverTimeRow]:
    """Build the rows of the table; empty for a summary of an earlier version."""
    return [
        _build_row(sanitize(name), at, arm, course)
        for at, (name, arm) in enumerate(summary.arms.items())
        for course in arm.courses
    ]


def _build_row(name: str, at: int, arm: ArmSummary, course: CostOverTime) -> CostOverTimeRow:
    found, kind = arm.percentiles, arm.energy.kind if arm.energy else None
    state = course.steady_state
    return CostOverTimeRow(
        name=name,
        at=at,
        machine=sanitize(course.machine or ""),
        per_question=_spread_text(found.joules_per_question if found else None, "J", kind),
        per_token=_spread_text(found.joules_per_output_token if found else None, "J", kind),
        between_tokens=_spread_text(found.inter_token_seconds if found else None, "s"),
        floor=_format_floor(arm),
        early=_format_early(course, kind),
        early_percent=_format_early_percent(course),
        steady={True: "steady", False: "not steady", None: "unknown"}[state.is_steady],
        drift=tuple(
            f"{name} {units.change_text(drift.percent, drift.low_percent, drift.high_percent)}"
            for name, drift in (("J", state.joules), ("time", state.seconds))
            if drift is not None
        ),
        why=state.why,
    )


def _spread_text(found: Distribution | None, unit: str, kind: str | None = None) -> str:
    if found is None:
        return DASH
    return units.several_text((found.p50, found.p90, found.p95), unit, kind)


def _format_floor(arm: ArmSummary) -> str:
    cost = arm.energy
    floor = None if cost is None else compute_sensor_floor(cost.uncertainty, cost.kind)
    if floor is None or cost is None or cost.joules <= 0:
        return DASH
    return units.change_text(100 * floor / cost.joules, signed=False)


def _format_early(course: CostOverTime, kind: str | None) -> str:
    answers = course.early_answers
    if not answers:
        return DASH
    joules = [one.joules for one in answers]
    known = [value for value in joules if value is not None]
    if len(known) < len(joules):
        return units.several_text([one.seconds for one in answers], "s")
    return units.several_text(known, "J", kind)


def _format_early_percent(course: CostOverTime) -> str:
    found = [one.percent_of_usual for one in course.early_answers]
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found):
        return ""
    return f"{', '.join(units.significant(value, 2) for value in known)} % of usual"


CSV_COLUMNS = ("arm", "subject", "group", "questions", "correct", "accuracy", "low", "high")


def headline(summary: Summary) -> str:
    """Format the run in one line per arm, and its precision if it was asked for.

    ``MMLU 5-shot letters@1: 61.2 % micro (95 % CI 58.9-63.5, n=1,140), 60.8 % macro; letter mass
    0.97; 3.1 J/question; 5.1 J/correct``
    """
    arms = summary.arms
    if not arms:
        return f"{protocol(summary)}: no question answered"
    lines = []
    for name, arm in arms.items():
        label = f", {name}" if len(arms) > 1 else ""
        lines.append(f"{protocol(summary)}{label}: {_arm_line(arm)}")
        if verdict := guess_verdict(arm, summary.chance):
            lines.append(f"  {verdict} ({units.accuracy_text(summary.chance)})")
        lines += [f"  {_machine_line(key, one)}" for key, one in (arm.machines or {}).items()]
    if summary.precision is not None:
        lines += describe_precision(summary.precision)
    if cost := describe_run_cost(summary):
        lines.append(cost)
    return "\n".join(lines)


def describe_run_cost(summary: Summary) -> str:
    """Say what the answers of a run cost together; empty without a tariff."""
    about = units.ESTIMATE in summary.kinds
    text = "" if summary.cost is None else summary.cost.text(about=about)
    return f"the answers cost {text}, each at the price of its time" if text else ""


def guess_verdict(arm: ArmSummary, chance: float) -> str:
    """Say by the 95 % interval whether a system does better than guessing; empty if none can."""
    if not chance:
        return ""
    low, high = ends(arm.accuracy.micro)
    found = "better than" if low > chance else "worse than" if high < chance else "no better than"
    return f"{found} guessing"


def find_best(summary: Summary) -> tuple[str, ArmSummary] | None:
    """Find the system with the most right answers, and its name; None without one."""
    arms = summary.arms.items()
    return max(arms, key=lambda item: item[1].accuracy.micro.value, default=None)


def describe_answer(summary: Summary) -> str:
    """Answer what a run asked, in one sentence, by its most accurate system.

    ``qwen: 61.2 % right, better than guessing (25 %), at 3.1 J/question``
    """
    best = find_best(summary)
    if best is None:
        return "no question answered"
    name, arm = best
    verdict = guess_verdict(arm, summary.chance)
    if verdict:
        verdict += f" ({units.accuracy_text(summary.chance)})"
    energy = arm.energy
    parts = [f"{sanitize(name)}: {units.accuracy_text(arm.accuracy.micro.value)} right", verdict]
    if energy is not None:
        cost = units.per_text(energy.per_question.value, "question", energy.kind)
        parts.append(f"at {units.marked(cost)}")
    return ", ".join(part for part in parts if part)


def missing_energy_text(arm: ArmSummary) -> str:
    """Say why a system has no joules: unmeasured, or given only by machine."""
    by_machine = any(machine.energy for machine in (arm.machines or {}).values())
    return "not pooled, see machines" if by_machine else units.UNMEASURED


def protocol(summary: Summary) -> str:
    """Format the suite, the shots and the format: ``MMLU 5-shot letters@1``."""
    suite = suite_name(summary)
    graded = f" graded by {summary.grading}" if summary.grading else ""
    return f"{suite} {summary.shots}-shot {summary.format}@{summary.format_version}{graded}"


def suite_name(summary: Summary) -> str:
    """Format the suite, with its split unless it is the test split."""
    suite = suite_title(summary.suite)
    return suite if summary.split == "test" else f"{suite} ({summary.split})"


def ends(figure: Interval | RightShare) -> tuple[float, float]:
    """Return both ends of an accuracy's interval; only a damaged file has none.

    ValueError if an end is missing.
    """
    if figure.low is None or figure.high is None:
        raise ValueError("an accuracy has no interval")
    return figure.low, figure.high


def interval_text(figure: Interval | RightShare) -> str:
    """Format the interval of an accuracy: ``58.9-63.5``."""
    return units.points_text(*ends(figure))


def cost_text(figure: CostFigure | None, unit: str, kind: str | None) -> str:
    """Format joules per unit without an interval; a dash if there is no figure."""
    return DASH if figure is None else units.per_text(figure.value, unit, kind)


def joules_text(figure: CostFigure | None, kind: str | None) -> str:
    """Format joules with their interval, for tables whose heading has the unit: ``3.2 ± 0.4 J``."""
    if figure is None:
        return DASH
    shown = kind if kind == units.ESTIMATE else None
    low, high = figure.low, figure.high
    if low is not None and high is not None and is_lopsided(figure):
        return units.energy_range_text(figure.value, low, high, shown)
    return units.energy_text(figure.value, figure.half_width, shown, spread=True)


def is_lopsided(figure: CostFigure) -> bool:
    """Test whether an interval is much wider upwards, so that a half width would mislead."""
    value, low, high = figure.value, figure.low, figure.high
    if low is None or high is None or low <= 0:
        return False
    return high - value > 1.6 * (value - low)


def count_lost(accuracy: SystemAccuracy) -> int:
    """Count the questions that ended without an answer."""
    outcomes = accuracy.outcomes
    return outcomes["no_answer"] + outcomes["truncated"] + outcomes["error"]


def markdown(summary: Summary, run: RunConfig) -> str:
    """Format the summary as Markdown for an issue or the notes of a paper."""
    arms, best = summary.arms.values(), summary.oracle
    oracle = None
    if best is not None:
        oracle = units.accuracy_text(best.accuracy)
        if best.joules_per_question is not None:
            kind = units.ESTIMATE if units.ESTIMATE in summary.kinds else None
            oracle += f" at {units.per_text(best.joules_per_question, 'question', kind)}"
    return render_text(
        "etui.bench",
        "report.md",
        summary=summary,
        run=run,
        courses=build_cost_over_time_rows(summary),
        groups=[g for g in GROUPS if any(g in arm.accuracy.groups for arm in arms)],
        oracle=oracle,
        units=units,
        text=TEXTS,
    )


def per_subject_csv(summary: Summary) -> str:
    """Format one CSV row per arm and subject: right answers and Wilson's 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for name, arm in summary.arms.items():
        for subject, share in arm.accuracy.subjects.items():
            figures = (f"{figure:.6f}" for figure in (share.accuracy, share.low, share.high))
            counts = (share.questions, share.correct)
            writer.writerow([name, subject, find_group(subject) or "", *counts, *figures])
    return out.getvalue()


def _arm_line(arm: ArmSummary) -> str:
    accuracy, energy = arm.accuracy, arm.energy
    micro = accuracy.micro
    parts = [
        f"{units.accuracy_text(micro.value)} micro (95 % CI {interval_text(micro)}, "
        f"n={accuracy.questions:,}), {units.accuracy_text(accuracy.macro.value)} macro"
    ]
    if accuracy.letter_mass:
        parts.append(f"letter mass {accuracy.letter_mass.mean:.2f}")
    if accuracy.strict:
        parts.append(f"{units.accuracy_text(accuracy.strict.accuracy)} strict-match")
    if count_lost(accuracy):
        parts.append(f"{units.percent_text(count_lost(accuracy) / accuracy.questions)} no answer")
    if energy is None:
        parts.append(f"energy {missing_energy_text(arm)}")
    else:
        parts.append(cost_text(energy.per_question, "question", energy.kind))
        if energy.per_correct is not None:
            parts.append(cost_text(energy.per_correct, "correct", energy.kind))
    if arm.speculation is not None:
        parts.append(speculation_text(arm.speculation, energy.kind if energy else None))
    return "; ".join(parts)


def _machine_line(key: str, machine: MachineSummary) -> str:
    parts = [f"{key} ({machine_text(machine)}): {units.count_text(machine.questions, 'question')}"]
    energy = machine.energy
    if energy is None:
        return f"{parts[0]}; energy {units.UNMEASURED}"
    parts.append(f"{joules_text(energy.per_question, energy.kind)} per question")
    if energy.per_correct is not None:
        parts.append(f"{joules_text(energy.per_correct, energy.kind)} per right answer")
    if energy.mean_watts is not None:
        parts.append(units.watts_text(energy.mean_watts.value, energy.kind))
    return "; ".join(parts)


def machine_text(machine: MachineSummary) -> str:
    """Describe a machine by its processor and its GPUs: ``AMD EPYC, 2 CPUs, 2 x NVIDIA L40S``."""
    counts = Counter(machine.devices)
    gpus = [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]
    return ", ".join([machine.name or "unknown machine", *gpus])


def describe_chance(summary: Summary) -> str:
    """Describe the accuracy of guessing: ``Chance is 25 %``."""
    if grades_numbers(summary.grading):
        return "A number cannot be guessed, so chance is 0"
    return f"Chance is {units.accuracy_text(summary.chance)}"


TEXTS = {
    "chance": describe_chance,
    "count_lost": count_lost,
    "interval": interval_text,
    "joules": joules_text,
    "machine": machine_text,
    "missing_energy": missing_energy_text,
    "precision": describe_precision,
    "protocol": protocol,
    "run_cost": describe_run_cost,
}
"""Texts that the templates of the report use, by name."""

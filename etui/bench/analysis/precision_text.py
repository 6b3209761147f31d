"""Precision of a run in words."""

from __future__ import annotations

from collections.abc import Mapping

from etui import units
from etui.bench.analysis.precision import Precision, SystemPrecision


def describe_look(precision: Precision, needed: int, most: int) -> str:
    """Describe a look while the run goes on.

    Args:
        precision: What is known after it.
        needed: Predicted number of questions at which the run stops.
        most: Most questions that the run asks.
    """
    asked = units.count_text(precision.questions, "question")
    goal = units.margin_text(precision.points)
    if precision.reached:
        return f"{goal} reached after {asked}"
    if needed >= precision.population:
        return f"{goal} cannot be reached with fewer than all questions; {asked} answered"
    if precision.questions >= most:
        return f"{goal} would need about {needed:,} questions"
    return f"{goal} expected after about {min(needed, most):,} questions; {asked} answered"


def describe_precision(precision: Precision) -> list[str]:
    """Describe how precise a run is, one line per statement."""
    goal = units.margin_text(precision.points)
    asked = units.count_text(precision.questions, "question")
    what = "accuracy" if precision.of == "accuracy" else "difference"
    if any(one.questions >= precision.population for one in precision.systems.values()):
        head = f"All {asked} of the suite were asked: {goal} cannot be reached with fewer"
    elif precision.reached:
        head = f"{goal} reached after {asked} of {precision.population:,}"
    else:
        head = f"{goal} not reached after {asked} of {precision.population:,}"
    systems = precision.systems.items()
    lines = [f"{head} (95 % confidence sequence of the {what}: it holds at every look at once)."]
    lines += [f"{name}: {_describe_system(one, precision)}." for name, one in systems]
    if precision.difficulty_sha256 is not None:
        lines.append(_describe_covariate(precision))
    lines += _describe_differences(precision)
    return lines


def _describe_system(one: SystemPrecision, precision: Precision) -> str:
    if precision.of == "difference":
        figure = units.points_change_text(100 * one.value, 100 * one.low, 100 * one.high)
        figure = f"{figure} against {precision.reference}"
    else:
        figure = f"{units.accuracy_text(one.value)} ({units.points_text(one.low, one.high)})"
    fixed = f"a sample of fixed size would need {one.fixed_sample:,}"
    return f"{figure} after {units.count_text(one.questions, 'question')}; {fixed}"


def _describe_covariate(precision: Precision) -> str:
    found = [one.correlation for one in precision.systems.values() if one.correlation is not None]
    known = precision.difficulty_questions or 0
    text = f"The difficulty of {known:,} of {precision.population:,} questions was the covariate"
    if not found:
        return f"{text}."
    ends = sorted({f"{min(found):.2f}", f"{max(found):.2f}"})
    return f"{text} (correlation with the answers within subjects {' to '.join(ends)})."


def _describe_differences(precision: Precision) -> list[str]:
    lines = []
    for name, needed in (precision.differences or {}).items():
        first = next(iter(precision.systems))
        goal = units.margin_text(precision.points)
        if needed < precision.questions:
            lines.append(
                f"The difference of {name} from {first} is known to {goal} after about {needed:,} "
                f"questions: if only that matters, --precision-of difference stops sooner."
            )
        else:
            lines.append(
                f"The difference of {name} from {first} needs about {needed:,} questions for {goal}"
                " (--precision-of difference), since the two are right on unlike questions."
            )
    return lines


def describe_expectation(points: float, expected: Mapping[float, int], most: int) -> str:
    """Describe how many questions a run is expected to ask.

    Args:
        points: Half width asked for.
        expected: Accuracy -> predicted number of questions.
    """
    parts = [
        f"{min(count, most):,} at an accuracy of {units.percent_text(share)}"
        for share, count in expected.items()
    ]
    text = f"{units.margin_text(points)} after about {', '.join(parts)}"
    return text if max(expected.values()) <= most else f"{text}; at most {most:,} are asked"

"""Differences between two policies as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from etui.routing.probes import format_expectation
from etui.text import sanitize

if TYPE_CHECKING:
    from etui.routing.decision import Decision
    from etui.routing.diff import Change, DifferingCase, OtherAnswer

_MOST_CHARACTERS = 70
"""Length at which a question is cut off."""


def diff_lines(
    differing: Sequence[Change], answers: Sequence[OtherAnswer], asked: int
) -> Iterator[str]:
    """Yield a line for every value that differs, then for every question answered differently.

    Args:
        asked: How many questions were compared.
    """
    for change in differing:
        yield sanitize(_change_text(change))
    yield f"{len(answers)} of {asked} questions are answered differently"
    for answer in answers:
        yield f"  {_shorten(answer.query.text)}"
        for sign, text in zip("-+", _format_sides(answer.before, answer.after), strict=True):
            yield f"    {sign} {text}"


def case_lines(differing: Sequence[DifferingCase], count: int) -> Iterator[str]:
    """Yield a line for all cases, then for each that is decided differently; none without cases.

    Args:
        differing: The cases that are decided differently, or that only one policy passes.
        count: How many cases were run.
    """
    if not count:
        return
    worse = sum(bool(each.after.failures) and not each.before.failures for each in differing)
    better = sum(bool(each.before.failures) and not each.after.failures for each in differing)
    verdicts = [f"{worse} fail now"] if worse else []
    verdicts += [f"{better} pass now"] if better else []
    more = f": {', '.join(verdicts)}" if verdicts else ""
    yield f"{len(differing)} of {count} cases are decided differently{more}"
    for each in differing:
        case = each.case
        yield f"  {_shorten(case.query)}"
        named = f" ({case.id})" if case.id else ""
        place = f"{PurePath(case.file).name}:{case.line}{named}"
        yield sanitize(f"    {place} expects {format_expectation(case)}")
        sides = [
            outcome.decision or "; ".join(outcome.failures) for outcome in (each.before, each.after)
        ]
        texts = _format_sides(*sides)
        for sign, text, outcome in zip("-+", texts, (each.before, each.after), strict=True):
            verdict = "fails" if outcome.failures else "passes"
            yield f"    {sign} {text}; {verdict}"


def _shorten(question: str) -> str:
    text = sanitize(" ".join(question.split()))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _format_sides(before: Decision | str, after: Decision | str) -> Iterator[str]:
    """Yield both decisions: ``rule -> arm: model, reasoning``, or why there is none."""
    settings = _differing_settings(before, after)
    for decision in (before, after):
        if isinstance(decision, str):
            yield f"undecided: {sanitize(decision)}"
            continue
        arm = decision.arm
        differing = "".join(f", {key} {asdict(arm)[key]}" for key in settings)
        yield sanitize(f"{decision.rule} -> {arm.name}: {arm.model}, {arm.reasoning}{differing}")


def _change_text(change: Change) -> str:
    if change.before is None:
        return f"+ {change.path}: {_plain(change.after)}"
    if change.after is None:
        return f"- {change.path}: {_plain(change.before)}"
    if isinstance(change.before, list) and isinstance(change.after, list):
        removed = [f"-{_plain(item)}" for item in change.before if item not in change.after]
        added = [f"+{_plain(item)}" for item in change.after if item not in change.before]
        if removed or added:
            return f"~ {change.path}: {' '.join([*removed, *added])}"
    return f"~ {change.path}: {_plain(change.before)} -> {_plain(change.after)}"


def _differing_settings(before: Decision | str, after: Decision | str) -> list[str]:
    """Return the settings that differ; none unless name, model and reasoning are equal.

    These three are in the line anyway, so no further setting is needed to distinguish the arms.
    """
    if isinstance(before, str) or isinstance(after, str):
        return []
    one, other = asdict(before.arm), asdict(after.arm)
    if any(one[key] != other[key] for key in ("name", "model", "reasoning")):
        return []
    return [key for key in one if one[key] != other[key]]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

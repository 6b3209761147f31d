"""Differences between two policies as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from etui.text.sanitize import sanitize

if TYPE_CHECKING:
    from etui.routing.diff import Change, OtherAnswer

_MOST_CHARACTERS = 70
"""Length at which a question is cut off."""


def diff_lines(
    differing: Sequence[Change], answers: Sequence[OtherAnswer], asked: int
) -> Iterator[str]:
    """Yield a line for every value that differs, then for every question answered differently.

    Args:
        differing: The values that differ.
        answers: The questions that are answered differently.
        asked: How many questions were compared.
    """
    for change in differing:
        yield sanitize(_change_text(change))
    yield f"{len(answers)} of {asked} questions are answered differently"
    for answer in answers:
        text = sanitize(" ".join(answer.query.text.split()))
        yield f"  {text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + '…'}"
        settings = _differing_settings(answer)
        for sign, decision in (("-", answer.before), ("+", answer.after)):
            if isinstance(decision, str):
                yield f"    {sign} undecided: {sanitize(decision)}"
                continue
            arm = decision.arm
            differing_settings = "".join(f", {key} {asdict(arm)[key]}" for key in settings)
            yield sanitize(
                f"    {sign} {decision.rule} -> {arm.name}: {arm.model}, {arm.reasoning}"
                f"{differing_settings}"
            )


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


def _differing_settings(answer: OtherAnswer) -> list[str]:
    """Return the settings that differ; none unless name, model and reasoning are equal.

    These three are in the line anyway, so no further setting is needed to distinguish the arms.
    """
    if isinstance(answer.before, str) or isinstance(answer.after, str):
        return []
    one, other = asdict(answer.before.arm), asdict(answer.after.arm)
    if any(one[key] != other[key] for key in ("name", "model", "reasoning")):
        return []
    return [key for key in one if one[key] != other[key]]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

"""What differs between two policies, as lines a person reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from etui.text.sanitize import sanitize

if TYPE_CHECKING:
    from etui.routing.diff import Change, OtherAnswer

_MOST_CHARACTERS = 70
"""Of a question that are shown."""


def diff_lines(
    differing: Sequence[Change], answers: Sequence[OtherAnswer], asked: int
) -> Iterator[str]:
    """Every value that differs, then every question of ``asked`` that is answered otherwise."""
    for change in differing:
        yield sanitize(_change_text(change))
    yield f"{len(answers)} of {asked} questions are answered otherwise"
    for answer in answers:
        text = sanitize(" ".join(answer.query.text.split()))
        yield f"  {text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + '…'}"
        settings = _settings(answer)
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
        gone = [f"-{_plain(item)}" for item in change.before if item not in change.after]
        come = [f"+{_plain(item)}" for item in change.after if item not in change.before]
        if gone or come:
            return f"~ {change.path}: {' '.join([*gone, *come])}"
    return f"~ {change.path}: {_plain(change.before)} -> {_plain(change.after)}"


def _settings(answer: OtherAnswer) -> list[str]:
    """Settings that differ, where the arms are called alike and run the same model."""
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

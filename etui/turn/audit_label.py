"""Decide which turns are audited, and whether two answers to a question are the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.chat import OutputOptions
from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.routing.policy import AuditPlan
    from etui.turn.record import TurnRecord

_SEED = "etui audit"

MOST_WORDS = 12
"""Words of a free answer up to which another wording counts as another answer."""

_NUMBER = (OutputOptions(), OutputOptions(number=True))
"""Forms of an answer that can be compared; tools, schemas and several answers cannot."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether two answers are the same; ``agrees`` is None if that is unknown, as ``why`` says."""

    agrees: bool | None
    why: str = ""


def is_drawn(turn_id: str, share: float) -> bool:
    """Return whether a turn belongs to the audited share: by a hash of its id, always the same.

    Args:
        share: The share, in [0, 1]; a turn that is drawn at one share is at every larger one.
    """
    digest = hashlib.sha256(f"{_SEED}:{turn_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def find_answering_arm(record: TurnRecord) -> tuple[str, str]:
    """Return the arm and the model that gave a turn's answer; of a cascade, the taken hop's."""
    for hop in record.hops:
        if hop.taken:
            return hop.arm, hop.model
    return record.arm, record.model


def can_audit(query: Query, record: TurnRecord, plan: AuditPlan) -> bool:
    """Return whether a turn is one to audit: drawn, answered whole, and not by the audit arm."""
    asked = {record.arm, *(hop.arm for hop in record.hops)}
    return (
        record.status == "complete"
        and bool(record.answer.strip())
        and not record.ended
        and not record.tool_calls
        and plan.arm not in asked
        and query.options in _NUMBER
        and query.last is None
        and is_drawn(record.turn_id, plan.share)
    )


def compare_answers(query: Query, first: str, second: str) -> Agreement:
    """Compare two whole answers to a question, by the keys that votes are counted by.

    Options are compared by their letter, numbers with their unit, dates, yes or no, and short
    facts without the words of the question. Longer texts are the same only word for word;
    otherwise it is unknown whether they say the same.
    """
    options = parse_options(query.text)
    number = query.options.number
    keys = [extract(text, query.text, options, number=number).key for text in (first, second)]
    one, other = keys
    if one is None or other is None:
        return Agreement(None, "an answer has nothing to compare")
    if one == other:
        return Agreement(True)
    if not options and not number and max(map(_count_words, (one, other))) > MOST_WORDS:
        return Agreement(None, "the answers are too long to compare")
    return Agreement(False)


def _count_words(text: str) -> int:
    return len(text.split())

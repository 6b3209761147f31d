"""Why an arm answered, from the log, and what was predicted of it against what was measured."""

from __future__ import annotations

from etui import units
from etui.hops import HopEnded
from etui.lines import route_parts
from etui.log.records import HopRecord, TurnRecord
from etui.text.sanitize import sanitize
from etui.text.tables import SEPARATOR


def logged_why(record: TurnRecord) -> str:
    """The why-line of a turn of the log, as it was when the answer came."""
    parts = route_parts(
        record.policy, record.rule, record.arm, record.reasoning, record.model, record.why
    )
    return sanitize(SEPARATOR.join(part for part in parts if part))


def hop_line(hop: HopEnded | HopRecord) -> str:
    """An answer that did not stand: ``not taken: quick › smollm2-135m · 41 % sure · 12 J``."""
    parts = [f"not taken: {hop.arm} › {hop.model}", hop.why]
    if hop.joules is not None:
        parts.append(units.energy_text(hop.joules))
    return SEPARATOR.join(part for part in parts if part)


def predicted_line(record: TurnRecord) -> str:
    """``27 % more joules than predicted``; empty where nothing was predicted or measured."""
    predicted, measured = record.predicted_joules, record.energy.joules
    parts = []
    if predicted and measured is not None:
        share = measured / predicted - 1
        word = "more" if share >= 0 else "fewer"
        parts.append(f"{units.percent_text(abs(share))} {word} joules than predicted")
    if record.predicted_accuracy is not None:
        parts.append(f"expected to be right {units.percent_text(record.predicted_accuracy)}")
    return SEPARATOR.join(parts)

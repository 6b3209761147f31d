"""Sentences about a sweep: its detection floor, its duration, effects of axes."""

from __future__ import annotations

from etui import units
from etui.sweep.report.verdict import WHOLE_PERCENT, floor_text
from etui.sweep.result import AxisEffect, SweepResult
from etui.text.tables import one_line


def floor_sentence(result: SweepResult) -> str:
    """Format the detection floor in a sentence or two."""
    floor = result.floor
    if floor is None:
        return "Detection floor: not measured yet."
    measured = [
        (what, percent)
        for what, percent in (("joules", floor.joules_percent), ("time", floor.seconds_percent))
        if percent is not None
    ]
    if not measured:
        return "Detection floor: unmeasured, so no difference is claimed."
    text = f"Detection floor: with {units.count_text(floor.claim_blocks, 'block')}"
    shown = [f"{floor_text(each)} in {what}" for what, each in measured if each <= WHOLE_PERCENT]
    hidden = " and ".join(what for what, each in measured if each > WHOLE_PERCENT)
    if shown:
        text += f", differences from {' and '.join(shown)} can be shown"
        text += f", and no saving of {hidden}: its floor is above 100 %." if hidden else "."
    else:
        text += f" it is above 100 % in {hidden}, so no saving can be shown."
    found = [
        f"{units.change_text(percent)} in {what}"
        for what, percent in (
            ("joules", floor.measured_joules_percent),
            ("time", floor.measured_seconds_percent),
        )
        if percent is not None
    ]
    if found:
        own = units.count_text(floor.blocks, "block")
        text += f" The baseline against itself differed by {' and '.join(found)} in {own}."
    return text


def time_sentence(result: SweepResult) -> str:
    """Format how long the sweep took, and the time saved by dropping settings."""
    visits = units.count_text(result.visits, "visit")
    blocks = units.count_text(result.blocks, "block")
    text = f"{units.seconds_text(result.seconds)} for {blocks} with {visits}"
    if not result.is_complete:
        text += " so far"
    full = result.full_grid_seconds
    dropped = any(one.dropped_after is not None for one in result.settings)
    if full is None or full <= 0 or not dropped:
        return f"{text}."
    saved = 1 - result.seconds / full
    grid = f"{units.seconds_text(full)} predicted without dropping settings"
    if saved <= 0:
        return f"{text}; {grid}, so dropping saved no time."
    if not result.is_complete:
        return f"{text}; {grid}."
    return f"{text}; {grid}, so dropping saved about {units.percent_text(saved)}."


def name_effect(effect: AxisEffect) -> str:
    """Name an effect: ``threads=1 against 2``."""
    return one_line(f"{effect.axis}={effect.value} against {effect.reference}")

"""Stages of a turn, and the letters that mark them in the graphs of power."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What a turn is doing, in the words shown on the screen."""

    QUEUED = "queued"
    ROUTING = "routing"
    LOADING = "loading"
    PREFILL = "reading the prompt"
    THINKING = "thinking"
    ANSWERING = "answering"
    DONE = "done"


MARKS = {
    Stage.LOADING: ("L", "load"),
    Stage.PREFILL: ("P", "prefill"),
    Stage.THINKING: ("T", "think"),
    Stage.ANSWERING: ("A", "answer"),
}
"""Letter and word of the stages that have a mark."""

LEGEND = "  ".join(f"{letter} {word}" for letter, word in MARKS.values())


def mark_stage(stage: Stage) -> str:
    """Return the letter of a stage, or a space for a stage without a mark."""
    return MARKS[stage][0] if stage in MARKS else " "

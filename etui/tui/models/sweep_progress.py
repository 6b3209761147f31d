"""How far a sweep is, from the JSON lines of ``etui sweep``, and how the app describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from etui import units
from etui.codec import from_document
from etui.tui.jobs import JobProgress

_STAGES = {
    "floor": "detection floor: the settings in use against themselves",
    "race": "race: all settings that are left",
    "confirm": "confirming the best settings",
    "accuracy": "answering the questions of the suite",
}

_KEPT_DROPS = 3
"""Newest dropped settings to show."""


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """What a sweep would measure, from ``etui sweep --dry-run --json``."""

    settings: tuple[str, ...]  # Keys of the settings, the one in use first
    axes: Mapping[str, tuple[str | int | float, ...]]
    workload: str
    seconds: float  # Estimated time
    notes: tuple[str, ...] = ()  # What was left out, and why


@dataclass(frozen=True, slots=True)
class SweepState:
    """How far a sweep is, from the lines of ``etui sweep --jsonl``.

    Attributes:
        block, blocks_left: Blocks measured, and left at most.
    """

    model: str
    settings: int = 0  # Number of settings at the beginning; 0 before it began
    stage: str = ""  # What the last block was for; empty before the first
    block: int = 0
    blocks_left: int = 0
    remaining: int | None = None  # Settings left; None before the first block
    best: str | None = None  # Key of the best setting so far; None before one is known
    seconds_left: float | None = None  # Estimated time; None before it began
    dropped: tuple[tuple[str, str], ...] = ()  # Settings dropped last, with the reasons
    note: str = ""
    answered: tuple[int, int] | None = None
    """Answers of the suite that are there, and all of them; None outside that part."""
    folder: str | None = None  # Folder of the sweep; None before it began


@dataclass(frozen=True, slots=True)
class _Begun:
    settings: tuple[str, ...]
    folder: str
    blocks: int = 0
    blocks_left: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    stage: str
    block: int
    blocks_left: int
    remaining: int
    best: str | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class _Dropped:
    setting: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Note:
    text: str


@dataclass(frozen=True, slots=True)
class _Answered:
    done: int
    answers: int


@dataclass(frozen=True, slots=True)
class SweepVerdict:
    """The result of a sweep, from its last line."""

    verdict: str
    is_complete: bool
    baseline: str
    best: str | None
    is_best_claimed: bool = True

    @property
    def is_better(self) -> bool:
        """Whether a setting was found that beats the one in use beyond doubt."""
        is_another = self.best not in (None, self.baseline)
        return self.is_complete and is_another and self.is_best_claimed


SweepEvent = _Begun | _Block | _Dropped | _Note | _Answered | SweepVerdict

_KINDS: Mapping[str, type[Any]] = {
    "begun": _Begun,
    "block": _Block,
    "dropped": _Dropped,
    "note": _Note,
    "answered": _Answered,
    "result": SweepVerdict,
}


def describe_plan(plan: PlannedSweep) -> list[str]:
    """Describe what a sweep measures, about how long it takes, and what it prevents."""
    lines = [f"{axis}: {', '.join(str(v) for v in values)}" for axis, values in plan.axes.items()]
    return [
        *lines,
        *plan.notes,
        "",
        f"{units.count_text(len(plan.settings), 'setting')}, workload {plan.workload}, about "
        f"{units.seconds_text(plan.seconds)} (an estimate before anything is measured).",
        "Models are unloaded and questions are refused until it ends. Esc stops it; what was "
        "measured is kept. Nothing changes until you apply the result.",
    ]


def parse_line(line: bytes) -> SweepEvent | None:
    """Parse a line of ``etui sweep --jsonl``; None for events that the app does not show."""
    try:
        fields = json.loads(line)
        event = fields.get("event") if isinstance(fields, dict) else None
        kind = _KINDS.get(event) if isinstance(event, str) else None
        found: SweepEvent | None = (
            None if kind is None else from_document(kind, fields, extra="ignore")
        )
    except ValueError:
        return None
    return found


def advance(state: SweepState, event: SweepEvent) -> SweepState:
    """Return the state after an event."""
    match event:
        case _Begun():
            return replace(
                state,
                settings=len(event.settings),
                block=event.blocks,
                blocks_left=event.blocks_left,
                seconds_left=event.seconds_left,
                folder=event.folder,
            )
        case _Block():
            return replace(
                state,
                stage=event.stage,
                block=event.block,
                blocks_left=event.blocks_left,
                remaining=event.remaining,
                best=event.best,
                seconds_left=event.seconds_left,
            )
        case _Dropped():
            dropped = (*state.dropped, (event.setting, event.reason))
            return replace(state, dropped=dropped[-_KEPT_DROPS:])
        case _Note():
            return replace(state, note=event.text)
        case _Answered():
            return replace(state, stage="accuracy", answered=(event.done, event.answers))
    return state


def build_progress(state: SweepState) -> JobProgress:
    """Describe the progress in the status line, and in full for the card of the model."""
    if not state.settings:
        text = f"sweeping {state.model} … preparing"
        return JobProgress(text, subject=state.model, details=tuple(describe_state(state)))
    total = state.block + state.blocks_left
    parts = [f"block {state.block} of about {total}"]
    done, whole = float(state.block), float(total)
    if state.answered is not None:
        done, whole = map(float, state.answered)
        parts = [f"answer {state.answered[0]} of {state.answered[1]}"]
    elif state.seconds_left is not None:
        parts.append(f"about {units.seconds_text(state.seconds_left)} left")
    text = f"sweeping {state.model} … {', '.join(parts)}"
    return JobProgress(text, done, whole, state.model, tuple(describe_state(state)))


def describe_state(state: SweepState) -> list[str]:
    """Describe a running sweep for the card of its model."""
    lines = ["Sweep running: Esc stops it, questions are refused"]
    lines.append(f"stage     {_STAGES.get(state.stage, state.stage) or 'preparing'}")
    if state.settings:
        lines.append(f"blocks    {state.block} of about {state.block + state.blocks_left}")
        left = state.settings if state.remaining is None else state.remaining
        lines.append(f"settings  {left} of {state.settings} left")
    if state.answered is not None:
        lines.append(f"answers   {state.answered[0]} of {state.answered[1]}")
    if state.best is not None:
        lines.append(f"best      {state.best} so far")
    if state.seconds_left is not None and state.answered is None:
        lines.append(f"time      about {units.seconds_text(state.seconds_left)} left")
    lines += [f"dropped   {setting}: {reason}" for setting, reason in state.dropped]
    if state.note:
        lines.append(f"note      {state.note}")
    return lines

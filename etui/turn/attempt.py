"""One arm's part of a turn: what was heard of it, how it ended, whether that is an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from etui.arm import Arm, TokenCost
from etui.backends.base import AnswerSoFar
from etui.errors import EtuiError
from etui.events import (
    Batch,
    Event,
    Finished,
    Loaded,
    PictureEncoded,
    Prefilling,
    Probe,
    Reused,
    Status,
    ThreadsChanged,
    ToolCall,
    Unloaded,
    Verified,
    Vote,
)
from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract
from etui.turn.accounting import Leg, TimeInterval
from etui.turn.interfaces import Meter
from etui.turn.record import ProbeRecord, VoteRecord

Together = Literal["open", "agreed", "apart"]
"""Whether the answers of a step agree; ``open`` while another one may still decide."""

Failed = Literal["load", "answer"]
"""Where an arm failed: while loading its model, or while answering."""


@dataclass(frozen=True, slots=True)
class ArmAttempt:
    """The result of asking an arm, as far as a cascade depends on it."""

    arm: Arm  # As it ran: a budget may have lowered its `max_joules`
    probability: float | None = None  # Calibrated probability of being right; None without a fit
    accepted: bool = True  # Sure enough, so that no further arm is needed
    usable: bool = True  # Its text can be the answer: not empty, without a failure or a stop
    answered: bool = True  # The text is an answer: a letter if the question has options
    failed: Failed | None = None  # Where it failed; None if it did not
    key: str | None = None
    """What the answer is compared by: a letter, a number, words; None without an answer."""
    confidence: float | None = None  # Raw confidence of the answer; None without one
    margin: float | None = None
    together: Together | None = None
    """Whether the answers of its step agree; None for an arm that is its own step."""


@dataclass(slots=True)
class AnswerAccumulator(AnswerSoFar):
    """The events of a running answer, so that an interrupted turn is still recorded."""

    unloads: list[Unloaded] = field(default_factory=list)
    load: Loaded | None = None
    prefilling: Prefilling | None = None
    votes: list[VoteRecord] = field(default_factory=list)
    probes: list[ProbeRecord] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    threads: list[ThreadsChanged] = field(default_factory=list)
    reused: Reused | None = None
    pictures: list[PictureEncoded] = field(default_factory=list)
    finished: Finished | None = None
    verified: list[Verified] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Add one event."""
        AnswerSoFar.add(self, event)
        match event:
            case Unloaded():
                self.unloads.append(event)
                self.started_ns = event.end_ns
            case Loaded():
                self.load = event
                self.started_ns = event.end_ns
            case Prefilling():
                self.prefilling = event
            case Vote():
                self.votes.append(_build_vote_record(event))
            case Batch():
                self.batches.append(event)
            case Verified():
                self.verified.append(event)
            case Probe():
                probe = ProbeRecord(event.thinking_tokens, dict(event.probabilities), event.tokens)
                self.probes.append(probe)
            case ToolCall():
                before = self.tool_calls.get(event.index)
                if before is not None:
                    arguments = before.arguments + event.arguments
                    event = replace(before, name=before.name + event.name, arguments=arguments)
                self.tool_calls[event.index] = event
            case ThreadsChanged():
                self.threads.append(event)
            case Reused():
                self.reused = event
            case PictureEncoded():
                self.pictures.append(event)
            case Finished():
                self.finished = event

    @property
    def began(self) -> bool:
        """Whether anything was loaded or computed for it."""
        return any(each is not None for each in (self.load, self.prefilled, self.prefilling))

    def build_leg(self, end: Finished, meter: Meter, wait: TimeInterval | None = None) -> Leg:
        """Return the times of work, load and unloads, with the meter that has their energy."""
        return Leg(
            end,
            TimeInterval(self.load.start_ns, self.load.end_ns) if self.load else None,
            tuple(TimeInterval(u.start_ns, u.end_ns) for u in self.unloads),
            meter,
            wait,
            tuple(TimeInterval(each.start_ns, each.end_ns) for each in self.pictures),
        )

    def build_finished(self, end_ns: int, status: Status, why: str) -> Finished:
        """Return the engine's final event, or build one from the events so far if there is none."""
        if self.finished is not None:
            return self.finished
        end = self.build_end(end_ns, status if status == "stopped" else "error", why)
        if self.prefilled is None and self.prefilling is not None:
            total, done = self.prefilling.total_tokens, self.prefilling.done_tokens
            end = replace(end, prompt_tokens=total, computed_tokens=done)
        return replace(end, tool_calls=_format_tool_calls(self.tool_calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttempt(ArmAttempt):
    """The completed part of one arm in a turn on this machine."""

    model: str
    sha256: str | None  # Hash of its file; None if unknown
    end: Finished  # Its final event, built from the earlier events if the engine sent none
    seen: AnswerAccumulator  # All that was heard of it
    meter: Meter  # The meter of the machine that answered
    failure: EtuiError | None = None
    joules: float | None = None  # Gross joules, its load excluded; None if unmeasured
    kind: str | None = None  # How they were obtained; None if unmeasured
    why: str = ""  # Its result, in words
    fallbacks: tuple[Arm, ...] = ()
    """Arms that follow if it failed before anything was computed, best first."""
    is_local: bool = False  # Whether the engine of this machine answered
    price: TokenCost | None = None  # Joules of its model's tokens; None if unknown
    round: int | None = None  # Round of a turn that calls tools, from 1; None for other turns
    wait: TimeInterval | None = None  # The time before it in which tools ran; None without any

    @property
    def stopped(self) -> bool:
        """Whether the user stopped it."""
        return self.end.status == "stopped"

    @property
    def leg(self) -> Leg:
        """Its times of work, load and unloads, with its meter."""
        return self.seen.build_leg(self.end, self.meter, self.wait)

    def stop(self, why: str) -> LiveAttempt:
        """Return it as the user stopped it."""
        return replace(self, usable=False, end=replace(self.end, status="stopped", why=why))


def has_output(end: Finished) -> bool:
    """Return whether there is any text, or a call of a tool."""
    return bool(end.answer or end.tool_calls)


def gave_answer(question: str, arm: Arm, end: Finished) -> bool:
    """Return whether there is a majority of votes, a call, a letter for options, or any text."""
    if arm.reasoning == "vote":
        return end.confidence is not None
    if end.tool_calls:
        return True
    options = parse_options(question)
    if not options:
        return bool(end.answer.strip())
    cut = end.status == "truncated"
    return extract(end.answer, question, options, truncated=cut).key is not None


def find_key(question: str, arm: Arm, end: Finished) -> str | None:
    """Return what an answer is compared by: the key that votes are counted by.

    It is None without a complete answer, for a call of a tool, and for a vote that was cut short.
    """
    if end.tool_calls or not end.answer.strip():
        return None
    if end.status not in (("complete",) if arm.reasoning == "vote" else ("complete", "budget")):
        return None
    return extract(end.answer, question, parse_options(question)).key


def _format_tool_calls(calls: Mapping[int, ToolCall]) -> str:
    """Format tool calls as in ``Finished.tool_calls``; the arguments of the last may be cut."""
    if not calls:
        return ""
    return json.dumps(
        [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for _, call in sorted(calls.items())
        ],
        ensure_ascii=False,
    )


def _build_vote_record(vote: Vote) -> VoteRecord:
    """Take from a vote all that its record has; its joules are known when the turn has ended."""
    kept = (each.name for each in fields(VoteRecord) if each.name != "joules")
    return VoteRecord(**{name: getattr(vote, name) for name in kept})

"""One arm's part of a turn, and whether it holds an answer."""

from __future__ import annotations

from dataclasses import dataclass

from etui.arm import Arm
from etui.errors import EtuiError
from etui.events import Finished, Loaded
from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract
from etui.turn.agreement import Failed, Outcome, Together


@dataclass(frozen=True, slots=True)
class Hop:
    """The completed part of one arm in a turn."""

    arm: Arm  # The arm as it ran (a budget may have lowered its `max_joules`)
    model: str
    sha256: str | None  # Hash of its file; None if unknown
    end: Finished  # Its final event, built from the earlier events if the engine sent none
    load: Loaded | None = None
    answered: bool = True  # Its text is an answer: a letter if the question has options
    probability: float | None = None  # Calibrated probability of being right; None without a fit
    accepted: bool = True  # Sure enough for the cascade, or there is no cascade
    failure: EtuiError | None = None
    at_load: bool = False  # It failed before anything was computed
    joules: float | None = None  # Gross joules, its load excluded; None if unmeasured
    kind: str | None = None  # How they were obtained; None if unmeasured
    why: str = ""  # Its result, in words
    fallbacks: tuple[Arm, ...] = ()
    """Arms that follow if it failed before anything was computed, best first."""
    key: str | None = None
    """What its answer is compared by in a step of several answers; None without an answer."""
    together: Together | None = None
    """Whether the answers of its step agree; None for an arm that is its own step."""

    @property
    def stopped(self) -> bool:
        """Whether the user stopped it."""
        return self.end.status == "stopped"

    @property
    def outcome(self) -> Outcome:
        """Its result, as input for the walk over the cascade."""
        failed: Failed | None = None
        if self.failure is not None:
            failed = "load" if self.at_load else "answer"
        return Outcome(
            arm=self.arm,
            probability=self.probability,
            accepted=self.accepted,
            usable=failed is None and not self.stopped and has_output(self.end),
            answered=self.answered,
            failed=failed,
            key=self.key,
            confidence=self.end.confidence,
            margin=self.end.margin,
            together=self.together,
        )


@dataclass(frozen=True, slots=True)
class AskConstrained:
    """The arm that follows, and why."""

    arm: Arm
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """No further arm follows; ``why`` names the limit that prevents it, or is empty."""

    why: str = ""


def has_output(end: Finished) -> bool:
    """Return whether there is any text, or a call of a tool."""
    return bool(end.answer or end.tool_calls)


def gave_answer(question: str, arm: Arm, end: Finished) -> bool:
    """Return whether there is an answer.

    It is a majority of votes, a call of a tool, a letter for options, or any text.
    """
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

"""What routing hands on: the chosen arm and why it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar, overload

from etui.arm import Arm
from etui.routing.limits import Candidate, Cascade, Fallbacks, TurnBudget
from etui.routing.prediction import PredictedJoules
from etui.routing.trace import (
    CandidateTrace,
    CascadeTrace,
    DecisionTrace,
    JoulesTrace,
    ShadowTrace,
)
from etui.text.codec import to_document

T = TypeVar("T")


class Deferred(Sequence[T], Generic[T]):
    """A sequence that is put together when somebody reads it.

    The words of a trace take longer than the decision, and most decisions are never looked at.
    """

    def __init__(self, make: Callable[[], tuple[T, ...]]) -> None:
        self._make = make

    @cached_property
    def _items(self) -> tuple[T, ...]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True, slots=True)
class SignalValue:
    """One signal as it was seen.

    Attributes:
        name: Its name in the policy.
        holds: Whether it holds.
        value: What was seen: a number, a language, a model; None where it is not known.
        boundary: Where it would change: the nearest end of its range, or the word it asks for.
        test: What it asks for, in words ("at least 3").
        detail: What was found, where a number says little ("calculate, how many").
    """

    name: str
    holds: bool
    value: float | str | None
    boundary: float | str | None
    test: str = ""
    detail: str = ""

    @property
    def distance(self) -> float | None:
        """How far the value is from its boundary; None where either is no number."""
        if isinstance(self.value, str | None) or isinstance(self.boundary, str | None):
            return None
        return abs(self.value - self.boundary)


@dataclass(frozen=True, slots=True)
class RuleTried:
    """One rule in the order it was tried; ``failed`` names the first condition that failed."""

    name: str
    priority: int
    matched: bool
    failed: str | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a policy on trial would have done with the same query.

    Attributes:
        policy: Its name.
        arm: What would have answered; None where it could not decide.
        rule: The rule that matched.
        why: Why it decided so, or why it could not.
        predicted_joules: What that would have cost, its load excluded; None where not known.
    """

    policy: str
    arm: Arm | None
    rule: str | None
    why: str
    predicted_joules: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The arm for one query.

    Attributes:
        arm: What answers.
        policy: Name of the policy; None when the command line spelled the arm out.
        rule: Name of the rule that matched; None without a policy.
        why: One line a person reads ("math-thinks: calc (2 keywords), symbolic (4 of 3)").
        signals: Those that were looked at; all of them for ``policy explain``.
        rules: Those that were tried, in their order.
        shadow: What a policy on trial would have done; None without one.
        predicted_joules, predicted_accuracy: None where nothing was fitted.
        cascade: The arms to try in turn; ``arm`` is its first. None for a single arm.
        candidates: What an objective weighed, cheapest first; empty without one.
        margin_joules: What the runner-up would have cost more; None without one.
        budget: What the turn may spend; None is no limit.
        fallbacks: What follows when the answer cannot be had as planned.
        notices: What the user should be told of the decision, as that a budget made it cheaper.
    """

    arm: Arm
    policy: str | None
    rule: str | None
    why: str
    signals: Sequence[SignalValue] = ()
    rules: Sequence[RuleTried] = ()
    predicted_joules: float | None = None
    predicted_accuracy: float | None = None
    shadow: Shadow | None = None
    cascade: Cascade | None = None
    candidates: tuple[Candidate, ...] = ()
    margin_joules: float | None = None
    budget: TurnBudget | None = None
    fallbacks: Fallbacks = field(default_factory=Fallbacks)
    notices: tuple[str, ...] = ()

    def trace(self) -> DecisionTrace:
        """The decision as plain JSON values."""
        return {
            "arm": self.arm.name,
            "model": self.arm.model,
            "policy": self.policy,
            "rule": self.rule,
            "why": self.why,
            "signals": [
                {
                    "name": s.name,
                    "holds": s.holds,
                    "value": s.value,
                    "boundary": s.boundary,
                    "distance": s.distance,
                    "test": s.test,
                    "detail": s.detail,
                }
                for s in self.signals
            ],
            "rules": [
                {
                    "name": r.name,
                    "priority": r.priority,
                    "matched": r.matched,
                    "failed": r.failed,
                }
                for r in self.rules
            ],
            "predicted": {"joules": self.predicted_joules, "accuracy": self.predicted_accuracy},
            "cascade": None if self.cascade is None else _cascade_json(self.cascade),
            "candidates": [_candidate_json(candidate) for candidate in self.candidates],
            "margin_joules": self.margin_joules,
            "budget": None if self.budget is None else to_document(self.budget),
            "fallbacks": {
                "load_failed": _name_of(self.fallbacks.load_failed),
                "context_overflow": self.fallbacks.context_overflow,
                "no_answer": self.fallbacks.no_answer,
            },
            "notices": list(self.notices),
            "shadow": None if self.shadow is None else _shadow_json(self.shadow),
        }


def _joules_json(joules: PredictedJoules) -> JoulesTrace:
    return {
        "total": joules.total,
        "load": joules.load,
        "prefill": joules.prefill,
        "decode": joules.decode,
        "uncertainty": joules.uncertainty,
        "seconds": joules.seconds,
        "source": joules.source,
    }


def _name_of(arm: Arm | None) -> str | None:
    return None if arm is None else arm.name


def _cascade_json(cascade: Cascade) -> CascadeTrace:
    return {
        "arms": [{"arm": arm.name, "model": arm.model} for arm in cascade.arms],
        "accept_at": cascade.accept_at,
        "max_hops": cascade.max_hops,
        "max_joules": cascade.max_joules,
    }


def _candidate_json(candidate: Candidate) -> CandidateTrace:
    joules, accuracy = candidate.joules, candidate.accuracy
    return {
        "arm": candidate.arm.name,
        "model": candidate.arm.model,
        "joules": None if joules is None else _joules_json(joules),
        "accuracy": None if accuracy is None else to_document(accuracy),
        "failed": candidate.failed,
    }


def _shadow_json(shadow: Shadow) -> ShadowTrace:
    arm = shadow.arm
    return {
        "policy": shadow.policy,
        "rule": shadow.rule,
        "arm": arm.name if arm is not None else None,
        "model": arm.model if arm is not None else None,
        "reasoning": arm.reasoning if arm is not None else None,
        "why": shadow.why,
        "predicted_joules": shadow.predicted_joules,
    }

"""The result of routing: the chosen arm and why it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar, overload

from etui.arm import Arm
from etui.codec import to_document
from etui.routing.limits import Candidate, Cascade, Fallbacks, TurnBudget
from etui.routing.prediction import PredictedAgreement, PredictedJoules
from etui.routing.trace import (
    CandidateTrace,
    CascadeTrace,
    DecisionTrace,
    JoulesTrace,
    OddsTrace,
    ShadowTrace,
)

T = TypeVar("T")

NO_RULE_MATCHED = "no rule matched"
"""The reason of the rule that takes the remaining questions."""


class Deferred(Sequence[T], Generic[T]):
    """A sequence that is built when it is first read.

    Formatting a trace takes longer than the decision itself, and most traces are never read.
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
    """One signal and its value for a query."""

    name: str
    holds: bool
    value: float | str | None  # A number, a language or a model; None if unknown
    boundary: float | str | None
    """Where it would change: the nearest end of its range, or the required word."""
    test: str = ""  # The requirement in words ("at least 3")
    detail: str = ""  # What was found, where a number alone says little ("calculate, how many")

    @property
    def distance(self) -> float | None:
        """Distance of the value from its boundary; None if either is not a number."""
        if isinstance(self.value, str | None) or isinstance(self.boundary, str | None):
            return None
        return abs(self.value - self.boundary)


@dataclass(frozen=True, slots=True)
class RuleTried:
    """One rule that was tried; ``failed`` names the first condition that failed."""

    name: str
    priority: int
    matched: bool
    failed: str | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """The decision of a shadow policy for the same query; it is logged and not carried out."""

    policy: str
    arm: Arm | None  # The arm it chose; None if it could not decide
    rule: str | None
    why: str  # Why it decided so, or why it could not
    predicted_joules: float | None = None
    """Predicted joules of that arm, its load excluded; None if unknown."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The arm for one query, and why it was chosen.

    Attributes:
        predicted_joules, predicted_accuracy: None without a prediction.
    """

    arm: Arm
    policy: str | None  # Name of the policy; None if the command line specified the arm in full
    rule: str | None  # Name of the rule that matched; None without a policy
    why: str  # The reason in one line ("math-thinks: calc (2 keywords), symbolic (4 of 3)")
    signals: Sequence[SignalValue] = ()
    """The signals that were evaluated; all of them for ``policy explain``."""
    rules: Sequence[RuleTried] = ()  # The rules that were tried, in order
    predicted_joules: float | None = None
    predicted_accuracy: float | None = None
    shadow: Shadow | None = None  # The decision of the shadow policy; None without one
    cascade: Cascade | None = None
    """The arms to try in turn; ``arm`` is the first. None for a single arm."""
    candidates: tuple[Candidate, ...] = ()
    """The candidates of an objective, cheapest first; empty without one."""
    margin_joules: float | None = None
    """Joules that the runner-up would cost more; None without one."""
    budget: TurnBudget | None = None  # What the turn may spend; None is no limit
    fallbacks: Fallbacks = field(default_factory=Fallbacks)
    """What to do when the answer cannot be produced as planned."""
    notices: tuple[str, ...] = ()
    """Messages for the user, such as that a budget led to a cheaper arm."""

    def trace(self) -> DecisionTrace:
        """Return the decision as plain JSON values."""
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
                "load_failed": _arm_name(self.fallbacks.load_failed),
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


def _arm_name(arm: Arm | None) -> str | None:
    return None if arm is None else arm.name


def _cascade_json(cascade: Cascade) -> CascadeTrace:
    document: CascadeTrace = {
        "arms": [{"arm": arm.name, "model": arm.model} for arm in cascade.arms],
        "accept_at": cascade.accept_at,
        "max_hops": cascade.max_hops,
        "max_joules": cascade.max_joules,
    }
    if cascade.agreements:
        document["agreements"] = [
            {
                "arms": list(step.arms),
                "accept_at": step.accept_at,
                "odds": None if step.odds is None else _odds_json(step.odds),
            }
            for step in cascade.agreements
        ]
    return document


def _odds_json(odds: PredictedAgreement) -> OddsTrace:
    return {
        "agreed": odds.agreed,
        "low": odds.low,
        "high": odds.high,
        "n": odds.n,
        "apart": list(odds.apart),
        "known": odds.known,
        "at_most": odds.at_most,
    }


def _candidate_json(candidate: Candidate) -> CandidateTrace:
    joules, accuracy = candidate.joules, candidate.accuracy
    return {
        "arm": candidate.arm.name,
        "model": candidate.arm.model,
        "machine": candidate.backend,
        "seconds": candidate.seconds,
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

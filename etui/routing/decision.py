"""What routing hands on: the chosen arm and why it was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from etui.arm import Arm
from etui.routing.plan import Candidate, Cascade, Fallbacks, TurnBudget


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
    """

    policy: str
    arm: Arm | None
    rule: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The arm for one query.

    Attributes:
        arm: What answers.
        policy: Name of the policy; None when the command line spelled the arm out.
        rule: Name of the rule that matched; None without a policy.
        why: One line a person reads ("math-thinks: calc (2 keywords), symbolic (4 of 3)").
        signals, rules: The whole trace, for ``policy explain`` and the log.
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
    signals: tuple[SignalValue, ...] = ()
    rules: tuple[RuleTried, ...] = ()
    predicted_joules: float | None = None
    predicted_accuracy: float | None = None
    shadow: Shadow | None = None
    cascade: Cascade | None = None
    candidates: tuple[Candidate, ...] = ()
    margin_joules: float | None = None
    budget: TurnBudget | None = None
    fallbacks: Fallbacks = Fallbacks()
    notices: tuple[str, ...] = ()

    def trace(self) -> dict[str, Any]:
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
            "shadow": None if self.shadow is None else _shadow_json(self.shadow),
        }


def _shadow_json(shadow: Shadow) -> dict[str, Any]:
    arm = shadow.arm
    return {
        "policy": shadow.policy,
        "rule": shadow.rule,
        "arm": arm.name if arm is not None else None,
        "model": arm.model if arm is not None else None,
        "reasoning": arm.reasoning if arm is not None else None,
        "why": shadow.why,
    }

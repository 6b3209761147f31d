"""The document of a decision, as the log and ``--json`` keep it: its keys, typed."""

from __future__ import annotations

from typing import TypedDict


class SignalTrace(TypedDict):
    """One signal as it was seen; see ``decision.SignalValue``."""

    name: str
    holds: bool
    value: float | str | None
    boundary: float | str | None
    distance: float | None
    test: str
    detail: str


class RuleTrace(TypedDict):
    """One rule as it was tried; see ``decision.RuleTried``."""

    name: str
    priority: int
    matched: bool
    failed: str | None


class Predicted(TypedDict):
    """What the arm is expected to spend and how likely it is right; None where unknown."""

    joules: float | None
    accuracy: float | None


class ArmOnModel(TypedDict):
    """An arm and its model."""

    arm: str
    model: str


class CascadeTrace(TypedDict):
    """A cascade; see ``plan.Cascade``."""

    arms: list[ArmOnModel]
    accept_at: float
    max_hops: int
    max_joules: float | None


class JoulesTrace(TypedDict):
    """Predicted joules; see ``plan.PredictedJoules``."""

    total: float
    load: float
    prefill: float
    decode: float
    uncertainty: float | None
    seconds: float | None
    source: str


class AccuracyTrace(TypedDict):
    """A predicted accuracy; see ``plan.PredictedAccuracy``."""

    p: float
    low: float
    confidence: float
    n: int
    source: str


class CandidateTrace(TypedDict):
    """One arm that was weighed; see ``plan.Candidate``."""

    arm: str
    model: str
    joules: JoulesTrace | None
    accuracy: AccuracyTrace | None
    failed: str | None


class BudgetTrace(TypedDict):
    """What the turn may spend; see ``plan.TurnBudget``."""

    joules: float | None
    tokens: int | None
    seconds: float | None


class FallbackTrace(TypedDict):
    """What follows when the answer cannot be had; see ``plan.Fallbacks``."""

    load_failed: str | None
    context_overflow: str
    no_answer: str


class ShadowTrace(TypedDict):
    """What a policy on trial would have done; see ``decision.Shadow``."""

    policy: str
    rule: str | None
    arm: str | None
    model: str | None
    reasoning: str | None
    why: str
    predicted_joules: float | None


class DecisionTrace(TypedDict):
    """A decision, whole; see ``decision.Decision``."""

    arm: str
    model: str
    policy: str | None
    rule: str | None
    why: str
    signals: list[SignalTrace]
    rules: list[RuleTrace]
    predicted: Predicted
    cascade: CascadeTrace | None
    candidates: list[CandidateTrace]
    margin_joules: float | None
    budget: BudgetTrace | None
    fallbacks: FallbackTrace
    notices: list[str]
    shadow: ShadowTrace | None

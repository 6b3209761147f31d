"""Types of the JSON document of a decision, as written to the log and by ``--json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class SignalTrace(TypedDict):
    """One signal and its value; see ``decision.SignalValue``."""

    name: str
    holds: bool
    value: float | str | None
    boundary: float | str | None
    distance: float | None
    test: str
    detail: str


class RuleTrace(TypedDict):
    """One rule that was tried; see ``decision.RuleTried``."""

    name: str
    priority: int
    matched: bool
    failed: str | None


class Predicted(TypedDict):
    """Predicted joules and accuracy of the chosen arm; None if unknown."""

    joules: float | None
    accuracy: float | None


class ArmOnModel(TypedDict):
    """An arm and its model."""

    arm: str
    model: str


class AgreementTrace(TypedDict):
    """A step of several answers; see ``limits.Agreement``."""

    arms: list[str]
    accept_at: float
    odds: OddsTrace | None


class OddsTrace(TypedDict):
    """How likely an agreed answer is right; see ``prediction.PredictedAgreement``."""

    agreed: float
    low: float
    high: float
    n: int
    apart: list[float]
    known: bool
    at_most: float


class CascadeTrace(TypedDict):
    """A cascade; see ``limits.Cascade``."""

    arms: list[ArmOnModel]
    accept_at: float
    max_hops: int
    max_joules: float | None
    agreements: NotRequired[list[AgreementTrace]]


class JoulesTrace(TypedDict):
    """Predicted joules; see ``prediction.PredictedJoules``."""

    total: float
    load: float
    prefill: float | None
    decode: float | None
    uncertainty: float | None
    seconds: float | None
    source: str


class AccuracyTrace(TypedDict):
    """A predicted accuracy; see ``prediction.PredictedAccuracy``."""

    p: float
    low: float
    confidence: float
    n: int
    source: str


class CandidateTrace(TypedDict):
    """One candidate of an objective; see ``limits.Candidate``. ``machine`` is null for this one."""

    arm: str
    model: str
    machine: str | None
    seconds: float | None
    joules: JoulesTrace | None
    accuracy: AccuracyTrace | None
    failed: str | None


class BudgetTrace(TypedDict):
    """What the turn may spend; see ``limits.TurnBudget``."""

    joules: float | None
    tokens: int | None
    seconds: float | None


class FallbackTrace(TypedDict):
    """What to do when an answer cannot be produced; see ``limits.Fallbacks``."""

    load_failed: str | None
    context_overflow: str
    no_answer: str


class ShadowTrace(TypedDict):
    """The decision of a shadow policy; see ``decision.Shadow``."""

    policy: str
    rule: str | None
    arm: str | None
    model: str | None
    reasoning: str | None
    why: str
    predicted_joules: float | None


class DecisionTrace(TypedDict):
    """A whole decision; see ``decision.Decision``."""

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

"""Explain why a policy would choose an arm, with every signal and prediction, loading no model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from etui.arm import Speculate
from etui.errors import ModelUnavailable
from etui.routing.trace import DecisionTrace
from etui.runtime.fit_health_text import FitTrace, build_fit_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etui.chat import Query
    from etui.config.config import Config
    from etui.models.spec import ModelSpec
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.routing.prediction import Predictor
    from etui.runtime.decide import Choice
    from etui.runtime.open import Runtime

_CONFIDENCE = 0.9
"""Confidence of the accuracy bound that is shown, unless an objective asks for another."""


class ModelOfArm(TypedDict):
    """One of the models that an arm may use."""

    model: str
    on_disk: bool


class PeriodLimit(TypedDict):
    """The joules that all turns of an hour or a day may use.

    See :class:`etui.routing.limits.PeriodBudget`.
    """

    period: str
    joules: float
    when_exceeded: str


class NeedFound(TypedDict):
    """A predicted need of the question, with the probabilities that it helps and that it harms."""

    need: Literal["reasoning", "larger_model"]
    base: str
    other: str
    gained: float
    lost: float
    gain: float
    n: int


class Explanation(DecisionTrace):
    """The document of ``etui policy explain --json``; None for what the arm does not use."""

    query: str
    policy_file: str | None
    reasoning: str
    think_tokens: int | None
    votes: int | None
    max_tokens: int
    speculate: Speculate
    loop_guard: bool
    on_disk: bool
    models: list[ModelOfArm]
    period_budgets: list[PeriodLimit]
    needs: list[NeedFound]
    fit: FitTrace | None


def explain(query: Query, policy: Policy, runtime: Runtime[Any]) -> Explanation:
    """Explain the decision for a query as plain JSON values.

    Args:
        policy: The policy, which need not be saved.
        runtime: This machine, whose log, state and fits are read; no model is loaded.

    Raises:
        EtuiError: The policy selects no arm, or the policy's fit is damaged.
    """
    return _build_document(query, decide_for_show(query, policy, runtime), policy, runtime)


def explain_choice(
    query: Query, choice: Choice, runtime: Runtime[Any], policy_name: str | None = None
) -> Explanation:
    """Explain a decision that was made already, as plain JSON values.

    Signals that the decision did not need are left out.

    Args:
        choice: The decision, with the user's options applied.
        runtime: This machine; no model is loaded.
        policy_name: Name or path of the policy that decided; None is the one of config.yaml.

    Raises:
        EtuiError: The policy was removed or damaged meanwhile, or its fit is damaged.
    """
    from etui.routing.library import load_policy

    decision = choice.decision
    if choice.predictor is not None:
        decision = _add_predictions(decision, query, choice.predictor, runtime.catalogue.models)
    policy = None
    if decision.policy is not None:
        name = policy_name or runtime.config.policy
        policy = load_policy(name, runtime.config, runtime.catalogue.models)
    return _build_document(query, decision, policy, runtime)


def _build_document(
    query: Query, decision: Decision, policy: Policy | None, runtime: Runtime[Any]
) -> Explanation:
    arm = decision.arm
    on_disk = runtime.find_available()
    planned = policy.arms.get(arm.name) if policy is not None else None
    return {
        "query": query.text,
        **decision.trace(),
        "policy_file": None if policy is None else str(policy.path),
        "reasoning": arm.reasoning,
        "think_tokens": arm.think_tokens if arm.reasoning != "direct" else None,
        "votes": arm.votes if arm.reasoning == "vote" else None,
        "max_tokens": arm.max_tokens,
        "speculate": arm.speculate,
        "loop_guard": runtime.config.loop_guard if arm.loop_guard is None else arm.loop_guard,
        "on_disk": on_disk(arm.model),
        "models": [
            {"model": m, "on_disk": on_disk(m)}
            for m in ((arm.model,) if planned is None else planned.models)
        ],
        "period_budgets": [
            {"period": b.period, "joules": b.joules, "when_exceeded": b.when_exceeded}
            for b in (() if policy is None else policy.period_budgets)
        ],
        "needs": [] if policy is None else _predict_needs(query, policy, runtime.config),
        "fit": None if policy is None else _describe_fit(policy, runtime),
    }


def _describe_fit(policy: Policy, runtime: Runtime[Any]) -> FitTrace | None:
    from etui.runtime.decide import read_fit_health

    health = read_fit_health(policy, runtime)
    return None if health is None else build_fit_document(health)


def _predict_needs(query: Query, policy: Policy, config: Config) -> list[NeedFound]:
    """Predict what the question needs beyond each base arm; empty without a fit.

    Arms that the policy no longer has are left out.
    """
    from etui.routing.accuracy.predictor import load_heads

    heads = load_heads(policy, config)
    return [
        {
            "need": need.need,
            "base": need.base,
            "other": need.other,
            "gained": need.gained,
            "lost": need.lost,
            "gain": need.gain,
            "n": need.n,
        }
        for need in (heads.needs(query) if heads is not None else ())
        if need.base in policy.arms and need.other in policy.arms
    ]


def decide_for_show(query: Query, policy: Policy, runtime: Runtime[Any]) -> Decision:
    """Decide with every signal evaluated and every candidate predicted, for display.

    If no model of the policy is on this machine, decide as if all of them were.

    Raises:
        EtuiError: The policy selects no arm, or the policy's fit is damaged.
    """
    from etui.runtime.decide import collect_knowledge, decide_query
    from etui.runtime.host import read_host

    host = read_host(runtime.config)
    knowledge = collect_knowledge(policy, runtime, host.resident)
    try:
        choice = decide_query(
            query, policy, runtime, host=host, knowledge=knowledge, every_signal=True
        )
    except ModelUnavailable:
        choice = decide_query(
            query,
            policy,
            runtime,
            host=host,
            knowledge=knowledge,
            available=lambda model: True,
            every_signal=True,
        )
    return _add_predictions(choice.decision, query, knowledge.predictor, runtime.catalogue.models)


def _add_predictions(
    decision: Decision, query: Query, predictor: Predictor, models: Mapping[str, ModelSpec]
) -> Decision:
    """Add the predictions of each arm, also if no rule needed them."""
    from etui.routing.limits import Candidate
    from etui.routing.places import find_place

    arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
    candidates = decision.candidates or [
        Candidate(arm, None, None, None, find_place(models, arm.model).backend) for arm in arms
    ]

    def predict(candidate: Candidate) -> Candidate:
        arm = candidate.arm
        joules = candidate.joules or predictor.joules(arm, query)
        seconds = joules.seconds if joules is not None else predictor.duration(arm, query)
        accuracy = candidate.accuracy or predictor.accuracy(arm, query, _CONFIDENCE)
        return replace(candidate, joules=joules, accuracy=accuracy, seconds=seconds)

    return replace(decision, candidates=tuple(map(predict, candidates)))

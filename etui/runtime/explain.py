"""Why a policy would choose what it chooses, with everything behind it; nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypedDict

from etui.errors import ModelUnavailable
from etui.routing.trace import DecisionTrace

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.routing.prediction import Predictor

_CONFIDENCE = 0.9
"""Of the bound shown beside an accuracy where no objective asks for another."""


class ModelOfArm(TypedDict):
    """One of the models that can serve the arm."""

    model: str
    on_disk: bool


class PeriodLimit(TypedDict):
    """What all turns of an hour or a day may spend; see ``plan.PeriodBudget``."""

    period: str
    joules: float
    when_exceeded: str


class NeedFound(TypedDict):
    """What the question seems to need; probabilities that it gains and loses by it."""

    need: Literal["reasoning", "larger_model"]
    base: str
    other: str
    gained: float
    lost: float
    gain: float
    n: int


class Explanation(DecisionTrace):
    """The document of ``etui policy explain --json``; None where the arm does without."""

    query: str
    policy_file: str
    reasoning: str
    think_tokens: int | None
    votes: int | None
    max_tokens: int
    on_disk: bool
    models: list[ModelOfArm]
    period_budgets: list[PeriodLimit]
    needs: list[NeedFound]


def explanation(
    query: Query,
    policy: Policy,
    config: Config,
    catalogue: Catalogue,
    here: Callable[[str], bool],
) -> Explanation:
    """The decision for a query as plain JSON values, with what its arm would do and what it needs.

    Args:
        query: What is asked.
        policy: The rules; they need not be saved.
        config: Whose log, machine and fits are looked at.
        catalogue: The models.
        here: Which of them are on this machine.

    Raises:
        EtuiError: The policy comes to no arm, or what was fitted for it is damaged.
    """
    decision = decide_for_show(query, policy, config, catalogue, here)
    arm = decision.arm
    return {
        "query": query.text,
        **decision.trace(),
        "policy_file": str(policy.path),
        "reasoning": arm.reasoning,
        "think_tokens": arm.think_tokens if arm.reasoning != "direct" else None,
        "votes": arm.votes if arm.reasoning == "vote" else None,
        "max_tokens": arm.max_tokens,
        "on_disk": here(arm.model),
        "models": [{"model": m, "on_disk": here(m)} for m in policy.arms[arm.name].models],
        "period_budgets": [
            {"period": b.period, "joules": b.joules, "when_exceeded": b.when_exceeded}
            for b in policy.period_budgets
        ],
        "needs": _needs(query, policy, config),
    }


def _needs(query: Query, policy: Policy, config: Config) -> list[NeedFound]:
    """What the question seems to need beyond each base arm; empty where nothing was fitted."""
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
    ]


def decide_for_show(
    query: Query,
    policy: Policy,
    config: Config,
    catalogue: Catalogue,
    here: Callable[[str], bool],
) -> Decision:
    """The decision with every signal, its candidates, and what a shadow would have done.

    Where no model of it is on this machine, it is made as if every model were.

    Raises:
        EtuiError: The policy comes to no arm, or what was fitted for it is damaged.
    """
    from etui.routing.decide import decide
    from etui.routing.shadow import with_shadow
    from etui.runtime.host import read_host
    from etui.runtime.log_predictor import predictor_for
    from etui.runtime.similar_questions import read_neighbours

    host = read_host(config)
    outlook = predictor_for(policy, config, catalogue, host.resident)
    neighbours = read_neighbours(policy, config)
    available = here

    def decision() -> Decision:
        return decide(
            query,
            policy,
            available=available,
            host=host,
            outlook=outlook,
            neighbours=neighbours,
            every_signal=True,
        )

    try:
        decided = decision()
    except ModelUnavailable:
        available = _anything
        decided = decision()
    decided = with_shadow(
        decided,
        policy,
        query,
        config,
        catalogue.models,
        available=available,
        host=host,
        look_ahead=lambda other: (
            predictor_for(other, config, catalogue, host.resident),
            read_neighbours(other, config),
        ),
    )
    return _with_predictions(decided, query, outlook)


def _with_predictions(decision: Decision, query: Query, outlook: Predictor) -> Decision:
    """The decision with what is known of each arm, also where no rule asked for it."""
    from etui.routing.limits import Candidate

    arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
    candidates = decision.candidates or [Candidate(arm, None, None, None) for arm in arms]
    known = (
        replace(
            candidate,
            joules=candidate.joules or outlook.joules(candidate.arm, query),
            accuracy=candidate.accuracy or outlook.accuracy(candidate.arm, query, _CONFIDENCE),
        )
        for candidate in candidates
    )
    return replace(decision, candidates=tuple(known))


def _anything(_: str) -> bool:
    """As if every model were on this machine."""
    return True

"""Decide by a policy with what is known on this machine: its log, its fits, earlier questions.

The chat, ``ask``, ``serve``, ``bench --policy``, the explanation and the replay of the log all
decide here, so that they decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etui.chat import Query
from etui.errors import LogUnavailable
from etui.routing.policy import CascadePlan

if TYPE_CHECKING:
    from etui.log.queries import LogReader
    from etui.routing.accuracy.fitted_file import FittedModel
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.routing.signals.host_state import HostState
    from etui.routing.signals.similarity import EarlierQuestions
    from etui.runtime.fit_health import FitHealth
    from etui.runtime.log_predictor import Heads, LogPredictor
    from etui.runtime.open import Runtime


@dataclass(frozen=True, slots=True)
class PolicyKnowledge:
    """Facts of this machine that a policy decides with, in addition to the query."""

    predictor: LogPredictor
    """Predicts the joules of the arms from the log, and their accuracy from the fit."""
    earlier: EarlierQuestions | None
    """The questions that ``nearest`` signals compare with; None if the policy has no such signal,
    or the log cannot be read."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision, and the predictor to use while its turn runs."""

    decision: Decision  # The chosen arm or cascade
    predictor: LogPredictor | None = None
    """Predicts joules and accuracy of the policy's arms; None if no policy decided."""


def collect_knowledge(
    policy: Policy, runtime: Runtime[Any], resident: str | None = None
) -> PolicyKnowledge:
    """Collect the facts of this machine for a policy's decisions; most are read when needed.

    Args:
        policy: The policy, which need not be saved.
        resident: Name of the model in memory, which needs no load.
    """
    from etui.runtime.log_predictor import build_predictor
    from etui.runtime.similar_questions import read_neighbours

    predictor = build_predictor(
        policy,
        runtime.config,
        runtime.catalogue,
        resident,
        log=runtime.log_cache,
        read_heads=lambda: _read_heads(policy, runtime),
    )
    earlier = read_neighbours(policy, runtime.config, runtime.log_cache, runtime.neighbours)
    return PolicyKnowledge(predictor, earlier)


def _read_heads(policy: Policy, runtime: Runtime[Any]) -> Heads | None:
    """Read a policy's fit; where it is worse than its rates by now, the rates predict."""
    from etui.routing.accuracy.predictor import AccuracyPredictor
    from etui.runtime.fit_health import GuardedHeads, list_models_now
    from etui.runtime.fit_health_text import build_notice

    heads = runtime.policies.load_heads(policy)
    if not isinstance(heads, AccuracyPredictor):
        return heads
    models = list_models_now(policy)
    try:
        health = _compare_with_log(policy, heads.model, runtime, models)
    except LogUnavailable:  # a log that cannot be read must not prevent an answer
        return heads
    notice = build_notice(health, policy.name)
    return GuardedHeads(heads, health.set_aside, notice) if notice else heads


def read_fit_health(policy: Policy, runtime: Runtime[Any]) -> FitHealth | None:
    """Compare a policy's fit with the policy, the models here and the log; None without a fit.

    Raises:
        InvalidFile: The fit is damaged.
    """
    from etui.routing.accuracy.predictor import AccuracyPredictor
    from etui.runtime.fit_health import list_models_now, measure_health

    heads = runtime.policies.load_heads(policy)
    if not isinstance(heads, AccuracyPredictor):
        return None
    models = list_models_now(policy, runtime.find_available())
    try:
        return _compare_with_log(policy, heads.model, runtime, models)
    except LogUnavailable:
        return measure_health(heads.model, policy, None, models=models)


def _compare_with_log(
    policy: Policy,
    model: FittedModel,
    runtime: Runtime[Any],
    models: Mapping[str, tuple[str, ...]],
) -> FitHealth:
    """Compare a fit with the log, once for each state of it."""
    from etui.runtime.fit_health import read_health_from

    def read(log: LogReader) -> FitHealth:
        return read_health_from(log, policy, model, models)

    # What the health depends on besides the log: the arms, and the steps of several answers.
    arms = tuple((name, plan.models, plan.arm.reasoning) for name, plan in policy.arms.items())
    ends = tuple(rule.then for rule in policy.rules if isinstance(rule.then, CascadePlan))
    key = ("fit", policy.name, arms, tuple(models.items()), ends, model.provenance.fitted_at)
    return runtime.log_cache.get(key, read)


def decide_query(
    query: Query,
    policy: Policy,
    runtime: Runtime[Any],
    *,
    host: HostState | None,
    arm: str | None = None,
    knowledge: PolicyKnowledge | None = None,
    degraded: str | None = None,
    available: Callable[[str], bool] | None = None,
    every_signal: bool = False,
    shadow: bool = True,
) -> Choice:
    """Decide which arm answers a query on this machine.

    Args:
        policy: The policy, which need not be saved.
        host: State of the machine; None leaves host signals unknown (a replay).
        arm: An arm of the policy to use without trying the rules.
        knowledge: Facts of this machine for the policy; None collects them now.
        degraded: Why the cheapest arm has to answer; None lets the rules decide.
        available: Returns whether a model counts as on disk; None looks at the disk.
        every_signal: Whether signals that no rule needed are evaluated too, for display.
        shadow: Whether the policy's shadow decides too.

    Raises:
        UsageError: The policy has no such arm.
        ModelUnavailable: No model that the policy allows is on this machine.
        InvalidFile: The policy's fit is damaged.
    """
    from etui.routing.decide import decide, decide_arm, replace_by_cheapest

    is_available = available or runtime.find_available()
    if knowledge is None:
        knowledge = collect_knowledge(policy, runtime, _find_resident(host))
    predictor = knowledge.predictor
    if arm is not None:
        named = decide_arm(policy, arm, available=is_available, query=query, outlook=predictor)
        if degraded:
            notice = f"{degraded}: {arm} answers anyway, as it was named"
            named = replace(named, notices=(*named.notices, notice))
        return Choice(named, predictor)
    decision = decide(
        query,
        policy,
        available=is_available,
        host=host,
        outlook=predictor,
        neighbours=knowledge.earlier,
        every_signal=every_signal,
    )
    if degraded:
        decision = replace_by_cheapest(decision, policy, query, predictor, is_available, degraded)
    if notice := predictor.fit_notice():
        decision = replace(decision, notices=(*decision.notices, notice))
    if decision.cascade is not None:
        predictor.calibrated(decision.arm, None, None)  # report a damaged fit now
    if shadow:
        decision = _add_shadow(decision, policy, query, runtime, is_available, host)
    return Choice(decision, predictor)


def _add_shadow(
    decision: Decision,
    policy: Policy,
    query: Query,
    runtime: Runtime[Any],
    is_available: Callable[[str], bool],
    host: HostState | None,
) -> Decision:
    from etui.routing.shadow import add_shadow

    def collect(other: Policy) -> tuple[LogPredictor, EarlierQuestions | None]:
        known = collect_knowledge(other, runtime, _find_resident(host))
        return known.predictor, known.earlier

    return add_shadow(
        decision,
        policy,
        query,
        runtime.config,
        runtime.catalogue.models,
        available=is_available,
        host=host,
        look_ahead=collect,
        load=runtime.load_policy,
    )


def _find_resident(host: HostState | None) -> str | None:
    return host.resident if host is not None else None

"""Decide by a policy with what is known on this machine: its log, its fits, earlier questions.

The chat, ``ask``, ``serve``, ``bench --policy``, the explanation and the replay of the log all
decide here, so that they decide alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from etui.arm import OPEN_SAMPLING, Arm
from etui.atomic import write_text
from etui.chat import Query
from etui.errors import HOME_FIX, BudgetSpent, ModelUnavailable, UsageError, writing
from etui.routing.decision import Decision, PeriodBudget
from etui.runtime.model_resolution import (
    catalogue_name,
    check_draft_option,
    choose_speculation,
)
from etui.runtime.overrides import (
    Overrides,
    apply_effort,
    apply_overrides,
    asks_for_reasoning,
    check_effort,
)
from etui.units import ESTIMATE, count_text, energy_text

if TYPE_CHECKING:
    from pathlib import Path

    from etui.config.config import Config
    from etui.learning.predictor import AccuracyPredictor
    from etui.log.totals import Spending
    from etui.routing.policy import Policy
    from etui.routing.signals import HostState
    from etui.routing.similarity import EarlierQuestions
    from etui.runtime.log_predictor import LogPredictor
    from etui.runtime.runtime import Runtime


def fallback_model_file(config: Config) -> Path:
    """Return the path of the file with the model that answers for the models that are missing."""
    return config.home / "stand_in.json"


def load_fallback_model(config: Config) -> str | None:
    """Load the name of the model; None without one, or from a damaged file."""
    try:
        name = json.loads(fallback_model_file(config).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def save_fallback_model(config: Config, model: str) -> None:
    """Keep the name of the model; EtuiError if the file cannot be written."""
    path = fallback_model_file(config)
    with writing(path, HOME_FIX):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"model": model}) + "\n")


Confirm = Callable[[str], bool]
"""Asks the user a question and returns whether the answer is yes."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A spent budget, with the energy used in its period."""

    budget: PeriodBudget
    spending: Spending

    @property
    def text(self) -> str:
        """``the last hour took 21.3 kJ, but the policy allows 20.0 kJ``."""
        period = "the last hour" if self.budget.period == "hour" else "today"
        kind = ESTIMATE if self.spending.estimated else None
        took = energy_text(self.spending.joules, kind=kind)
        text = f"{period} took {took}, but the policy allows {energy_text(self.budget.joules)}"
        if self.spending.unmeasured_turns:
            turns = count_text(self.spending.unmeasured_turns, "turn")
            text += f" ({turns} unmeasured and not counted)"
        return text

    @property
    def message(self) -> str:
        """``the hourly budget is spent: the last hour took ...``."""
        adjective = {"hour": "hourly", "day": "daily"}[self.budget.period]
        return f"the {adjective} budget is spent: {self.text}"


def compute_period_start(budget: PeriodBudget, now: datetime) -> datetime:
    """Compute when a budget's period began: an hour ago, or the last midnight in ``now``'s zone."""
    if budget.period == "hour":
        return now - timedelta(hours=1)
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def find_overruns(
    budgets: Sequence[PeriodBudget], sum_joules_since: Callable[[datetime], Spending], now: datetime
) -> tuple[Overrun, ...]:
    """Find the budgets that are spent."""
    found = [
        Overrun(budget, sum_joules_since(compute_period_start(budget, now))) for budget in budgets
    ]
    return tuple(each for each in found if each.spending.joules >= each.budget.joules)


def _settle_budgets(
    policy: Policy, config: Config, confirm: Confirm | None, over_budget: bool
) -> str | None:
    """Apply the ``when_exceeded`` of spent budgets: first refuse, then ask, then degrade.

    Returns:
        Why the cheapest arm has to answer; None if the policy decides as usual.

    Raises:
        BudgetSpent: A budget refuses, or the user did not agree.
        LogUnavailable: The log cannot be read, so the energy used is unknown.
    """
    from etui.log.queries import LogReader
    from etui.log.totals import sum_joules_since

    with LogReader(config) as log:
        now = datetime.now().astimezone()
        spent = find_overruns(
            policy.period_budgets, lambda moment: sum_joules_since(log, moment), now
        )
    for each in spent:
        if each.budget.when_exceeded == "refuse":
            fix = f"wait for the next {each.budget.period}, raise `budgets` in the policy, or use "
            raise BudgetSpent(each.message, fix + "--model")
    for each in spent:
        if each.budget.when_exceeded == "ask":
            agreed = over_budget or (confirm is not None and confirm(f"{each.message}. Continue?"))
            if not agreed:
                raise BudgetSpent(each.message, "add --over-budget to continue, or use --model")
    degrading = (each for each in spent if each.budget.when_exceeded == "degrade")
    return next((each.text for each in degrading), None)


def choose(
    query: Query,
    overrides: Overrides,
    runtime: Runtime[Any],
    read_host: Callable[[], HostState] | None = None,
    *,
    confirm: Confirm | None = None,
    within_budgets: bool = True,
    effort: str | None = None,
) -> Choice:
    """Choose the arm or cascade that answers a query.

    Args:
        effort: How much a client wants the answer to think: by the policy's ``efforts``, else by
            the ladder of :mod:`etui.runtime.overrides`. Overrides of the reasoning come before it.

    Raises:
        UsageError: A name does not exist, or the overrides exclude each other.
        InvalidRequest: There is no such effort.
        InvalidFile: The policy is not valid.
        ModelUnavailable: No model that the policy allows is on this machine.
        BudgetSpent: A spent budget refuses the query, or the user did not confirm.
    """
    if overrides.model and (overrides.policy or overrides.arm):
        raise UsageError(
            "--model cannot be combined with --policy or --arm", "pass only one of them"
        )
    if effort is not None:
        effort = None if asks_for_reasoning(overrides) else check_effort(effort)
    model = overrides.model
    if not (model or overrides.policy or overrides.arm):
        model = runtime.config.model
    if model:
        choice = Choice(_decide_named(model, overrides, runtime, effort))
    else:
        policy = load_policy_here(overrides, runtime)
        degraded = None
        if within_budgets and policy.period_budgets:
            degraded = _settle_budgets(policy, runtime.config, confirm, overrides.over_budget)
        host = read_host() if read_host is not None and not overrides.arm else None
        choice = _decide_by_policy(query, policy, runtime, host, overrides.arm, degraded, effort)
    decision, catalogue = apply_overrides(choice.decision, overrides), runtime.catalogue
    if overrides.speculate == "draft":
        arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
        check_draft_option(arms, catalogue)
    if catalogue.problem:  # why settings that a sweep chose are not used
        decision = replace(decision, notices=(*decision.notices, catalogue.problem))
    return replace(choice, decision=decision)


def _decide_named(
    model: str, overrides: Overrides, runtime: Runtime[Any], effort: str | None
) -> Decision:
    """Take a model that the user or config.yaml names, without a policy."""
    model = catalogue_name(model, runtime.config, runtime.catalogue)
    spec = runtime.catalogue.get(model)  # report an unknown name before any energy is used
    named = "`model` in config.yaml"
    if overrides.model:
        named = "the request names" if overrides.lenient else "--model"
    way = overrides.reasoning or "direct"
    speculate = choose_speculation(spec, way)
    arm = Arm(way, model, speculate=speculate, sampling_from=OPEN_SAMPLING)
    decision = Decision(arm, None, None, f"{named} {model}")
    return decision if effort is None else apply_effort(decision, effort)


def _decide_by_policy(
    query: Query,
    policy: Policy,
    runtime: Runtime[Any],
    host: HostState | None,
    arm: str | None,
    degraded: str | None,
    effort: str | None,
) -> Choice:
    """Decide by a policy, of which the user may name an arm, and a client an effort."""
    knowledge = collect_knowledge(policy, runtime, host)
    effort = effort if degraded is None else None
    by_effort = policy.efforts.get(effort) if effort is not None and arm is None else None
    if by_effort is not None:
        with suppress(ModelUnavailable):  # the arm that the policy names has no model here
            choice = decide_query(query, policy, knowledge=knowledge, arm=by_effort)
            why = f"reasoning_effort {effort}: {choice.decision.why}"
            return replace(choice, decision=replace(choice.decision, why=why))
    choice = decide_query(query, policy, knowledge=knowledge, arm=arm, degraded=degraded)
    if arm is None:
        choice = add_shadow_decision(choice, query, policy, runtime, knowledge)
    if effort is not None:
        return replace(choice, decision=apply_effort(choice.decision, effort))
    return choice


def load_policy_here(overrides: Overrides, runtime: Runtime[Any]) -> Policy:
    """Load the policy that routes, with the model that the user has chosen for missing ones.

    Raises:
        InvalidFile: The policy is not valid.
        ModelUnavailable: There is no model on this machine.
    """
    from etui.models.spec import STARTER
    from etui.routing.policy import add_fallback_model

    config, catalogue = runtime.config, runtime.catalogue
    policy = runtime.load_policy(overrides.policy or config.policy)
    is_available = runtime.find_available()
    if not any(is_available(spec.name) for spec in catalogue):
        raise ModelUnavailable(
            f"there is no model on this machine yet: none in {config.models_dir}",
            f"run: etui models pull {STARTER}",
        )
    chosen = load_fallback_model(config)
    return policy if chosen is None else add_fallback_model(policy, chosen, is_available)


@dataclass(frozen=True, slots=True)
class PolicyKnowledge:
    """Facts of this machine that a policy decides with, in addition to the query."""

    predictor: LogPredictor
    """Predicts the joules of the arms from the log, and their accuracy from the fit."""
    earlier: EarlierQuestions | None
    """The questions that ``nearest`` signals compare with; None if the policy has no such signal,
    or the log cannot be read."""
    host: HostState | None  # State of the machine; None leaves host signals unknown (a replay)
    available: Callable[[str], bool]  # Returns whether a named model counts as on disk


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision, and the predictor to use while its turn runs."""

    decision: Decision  # The chosen arm or cascade
    predictor: LogPredictor | None = None
    """Predicts joules and accuracy of the policy's arms; None if no policy decided."""


def collect_knowledge(
    policy: Policy,
    runtime: Runtime[Any],
    host: HostState | None = None,
    resident: str | None = None,
    available: Callable[[str], bool] | None = None,
) -> PolicyKnowledge:
    """Collect the facts of this machine for a policy's decisions; most are read when needed.

    Without a resident model it is that of the host; without ``available``, the disk says.
    """
    from etui.runtime.log_predictor import LogPredictor, read_neighbours

    predictor = LogPredictor(
        runtime.config,
        runtime.catalogue,
        resident or (host.resident if host is not None else None),
        lambda: _read_heads(policy, runtime),
        runtime.log_cache,
    )
    earlier = read_neighbours(policy, runtime.config, runtime.log_cache, runtime.neighbours)
    return PolicyKnowledge(predictor, earlier, host, available or runtime.find_available())


def _read_heads(policy: Policy, runtime: Runtime[Any]) -> AccuracyPredictor | None:
    """Read a policy's fit; where it is worse than its rates by now, the rates predict."""
    from etui.runtime.fit_health import build_notice, read_health

    heads = runtime.load_fit(policy)
    if heads is None:
        return None
    health = read_health(runtime.config, policy, heads.model, kept=runtime.log_cache)
    notice = build_notice(health, policy.name)
    return heads.set_aside(health.set_aside, notice) if notice else heads


def decide_query(
    query: Query,
    policy: Policy,
    *,
    knowledge: PolicyKnowledge,
    arm: str | None = None,
    degraded: str | None = None,
    every_signal: bool = False,
) -> Choice:
    """Decide which arm answers a query on this machine; the policy's shadow does not decide.

    Args:
        arm: An arm of the policy to use without trying the rules.
        degraded: Why the cheapest arm has to answer; None lets the rules decide.
        every_signal: Whether signals that no rule needed are evaluated too, for display.

    Raises:
        UsageError: The policy has no such arm.
        ModelUnavailable: No model that the policy allows is on this machine.
        InvalidFile: The policy's fit is damaged.
    """
    from etui.routing.decide import decide, decide_arm, replace_by_cheapest

    predictor, available = knowledge.predictor, knowledge.available
    if arm is not None:
        named = decide_arm(policy, arm, available=available, query=query, predictor=predictor)
        if degraded:
            notice = f"{degraded}: {arm} answers anyway, as it was named"
            named = replace(named, notices=(*named.notices, notice))
        return Choice(named, predictor)
    decision = decide(
        query,
        policy,
        available=available,
        host=knowledge.host,
        predictor=predictor,
        neighbours=knowledge.earlier,
        every_signal=every_signal,
    )
    if degraded:
        decision = replace_by_cheapest(decision, policy, query, predictor, available, degraded)
    if notice := predictor.fit_notice():
        decision = replace(decision, notices=(*decision.notices, notice))
    if decision.cascade is not None:
        predictor.calibrated(decision.arm, None, None)  # report a damaged fit now
    return Choice(decision, predictor)


def add_shadow_decision(
    choice: Choice, query: Query, policy: Policy, runtime: Runtime[Any], knowledge: PolicyKnowledge
) -> Choice:
    """Return a choice with what the policy's shadow would have decided, if it has one."""
    from etui.routing.decide import add_shadow

    def collect(other: Policy) -> tuple[LogPredictor, EarlierQuestions | None]:
        known = collect_knowledge(other, runtime, knowledge.host)
        return known.predictor, known.earlier

    decision = add_shadow(
        choice.decision,
        policy,
        query,
        available=knowledge.available,
        host=knowledge.host,
        look_ahead=collect,
        load=runtime.load_policy,
    )
    return replace(choice, decision=decision)

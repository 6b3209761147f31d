"""Choose the arm that answers a query: a named model, a named arm, or the policy's decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.arm import OPEN_SAMPLING, Arm
from etui.chat import Query
from etui.errors import ModelUnavailable, UsageError
from etui.routing.decision import Decision
from etui.runtime.open import Choice, Runtime
from etui.runtime.overrides import apply_overrides
from etui.runtime.serving import (
    catalogue_name,
    check_draft_option,
    choose_speculation,
    models_on_disk,
)

if TYPE_CHECKING:
    from etui.routing.policy import Policy
    from etui.routing.signals.host_state import HostState
    from etui.runtime.overrides import Overrides
    from etui.runtime.period_budget import Confirm


def choose(
    query: Query,
    overrides: Overrides,
    runtime: Runtime[Any],
    read_host: Callable[[], HostState] | None = None,
    *,
    confirm: Confirm | None = None,
    within_budgets: bool = True,
) -> Choice:
    """Choose the arm or cascade that answers a query.

    Args:
        query: The question with its chat.
        overrides: The user's options, from the command line or the app.
        runtime: This machine.
        read_host: Reads the state of the machine; only called when a policy decides.
        confirm: Asks the user whether to exceed a budget; None if there is no one to ask.
        within_budgets: Whether the policy's hourly and daily budgets apply.

    Raises:
        UsageError: A name does not exist, or the overrides exclude each other.
        InvalidFile: The policy is not valid.
        ModelUnavailable: No model that the policy allows is on this machine.
        BudgetSpent: A spent budget refuses the query, or the user did not confirm.
    """
    config, catalogue = runtime.config, runtime.catalogue
    if overrides.model and (overrides.policy or overrides.arm):
        raise UsageError(
            "--model cannot be combined with --policy or --arm", "pass only one of them"
        )
    model = overrides.model or (config.model if not (overrides.policy or overrides.arm) else None)
    if model:
        model = catalogue_name(model, config, catalogue)
        spec = catalogue.get(model)  # report an unknown name before any energy is used
        named = "--model" if overrides.model else "`model` in config.yaml"
        way = overrides.reasoning or "direct"
        arm = Arm(
            way,
            model,
            speculate=choose_speculation(spec, way),
            sampling_from=OPEN_SAMPLING,
        )
        decision = apply_overrides(Decision(arm, None, None, f"{named} {model}"), overrides)
        _check_draft(decision, overrides, runtime)
        return Choice(_note_problem(decision, catalogue.problem))
    policy = _load_policy(overrides, runtime)
    degraded = None
    if within_budgets and policy.period_budgets:
        from etui.runtime.period_budget import read_overruns, settle

        overruns = read_overruns(policy.period_budgets, config)
        degraded = settle(overruns, confirm, overrides.over_budget)
    host = read_host() if read_host is not None and not overrides.arm else None
    choice = runtime.decide(query, policy, host=host, arm=overrides.arm, degraded=degraded)
    decision = apply_overrides(choice.decision, overrides)
    _check_draft(decision, overrides, runtime)
    return replace(choice, decision=_note_problem(decision, catalogue.problem))


def _note_problem(decision: Decision, problem: str) -> Decision:
    """Add why settings that a sweep chose are not used to the notices of a decision."""
    return replace(decision, notices=(*decision.notices, problem)) if problem else decision


def _check_draft(decision: Decision, overrides: Overrides, runtime: Runtime[Any]) -> None:
    if overrides.speculate == "draft":
        arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
        check_draft_option(arms, runtime.catalogue)


def _load_policy(overrides: Overrides, runtime: Runtime[Any]) -> Policy:
    from etui.models.spec import STARTER
    from etui.routing.library import load_policy

    config, catalogue = runtime.config, runtime.catalogue
    policy = load_policy(overrides.policy or config.policy, config, catalogue.models)
    on_disk = models_on_disk(config, catalogue)
    if not any(on_disk(spec.name) for spec in catalogue):
        raise ModelUnavailable(
            f"there is no model on this machine yet: none in {config.models_dir}",
            f"run: etui models pull {STARTER}",
        )
    return policy

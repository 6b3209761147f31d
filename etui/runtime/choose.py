"""Choose the arm that answers a query: a named model, a named arm, or the policy's decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from etui.arm import OPEN_SAMPLING, Arm
from etui.chat import Query
from etui.errors import InvalidRequest, ModelUnavailable, UsageError
from etui.routing.decision import Decision
from etui.routing.limits import EFFORTS
from etui.runtime.decide import Choice, decide_query
from etui.runtime.overrides import apply_overrides
from etui.runtime.serving import (
    catalogue_name,
    check_draft_option,
    choose_speculation,
)
from etui.text.suggest import suggest

if TYPE_CHECKING:
    from etui.routing.policy import Policy
    from etui.routing.signals.host_state import HostState
    from etui.runtime.open import Runtime
    from etui.runtime.overrides import Overrides
    from etui.runtime.period_budget import Confirm


THINK_TOKENS: Final[Mapping[str, int]] = MappingProxyType(
    dict(zip(EFFORTS, (0, 64, 128, 256, 512, 1024, 2048), strict=True))
)

"""The ladder: thinking tokens of each effort, where the policy has no table of its own."""


def check_effort(effort: str) -> str:
    """Return an effort that exists.

    Raises:
        InvalidRequest: There is none of this name; the fix names the nearest.
    """
    if effort in THINK_TOKENS:
        return effort
    raise InvalidRequest(
        f"unknown reasoning effort {effort!r}",
        suggest(effort.lower(), THINK_TOKENS) or f"use one of: {', '.join(THINK_TOKENS)}",
        param="reasoning_effort",
    )


def apply_effort(decision: Decision, effort: str) -> Decision:
    """Return a decision whose arm thinks as much as an effort asks for.

    The model stays the one that was chosen. ``none`` answers directly, with one answer. The other
    efforts think up to the tokens of the ladder: a direct arm becomes one that thinks, votes think
    as much each, and a chosen letter is decoded as a text. A cascade is reduced to its first arm,
    because the effort, not the confidence, says how much to spend. The arm that answers if a model
    cannot be loaded stays as it is.
    """
    arm, tokens = decision.arm, THINK_TOKENS[effort]
    changed = _answer_directly(arm) if tokens == 0 else _think(arm, tokens)
    depth = "without thinking" if tokens == 0 else f"up to {tokens} thinking tokens"
    why = f"{decision.why}; reasoning_effort {effort}: {depth}"
    if decision.cascade is None:
        return replace(decision, arm=changed, why=why)
    notice = f"only {arm.name} answers, not the cascade: a reasoning effort was given"
    return replace(
        decision, arm=changed, why=why, cascade=None, notices=(*decision.notices, notice)
    )


def _answer_directly(arm: Arm) -> Arm:
    if arm.reasoning == "direct":
        return arm
    sampling, origin = arm.sampling, arm.sampling_from
    if origin.temperature == "vote":  # only votes need to differ
        sampling = replace(sampling, temperature=Arm("", "").sampling.temperature)
        origin = replace(origin, temperature="default")
    return replace(
        arm, reasoning="direct", style="auto", early_exit=None, exchange=None,
        sampling=sampling, sampling_from=origin,
    )  # fmt: skip


def _think(arm: Arm, tokens: int) -> Arm:
    if arm.reasoning == "direct":
        return replace(arm, reasoning="cot", think_tokens=tokens, readout="text")
    return replace(arm, think_tokens=tokens)


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
        overrides: The user's options, from the command line or the app.
        read_host: Reads the state of the machine; only called when a policy decides.
        confirm: Asks the user whether to exceed a budget; None if there is no one to ask.
        within_budgets: Whether the policy's hourly and daily budgets apply.
        effort: How much a client wants the answer to think: by the policy's ``efforts``, else by
            the ladder of :mod:`etui.runtime.choose`. Overrides of the reasoning come before it.

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
        effort = None if _asks_for_reasoning(overrides) else check_effort(effort)
    model = overrides.model
    if not (model or overrides.policy or overrides.arm):
        model = runtime.config.model
    if model:
        choice = Choice(_decide_named(model, overrides, runtime, effort))
    else:
        policy = load_policy_here(overrides, runtime)
        degraded = None
        if within_budgets and policy.period_budgets:
            from etui.runtime.period_budget import read_overruns, settle

            overruns = read_overruns(policy.period_budgets, runtime.config)
            degraded = settle(overruns, confirm, overrides.over_budget)
        host = read_host() if read_host is not None and not overrides.arm else None
        choice = _decide_by_policy(query, policy, runtime, host, overrides.arm, degraded, effort)
    decision = apply_overrides(choice.decision, overrides)
    _check_draft(decision, overrides, runtime)
    return replace(choice, decision=_note_problem(decision, runtime.catalogue.problem))


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
    arm = Arm(
        way,
        model,
        speculate=choose_speculation(spec, way),
        sampling_from=OPEN_SAMPLING,
    )
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
    if effort is not None and degraded is None:
        by_effort = policy.efforts.get(effort) if arm is None else None
        if by_effort is not None:
            choice = _decide_by_effort(query, policy, effort, by_effort, runtime)
            if choice is not None:
                return choice
    choice = decide_query(query, policy, runtime, host=host, arm=arm, degraded=degraded)
    if effort is not None and degraded is None:
        return replace(choice, decision=apply_effort(choice.decision, effort))
    return choice


def _decide_by_effort(
    query: Query, policy: Policy, effort: str, arm: str, runtime: Runtime[Any]
) -> Choice | None:
    """Take the arm that the policy names for an effort; None if it has no model here."""
    try:
        choice = decide_query(query, policy, runtime, host=None, arm=arm)
    except ModelUnavailable:
        return None
    why = f"reasoning_effort {effort}: {choice.decision.why}"
    return replace(choice, decision=replace(choice.decision, why=why))


def _asks_for_reasoning(overrides: Overrides) -> bool:
    return overrides.reasoning is not None or overrides.think_tokens is not None


def _note_problem(decision: Decision, problem: str) -> Decision:
    """Add why settings that a sweep chose are not used to the notices of a decision."""
    return replace(decision, notices=(*decision.notices, problem)) if problem else decision


def _check_draft(decision: Decision, overrides: Overrides, runtime: Runtime[Any]) -> None:
    if overrides.speculate == "draft":
        arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
        check_draft_option(arms, runtime.catalogue)


def load_policy_here(overrides: Overrides, runtime: Runtime[Any]) -> Policy:
    """Load the policy that routes, with the stand-in that the user has chosen for its models.

    Raises:
        InvalidFile: The policy is not valid.
        ModelUnavailable: There is no model on this machine.
    """
    from etui.models.spec import STARTER
    from etui.routing.stand_in import add_stand_in
    from etui.runtime.stand_in import load_stand_in

    config, catalogue = runtime.config, runtime.catalogue
    policy = runtime.load_policy(overrides.policy or config.policy)
    is_available = runtime.find_available()
    if not any(is_available(spec.name) for spec in catalogue):
        raise ModelUnavailable(
            f"there is no model on this machine yet: none in {config.models_dir}",
            f"run: etui models pull {STARTER}",
        )
    chosen = load_stand_in(config)
    return policy if chosen is None else add_stand_in(policy, chosen, is_available)

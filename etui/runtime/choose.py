"""From what a front end was asked for to a decision: by policy, by arm, or spelled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.chat import Query
from etui.errors import ModelUnavailable, UsageError
from etui.routing.decision import Decision
from etui.runtime.overrides import changed
from etui.runtime.serving import catalogue_name, models_on_disk

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy
    from etui.routing.signals.host_state import HostState
    from etui.runtime.log_predictor import LogPredictor
    from etui.runtime.overrides import Overrides
    from etui.runtime.period_budget import Confirm


@dataclass(frozen=True, slots=True)
class Choice:
    """What a front end carries out.

    Attributes:
        decision: The arm, or the cascade.
        outlook: What the policy's arms are expected to spend and to get right; None where no policy
            was asked.
    """

    decision: Decision
    outlook: LogPredictor | None = None


def choose(
    query: Query,
    wish: Overrides,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None = None,
) -> Decision:
    """The arm for a query, whatever was spent before; see :func:`choice_of`."""
    return choice_of(query, wish, config, catalogue, read_host, within_budgets=False).decision


def choice_of(
    query: Query,
    wish: Overrides,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None = None,
    *,
    confirm: Confirm | None = None,
    within_budgets: bool = True,
) -> Choice:
    """The arm for a query, with the outlook its turn goes by.

    Args:
        read_host: Reads the state of the machine; only asked when a policy decides.
        confirm: Asks the user whether to go on over a budget; None where nobody can be asked.
        within_budgets: Whether the policy's budgets of an hour and a day hold.

    Raises:
        UsageError: A name that does not exist, or wishes that exclude each other.
        InvalidFile: The policy cannot be used.
        ModelUnavailable: No model that may answer is on this machine.
        BudgetSpent: A budget refuses, or nobody said yes.
    """
    if wish.model and (wish.policy or wish.arm):
        raise UsageError(
            "--model spells the arm out, and --policy or --arm would choose another",
            "give one or the other",
        )
    model = wish.model or (config.model if not (wish.policy or wish.arm) else None)
    if model:
        model = catalogue_name(model, config, catalogue)
        catalogue.get(model)  # a name that does not exist is said before anything is spent
        named = "--model" if wish.model else "`model` in config.yaml"
        arm = Arm(wish.reasoning or "direct", model)
        return Choice(changed(Decision(arm, None, None, f"{named} {model}"), wish))
    policy = _policy(wish, config, catalogue)
    degraded = None
    if within_budgets and policy.period_budgets:
        from etui.runtime.period_budget import overruns_here, settle

        spent = overruns_here(policy.period_budgets, config)
        degraded = settle(spent, confirm, wish.over_budget)
    choice = _by_policy(policy, query, wish, config, catalogue, read_host, degraded)
    return replace(choice, decision=changed(choice.decision, wish))


def _policy(wish: Overrides, config: Config, catalogue: Catalogue) -> Policy:
    from etui.models.spec import STARTER
    from etui.routing.library import load_policy

    policy = load_policy(wish.policy or config.policy, config, catalogue.models)
    here = models_on_disk(config, catalogue)
    if not any(here(spec.name) for spec in catalogue):
        raise ModelUnavailable(
            f"there is no model on this machine yet: {config.models_dir} holds none",
            f"run: etui models pull {STARTER}",
        )
    return policy


def _by_policy(
    policy: Policy,
    query: Query,
    wish: Overrides,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None,
    degraded: str | None,
) -> Choice:
    from etui.routing.decide import decide, decide_arm
    from etui.routing.shadow import with_shadow
    from etui.runtime.log_predictor import predictor_for
    from etui.runtime.similar_questions import read_neighbours

    here = models_on_disk(config, catalogue)
    host = read_host() if read_host is not None and not wish.arm else None
    resident = host.resident if host is not None else None
    outlook = predictor_for(policy, config, catalogue, resident)
    if wish.arm:
        named = decide_arm(policy, wish.arm, available=here, query=query, outlook=outlook)
        if degraded:
            named = replace(named, notices=(*named.notices, f"{degraded}: as named, {wish.arm}"))
        return Choice(named, outlook)
    decision = decide(
        query,
        policy,
        available=here,
        host=host,
        outlook=outlook,
        neighbours=read_neighbours(policy, config),
    )
    if degraded:
        decision = _cheapest(decision, policy, query, outlook, here, degraded)
    if decision.cascade is not None:
        outlook.calibrated(decision.arm, None, None)  # damage is told before anything is spent
    decision = with_shadow(
        decision,
        policy,
        query,
        config,
        catalogue.models,
        available=here,
        host=host,
        look_ahead=lambda other: (
            predictor_for(other, config, catalogue, resident),
            read_neighbours(other, config),
        ),
    )
    return Choice(decision, outlook)


def _cheapest(
    decision: Decision,
    policy: Policy,
    query: Query,
    outlook: LogPredictor,
    here: Callable[[str], bool],
    why: str,
) -> Decision:
    """The decision with the cheapest arm in place of its own, and a notice that says so."""
    from etui.routing.decide import cheapest_arm

    arm = cheapest_arm(policy, query, outlook, here)
    notice = f"{why}: {arm.name} answers, the cheapest arm"
    joules = outlook.joules(arm, query)
    instead = f" in place of {decision.arm.name}" if decision.arm.name != arm.name else ""
    return replace(
        decision,
        arm=arm,
        cascade=None,
        why=f"a budget is spent, so {arm.name} answers{instead} ({decision.why})",
        predicted_joules=None if joules is None else joules.total,
        predicted_accuracy=None,
        margin_joules=None,
        notices=(*decision.notices, notice),
    )

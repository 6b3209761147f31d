"""From what a front end was asked for to a decision: by policy, by arm, or spelled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from etui.arm import VOTE_TEMPERATURE, Arm, Reasoning, StopRuleName, Style
from etui.errors import ModelUnavailable, UsageError
from etui.query import Query
from etui.routing.decision import Decision

if TYPE_CHECKING:
    from etui.config import Config
    from etui.model_spec import ModelSpec
    from etui.models import Catalogue
    from etui.outlook import OutlookHere
    from etui.period_budget import Confirm
    from etui.routing.host import HostState
    from etui.routing.policy import Policy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user named; None leaves it to the policy, or to the arm's default.

    ``model`` spells an arm out and asks no policy; ``arm`` takes an arm of the policy without
    asking its rules; the rest changes the arm that was found. ``over_budget`` says yes ahead to a
    budget that would ask.
    """

    model: str | None = None
    policy: str | None = None
    arm: str | None = None
    reasoning: Reasoning | None = None
    think_tokens: int | None = None
    votes: int | None = None
    stop: StopRuleName | None = None
    style: Style | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    over_budget: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What a front end carries out.

    Attributes:
        decision: The arm, or the cascade.
        outlook: What the policy's arms are expected to spend and to get right; None where no policy
            was asked.
    """

    decision: Decision
    outlook: OutlookHere | None = None


def choose(
    query: Query,
    wish: Wish,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None = None,
) -> Decision:
    """The arm for a query, whatever was spent before; see :func:`choice_of`."""
    return choice_of(query, wish, config, catalogue, read_host, within_budgets=False).decision


def choice_of(
    query: Query,
    wish: Wish,
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
        model = shelf_name(model, config, catalogue)
        catalogue.get(model)  # a name that does not exist is said before anything is spent
        named = "--model" if wish.model else "`model` in config.yaml"
        arm = Arm(wish.reasoning or "direct", model)
        return Choice(_changed(Decision(arm, None, None, f"{named} {model}"), wish))
    policy = _policy(wish, config, catalogue)
    degraded = None
    if within_budgets and policy.period_budgets:
        from etui.period_budget import overruns_here, settle

        spent = overruns_here(policy.period_budgets, config)
        degraded = settle(spent, confirm, wish.over_budget)
    choice = _by_policy(policy, query, wish, config, catalogue, read_host, degraded)
    return replace(choice, decision=_changed(choice.decision, wish))


def shelf_name(model: str, config: Config, catalogue: Catalogue) -> str:
    """The name of an entry, where the path of its own file was given; else what was given."""
    from etui.models import model_path

    stem = Path(model).stem
    if model.endswith(".gguf") and stem in catalogue:
        place = model_path(catalogue.models[stem], config)
        given = Path(model).expanduser()
        if place.is_file() and given.is_file() and place.samefile(given):
            return stem
    return model


def serving(arm: Arm, config: Config, catalogue: Catalogue) -> tuple[ModelSpec, Path]:
    """The model of an arm with the hash its file was checked against, and the file.

    Raises:
        ModelUnavailable: Not on disk, damaged, or another file than it should be.
    """
    from etui.models import recorded_sha256, require

    spec = catalogue.get(arm.model)
    path = require(spec, config)
    return replace(spec, sha256=spec.sha256 or recorded_sha256(spec, config)), path


def on_this_machine(config: Config, catalogue: Catalogue) -> Callable[[str], bool]:
    """A test whether a model of this name has a file here."""
    from etui.models import model_path

    def here(name: str) -> bool:
        return name in catalogue and model_path(catalogue.get(name), config).is_file()

    return here


def _policy(wish: Wish, config: Config, catalogue: Catalogue) -> Policy:
    from etui.model_spec import STARTER
    from etui.routing.policies import load_policy

    policy = load_policy(wish.policy or config.policy, config, catalogue.models)
    here = on_this_machine(config, catalogue)
    if not any(here(spec.name) for spec in catalogue):
        raise ModelUnavailable(
            f"there is no model on this machine yet: {config.models_dir} holds none",
            f"run: etui models pull {STARTER}",
        )
    return policy


def _by_policy(
    policy: Policy,
    query: Query,
    wish: Wish,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None,
    degraded: str | None,
) -> Choice:
    from etui.neighbours import read_neighbours
    from etui.outlook import outlook_of
    from etui.routing.decide import decide, decide_arm
    from etui.routing.shadow import with_shadow

    here = on_this_machine(config, catalogue)
    host = read_host() if read_host is not None and not wish.arm else None
    resident = host.resident if host is not None else None
    outlook = outlook_of(policy, config, catalogue, resident)
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
            outlook_of(other, config, catalogue, resident),
            read_neighbours(other, config),
        ),
    )
    return Choice(decision, outlook)


def _cheapest(
    decision: Decision,
    policy: Policy,
    query: Query,
    outlook: OutlookHere,
    here: Callable[[str], bool],
    why: str,
) -> Decision:
    """The decision with the cheapest arm in place of its own, and a notice that says so."""
    from etui.routing.cheapest import cheapest_arm

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


def _changed(decision: Decision, wish: Wish) -> Decision:
    """The decision with its arms changed as the command line says.

    Wishes for a way of reasoning ask for one answer, so a cascade is then its first arm alone.
    """
    arm = _changed_arm(decision.arm, wish)
    _check_effect(arm, wish)
    cascade = decision.cascade
    if cascade is None:
        return replace(decision, arm=arm)
    ways = (wish.reasoning, wish.think_tokens, wish.votes, wish.stop, wish.style)
    if any(way is not None for way in ways):
        alone = f"{arm.name} answers alone, as its way of reasoning was named"
        return replace(decision, arm=arm, cascade=None, notices=(*decision.notices, alone))
    arms = tuple(_changed_arm(each, wish) for each in cascade.arms)
    return replace(decision, arm=arm, cascade=replace(cascade, arms=arms))


def _changed_arm(arm: Arm, wish: Wish) -> Arm:
    reasoning = wish.reasoning or arm.reasoning
    temperature = _or(wish.temperature, arm.sampling.temperature)
    if reasoning == "vote" and temperature == 0 and wish.temperature is None:
        temperature = VOTE_TEMPERATURE
    return replace(
        arm,
        reasoning=reasoning,
        think_tokens=_or(wish.think_tokens, arm.think_tokens),
        votes=_or(wish.votes, arm.votes),
        stop=replace(arm.stop, rule=wish.stop or arm.stop.rule),
        style=wish.style or arm.style,
        max_tokens=_or(wish.max_tokens, arm.max_tokens),
        sampling=replace(
            arm.sampling, temperature=temperature, seed=_or(wish.seed, arm.sampling.seed)
        ),
    )


def _check_effect(arm: Arm, wish: Wish) -> None:
    """Refuse wishes that would change nothing.

    Raises:
        UsageError: Says which, and what to do instead.
    """
    if arm.reasoning == "direct" and _or(wish.think_tokens, 0):
        raise UsageError(
            "--think-tokens has no effect on a direct answer",
            "add --reasoning cot, or leave it out",
        )
    if arm.reasoning != "vote" and (wish.votes is not None or wish.stop is not None):
        option = "--votes" if wish.votes is not None else "--stop"
        raise UsageError(
            f"{option} has no effect on a single answer ({arm.reasoning})",
            "add --reasoning vote, or leave it out",
        )
    if arm.reasoning == "vote" and arm.votes > 1 and arm.sampling.temperature == 0:
        raise UsageError(
            "votes drawn with --temperature 0 are all the same",
            f"raise it (without it votes are drawn with {VOTE_TEMPERATURE}), or use --votes 1",
        )


def _or(wished: T | None, otherwise: T) -> T:
    return otherwise if wished is None else wished

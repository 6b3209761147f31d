"""A policy ready to decide: every name resolved, every pattern compiled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.arm import Arm, Speculate
from etui.chat import Query
from etui.errors import ModelUnavailable
from etui.routing.decision import (
    Agreement,
    OnContextOverflow,
    OnNoAnswer,
    PeriodBudget,
    TurnBudget,
)
from etui.routing.signals import Condition, HostState, Signal
from etui.text import SEPARATOR

if TYPE_CHECKING:
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """An arm whose model is not yet chosen among those on this machine."""

    asked: str  # The role or model the policy names
    models: tuple[str, ...]  # Models to choose from, best first
    arm: Arm  # The arm with the first of these models
    speculate: tuple[Speculate, ...] = ()
    """Its ``speculate`` with each of them, where the policy leaves it to the model; empty if it is
    the same with all."""
    places: tuple[Place, ...] = ()
    """Where each of the models runs, in their order; empty if all are of this machine, each with
    weights of its own."""
    arms: tuple[Arm, ...] = field(init=False, repr=False, compare=False)
    """The arm with each of the models, built once because every decision needs some of them."""

    def __post_init__(self) -> None:
        arm = self.arm
        methods = self.speculate or (arm.speculate,) * len(self.models)
        arms = (
            arm
            if (name, method) == (arm.model, arm.speculate)
            else replace(arm, model=name, speculate=method)
            for name, method in zip(self.models, methods, strict=True)
        )
        object.__setattr__(self, "arms", tuple(arms))

    @property
    def name(self) -> str:
        """Name in the policy."""
        return self.arm.name

    def find_place(self, model: str) -> Place:
        """Return where one of its models runs."""
        for place in self.places:
            if place.model == model:
                return place
        return Place(model, model)


@dataclass(frozen=True, slots=True)
class CascadePlan:
    """A cascade as the policy states it: names of arms, whose models are not yet chosen."""

    arms: tuple[str, ...]  # Names, in the order they are tried; at least two, without duplicates
    accept_at: float  # Calibrated probability of being right from which an answer is accepted
    max_hops: int  # Maximum number of arms that answer
    max_joules: float | None = None  # No further arm starts beyond this; None is no limit
    agreements: tuple[Agreement, ...] = ()
    """The steps of several answers; their arms are in ``arms`` too."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The goal by which a rule chooses among its candidates, and the bounds they must meet.

    Its fields are those of ``ObjectiveEntry``, in the schema of policies.
    """

    goal: Literal["joules", "accuracy"]
    arms: tuple[str, ...]  # Names of the candidates, in the order of the file
    accuracy_at_least: float | None = None
    confidence: float = 0.9  # One-sided confidence of that bound, 0..1
    joules_at_most: float | None = None
    seconds_at_most: float | None = None
    exchange: float | None = None
    switch_margin_joules: float = 0.0
    otherwise: str | None = None
    prior: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition and what it leads to; a rule without a condition matches every query."""

    name: str
    priority: int  # Rules of higher priority are tried first
    when: Condition | None  # The condition; None always holds
    then: str | CascadePlan | Objective

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms the rule may lead to, in the order of the file."""
        if isinstance(self.then, str):
            return (self.then,)
        if isinstance(self.then, CascadePlan) or self.then.otherwise in (None, *self.then.arms):
            return self.then.arms
        assert self.then.otherwise is not None
        return (*self.then.arms, self.then.otherwise)


@dataclass(frozen=True, slots=True)
class FallbackPlan:
    """The fallbacks of a policy; ``load_failed`` names an arm (see ``limits.Fallbacks``)."""

    load_failed: str | None = None
    context_overflow: OnContextOverflow = "truncate_thought"
    no_answer: OnNoAnswer = "keep"


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Which turns are audited: answered by one more arm while nothing else runs."""

    share: float  # Share of the turns that are drawn, in (0, 1]
    arm: str  # Name of the arm that answers them as well
    joules_per_day: float  # The most that all audits of a day and the loads for them may take
    reserve_joules: float  # What must be left of it for a load that was never measured
    when: Literal["cheap", "clean"] | None = None
    """Wait for the cheapest or cleanest time of a day; None begins as soon as nothing runs."""


@dataclass(frozen=True, slots=True)
class PolicyProbe:
    """A question and the rule and arm that must, and must not, be chosen; None expects nothing."""

    query: Query  # The question, with its chat and metadata
    rule: str | None
    not_rule: str | None
    arm: str | None
    not_arm: str | None
    signals: Mapping[str, bool]  # Signals that must hold (True) or must not (False)
    host: HostState  # The assumed state of the machine
    line: int
    file: str = ""  # The file it is read from; empty if it is not from a file
    is_case: bool = False
    """Whether it is a line of the cases file; the next three are those of a case."""
    id: str = ""  # A name that no other case has; empty without one
    tags: tuple[str, ...] = ()
    group: str = ""  # Name that cases share which ask the same in other words; empty without one


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy."""

    name: str  # The name of its file without the extension
    path: Path
    description: str
    arms: Mapping[str, ArmPlan]  # Arms by name, in the order of the file
    signals: Mapping[str, Signal]  # Signals by name; a score follows the signals it adds up
    rules: tuple[Rule, ...]  # Rules in the order they are tried
    probes: tuple[PolicyProbe, ...] = ()
    shadow: str | None = None
    """Name of the policy whose decisions are logged next to its own; None without one."""
    budget: TurnBudget | None = None  # What one turn may spend; None is no limit
    period_budgets: tuple[PeriodBudget, ...] = ()
    """What the turns of an hour, or of a day, may spend together."""
    degrade_to: str | None = None
    """Name of the arm that answers once such a budget is spent; None takes the cheapest
    (:func:`etui.routing.decide.cheapest_arm`)."""
    fallbacks: FallbackPlan = FallbackPlan()
    """What to do when an answer cannot be produced as planned."""
    efforts: Mapping[str, str] = field(default_factory=dict)
    """Name of the arm that answers for a reasoning effort, by effort."""
    audit: AuditPlan | None = None
    """Which turns another arm answers as well, in idle time; None for none."""


def list_agreements(policy: Policy) -> tuple[tuple[str, ...], ...]:
    """Return the arms of every step of several answers in a policy's cascades, each set once."""
    found = (
        step.arms
        for rule in policy.rules
        if isinstance(rule.then, CascadePlan)
        for step in rule.then.agreements
    )
    return tuple(dict.fromkeys(found))


def list_priors(policy: Policy) -> dict[str, float]:
    """Return the stated accuracy of each arm: that of the first rule that is tried and has one."""
    found: dict[str, float] = {}
    for rule in policy.rules:
        if isinstance(rule.then, Objective):
            found = {**rule.then.prior, **found}
    return found


def drop_places(policy: Policy) -> Policy:
    """Return a policy with the models of its file alone: a replay is of no machine."""
    return replace(policy, arms={name: _drop_unstated(plan) for name, plan in policy.arms.items()})


def _drop_unstated(plan: ArmPlan) -> ArmPlan:
    if not plan.places:
        return plan
    kept = [index for index, place in enumerate(plan.places) if place.stated]
    return replace(
        plan,
        models=tuple(plan.models[index] for index in kept),
        speculate=tuple(plan.speculate[index] for index in kept) if plan.speculate else (),
        places=(),
    )


THIS_MACHINE = "this machine"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs."""

    model: str
    weights: str  # Name of the entry whose weights it has: its own name, or another's
    backend: str | None = None  # Name of the backend that serves it; None for this machine
    stated: bool = True
    """Whether the policy names it; False for another place of a model that it names."""

    @property
    def machine(self) -> str:
        """The name to show: that of the backend, or ``this machine``."""
        return self.backend or THIS_MACHINE


def find_settings(models: Collection[str], name: str) -> ModelSpec | None:
    """Return the entry of a model; None if only names of models are known, or not this one."""
    entry: ModelSpec | None = models.get(name) if isinstance(models, Mapping) else None
    return entry


def find_place(models: Collection[str], name: str) -> Place:
    """Return the place of a model; this machine, if only names of models are known."""
    entry = find_settings(models, name)
    if entry is None:
        return Place(name, name)
    return Place(name, find_weights(models, name), entry.backend)


def find_weights(models: Collection[str], name: str) -> str:
    """Follow ``same_as`` to the entry that names no other; a circle ends before it repeats."""
    seen = {name}
    while isinstance(models, Mapping) and name in models:
        following = models[name].same_as
        if following is None or following in seen:
            break
        seen.add(following)
        name = following
    return name


def list_places(models: Sequence[str], known: Collection[str]) -> tuple[Place, ...]:
    """List the places of the models of a role, in order; other places of a model follow it.

    Places that the role itself names keep their order; others follow the last of the same weights.
    """
    others: defaultdict[str, list[Place]] = defaultdict(list)
    if isinstance(known, Mapping):
        roots = {entry.same_as for entry in known.values()}
        for name, entry in known.items():
            if name not in models and (entry.same_as is not None or name in roots):
                place = replace(find_place(known, name), stated=False)
                others[place.weights].append(place)
    stated = [find_place(known, name) for name in models]
    last = {place.weights: index for index, place in enumerate(stated)}
    found: list[Place] = []
    for index, place in enumerate(stated):
        found += [place, *(others[place.weights] if last[place.weights] == index else ())]
    return tuple(found)


Available = Callable[[str], bool] | Collection[str]
"""The models on this machine: a test of a name, or the names."""


def build_availability_test(available: Available) -> Callable[[str], bool]:
    """Return a test that says whether the model of a name is on this machine."""
    return available if callable(available) else frozenset(available).__contains__


def choose_served_arm(plan: ArmPlan, is_available: Callable[[str], bool]) -> Arm | None:
    """Return the arm with the first of its models that is available; None if none is."""
    for arm in plan.arms:
        if is_available(arm.model):
            return arm
    return None


def list_served_places(plan: ArmPlan, is_available: Callable[[str], bool]) -> tuple[Arm, ...]:
    """Return the arm at every available place of the weights that it would use, in order.

    Other models of the arm have another accuracy: they are used if this one is nowhere available.
    """
    first = choose_served_arm(plan, is_available)
    if first is None:
        return ()
    if not plan.places:
        return (first,)
    weights = plan.find_place(first.model).weights
    return tuple(
        arm
        for arm, place in zip(plan.arms, plan.places, strict=True)
        if place.weights == weights and (arm is first or is_available(arm.model))
    )


def format_substitute(plan: ArmPlan, arm: Arm) -> str:
    """Write ``· big is not on disk: small answers instead``; empty for the arm's first model."""
    if arm.model == plan.models[0]:
        return ""
    backend, first = plan.find_place(arm.model).backend, plan.find_place(plan.models[0])
    missing = "is not on disk" if first.backend is None else f"on {first.backend} is not available"
    where = f" on {backend}" if backend else ""
    return f"{SEPARATOR}{first.model} {missing}: {arm.model}{where} answers instead"


def format_absent(*plans: ArmPlan) -> str:
    """Say that none of the models of some arms is available."""
    places = [plan.find_place(model) for plan in plans for model in plan.models]
    return format_places_absent(tuple(dict.fromkeys(places)))


def format_places_absent(places: Sequence[Place]) -> str:
    """Write ``a is not on this machine``, ``b on desk is not available``, or both."""
    here = [place.model for place in places if place.backend is None]
    there = [f"{place.model} on {place.backend}" for place in places if place.backend is not None]
    parts = [f"{_join_with_verb(here)} not on this machine"] if here else []
    parts += [f"{_join_with_verb(there)} not available"] if there else []
    return ", ".join(parts)


def _join_with_verb(models: Sequence[str]) -> str:
    """Join names as the subject of a sentence: ``a is``, ``a and b are``."""
    if len(models) == 1:
        return f"{models[0]} is"
    return f"{', '.join(models[:-1])} and {models[-1]} are"


def build_unavailable_error(policy: str, unserved: Sequence[ArmPlan]) -> ModelUnavailable:
    """Build the error for arms without a model on this machine; its fix names what to pull."""
    first = unserved[0]
    local = [
        model for plan in unserved for model in plan.models if not plan.find_place(model).backend
    ]
    named = ", ".join(first.models)
    if len(local) < sum(len(plan.models) for plan in unserved):
        named = ", ".join(
            f"{model} on {backend}" if (backend := first.find_place(model).backend) else model
            for model in first.models
        )
    if not local:
        return ModelUnavailable(
            f"policy {policy!r} chose arm {first.name!r}, but none of its models is available: "
            + named,
            "check its backend with `etui doctor`, or choose another model with --model",
        )
    # A role lists its models from best to smallest, so the last one is the quickest to download.
    best, quickest = local[0], local[-1]
    more = f" (or the first choice: `etui models pull {best}`)" if best != quickest else ""
    return ModelUnavailable(
        f"policy {policy!r} chose arm {first.name!r}, but none of its models is on this machine: "
        + named,
        f"run `etui models pull {quickest}`{more}, or choose another model with --model",
    )


def add_fallback_model(policy: Policy, model: str, is_available: Callable[[str], bool]) -> Policy:
    """Return the policy with a model as the last one of every direct arm that has no model.

    Arms that think are left alone: their rules fall through where no model trained to think is.
    """
    if not is_available(model):
        return policy
    arms = {
        name: (
            _extend(plan, model)
            if plan.arm.reasoning == "direct" and not any(map(is_available, plan.models))
            else plan
        )
        for name, plan in policy.arms.items()
    }
    return policy if arms == policy.arms else replace(policy, arms=arms)


def _extend(plan: ArmPlan, model: str) -> ArmPlan:
    return replace(
        plan,
        models=(*plan.models, model),
        speculate=(*plan.speculate, "off") if plan.speculate else (),
        places=(*plan.places, Place(model, model, stated=False)) if plan.places else (),
    )

"""Everything that can answer the next questions: policies, arms and models, with their costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from etui.arm import Arm
from etui.chat import Query
from etui.config.config import Config
from etui.errors import EtuiError, InvalidFile, LogUnavailable, UsageError
from etui.runtime.decide import choose, collect_knowledge, decide_query, load_policy_here
from etui.runtime.overrides import Overrides
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.log.records import ChatRecord
    from etui.models.catalogue import Catalogue
    from etui.routing.signals import HostState
    from etui.runtime.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Route:
    """How the arm of the next questions is chosen."""

    policy: str
    model: str | None = None  # Model that answers without the policy; None leaves it to the policy
    arm: str | None = None
    """Arm of the policy that answers without its rules; None leaves it to the rules."""

    @property
    def description(self) -> str:
        """What answers, in words: ``qwen3-4b``, ``arm think of balanced``, ``policy balanced``."""
        if self.model is not None:
            return self.model
        return f"arm {self.arm} of {self.policy}" if self.arm else f"policy {self.policy}"


def with_route(chat: ChatRecord, route: Route) -> ChatRecord:
    """Return a chat for which this route was chosen."""
    return replace(chat, route_policy=route.policy, route_model=route.model, route_arm=route.arm)


def restore_route(route: Route, config: Config) -> tuple[Route, str]:
    """Return what is left of a route that was chosen before, and the names of what is gone.

    A policy with errors is left: each question says what they are.
    """
    from etui.models.catalogue import load_catalogue
    from etui.routing.library import load_policy
    from etui.runtime.model_resolution import models_on_disk

    catalogue = load_catalogue(config)
    gone: list[str] = []
    if route.model is not None and not models_on_disk(config, catalogue)(route.model):
        gone.append(f"model {route.model}")
        route = replace(route, model=None)
    try:
        arms = load_policy(route.policy, config, catalogue.models).arms
        if route.arm is not None and route.arm not in arms:
            gone.append(f"arm {route.arm} of {route.policy}")
            route = replace(route, arm=None)
    except UsageError:
        gone.append(f"policy {route.policy}")
        route = Route(config.policy, route.model)
    except InvalidFile:
        pass
    return route, " and ".join(gone)


Direction = Literal["smaller", "larger"]

_ANSWER_TOKENS = 128
"""Assumed length of an answer in tokens, whatever the limit of its arm."""


def estimate_work(arm: Arm, size_bytes: int) -> float:
    """Estimate the bytes of weights that decoding an answer reads; its cost grows with them."""
    if arm.readout == "choices":
        return float(size_bytes)
    thinking = arm.think_tokens if arm.reasoning != "direct" else 0
    votes = arm.votes if arm.reasoning == "vote" else 1
    return float(size_bytes) * votes * (thinking + _ANSWER_TOKENS)


def estimate_turn_work(record: TurnRecord, size_bytes: int) -> float:
    """Estimate the work of an answered turn, from the arm settings in its record."""
    settings = record.settings
    arm = Arm(
        record.arm,
        record.model,
        "vote" if record.reasoning == "vote" else "cot" if record.reasoning == "cot" else "direct",
        think_tokens=int(settings.get("think_tokens") or 0),
        votes=max(1, int(settings.get("votes") or 1)),
        readout="choices" if settings.get("readout") == "choices" else "text",
    )
    return estimate_work(arm, size_bytes)


def choose_rung(
    rungs: Iterable[tuple[Route, float]], work: float, direction: Direction
) -> Route | None:
    """Choose the route with the nearest work that is clearly less or more; None without one."""
    if direction == "larger":
        found = min((r for r in rungs if r[1] > work * 1.001), key=itemgetter(1), default=None)
    else:
        found = max((r for r in rungs if r[1] < work * 0.999), key=itemgetter(1), default=None)
    return None if found is None else found[0]


def other_route(
    record: TurnRecord, route: Route, direction: Direction, config: Config, catalogue: Catalogue
) -> Route | None:
    """Find the next smaller or larger arm of the policy, or else a model without it, or None.

    UsageError if there is no such policy, InvalidFile if it has errors.
    """
    from etui.models.files import file_size, model_path
    from etui.routing.library import load_policy
    from etui.routing.policy import choose_served_arm
    from etui.runtime.model_resolution import models_on_disk

    # How much work a remote model is, its size, is not known here.
    on_disk = models_on_disk(config, catalogue, lambda _backend: False)

    def size(model: str) -> int:
        path = model_path(catalogue.get(model), config)
        return (file_size(path) or 0) if on_disk(model) else 0

    def rung(arm: Arm, other: Route) -> tuple[Route, float]:
        return other, estimate_work(arm, size(arm.model))

    policy = load_policy(route.policy, config, catalogue.models)
    served = (choose_served_arm(plan, on_disk) for plan in policy.arms.values())
    arms = [rung(arm, Route(route.policy, arm=arm.name)) for arm in served if arm is not None]
    work = estimate_turn_work(record, size(record.model))
    found = choose_rung(arms, work, direction)
    if found is not None:
        return found
    names = [spec.name for spec in catalogue if on_disk(spec.name)]
    models = [rung(Arm("direct", name), Route(route.policy, name)) for name in names]
    return choose_rung(models, work, direction)


LAST_TURNS = 8
"""Turns that count; with more, a change of the questions would show late."""

_GREETING = Query("Hello")


def find_likely_arm(
    overrides: Overrides,
    runtime: Runtime[Any],
    read_host: Callable[[], HostState],
    chat_id: str | None = None,
) -> Arm:
    """Find the arm that the next question is likely to get; errors as of `choose`."""
    if overrides.policy and not (overrides.model or overrides.arm):
        for arm in rank_arms(read_recent_arms(runtime.config, overrides.policy, chat_id)):
            with suppress(EtuiError):  # the policy has lost the arm, or the machine its model
                named = Overrides(policy=overrides.policy, arm=arm)
                return choose(_GREETING, named, runtime, within_budgets=False).decision.arm
        with suppress(EtuiError):
            return _find_default_arm(overrides, runtime, read_host)
    return choose(_GREETING, overrides, runtime, read_host, within_budgets=False).decision.arm


def read_recent_arms(config: Config, policy: str, chat_id: str | None) -> list[str]:
    """Read the arms that the rules of a policy chose for the last questions, newest first.

    Of a cascade it is the first. The turns of the chat count alone if it has any.
    """
    from etui.log.queries import LogReader

    sql = (
        "SELECT coalesce(json_extract(hops, '$[0].arm'), arm) FROM turns {} "
        "WHERE policy = ? AND rule IS NOT NULL {} ORDER BY created_at DESC LIMIT ?"
    )
    found: list[str] = []
    with suppress(LogUnavailable), LogReader(config) as log:
        if chat_id is not None:
            values = (policy, chat_id, LAST_TURNS)
            found = [row[0] for row in log.select(sql.format("", "AND chat_id = ?"), values)]
        if not found:
            of_policy = sql.format("INDEXED BY turns_by_policy", "")
            found = [row[0] for row in log.select(of_policy, (policy, LAST_TURNS))]
    return found


def rank_arms(recent: Sequence[str]) -> list[str]:
    """Order arms by how often they were chosen; of two alike, the one chosen last comes first."""
    return [arm for arm, _ in Counter(recent).most_common()]


def _find_default_arm(
    overrides: Overrides, runtime: Runtime[Any], read_host: Callable[[], HostState]
) -> Arm:
    """Decide by the rules that match every question."""
    policy = load_policy_here(overrides, runtime)
    always = tuple(rule for rule in policy.rules if rule.when is None)
    policy = replace(policy, rules=always)
    known = collect_knowledge(policy, runtime, read_host())
    return decide_query(_GREETING, policy, knowledge=known).decision.arm


RouteKind = Literal["policy", "arm", "model"]


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """One policy, arm or model that may answer the next questions."""

    kind: RouteKind
    name: str
    route: Route  # How the next questions find it
    here: bool  # Whether a model on this machine can answer for it
    joules_per_token: float | None = None
    """Predicted joules of a decoded token of its model, or of the cheapest model of a policy; None
    if unknown."""
    details: str = ""
    """What else there is to say: description, model, size, or why it cannot be used."""


def build_overrides(route: Route) -> Overrides:
    """Return the options by which a route chooses."""
    if route.model:
        return Overrides(model=route.model)
    return Overrides(policy=route.policy, arm=route.arm)


def list_route_choices(config: Config, route: Route) -> tuple[RouteChoice, ...]:
    """List the policies, the arms of the policy in use, and the models; read from disk each time.

    EtuiError if models.yaml cannot be used.
    """
    from etui.log.queries import LogReader
    from etui.models.catalogue import load_catalogue
    from etui.models.files import content_sha256
    from etui.routing.library import list_policies, load_policy
    from etui.routing.policy import choose_served_arm
    from etui.runtime.model_resolution import models_on_disk, read_token_cost

    catalogue = load_catalogue(config)
    on_disk = models_on_disk(config, catalogue)
    costs: dict[str, float] = {}
    with suppress(LogUnavailable), LogReader(config) as log:
        for spec in catalogue:
            if on_disk(spec.name):
                sha256 = content_sha256(spec, config)
                cost = read_token_cost(replace(spec, sha256=sha256), config, log)
                if cost is not None:
                    costs[spec.name] = cost.joules_per_token
    policies: list[RouteChoice] = []
    arms: list[RouteChoice] = []
    for place in list_policies(config):
        name = place.name
        try:
            policy = load_policy(name, config, catalogue.models)
        except EtuiError:
            fault = "has errors: see F4"
            policies.append(RouteChoice("policy", name, Route(name), False, None, fault))
            continue
        served = {each: choose_served_arm(plan, on_disk) for each, plan in policy.arms.items()}
        here = [arm.model for arm in served.values() if arm is not None]
        cheapest = min((costs[model] for model in here if model in costs), default=None)
        text = policy.description
        policies.append(RouteChoice("policy", name, Route(name), bool(here), cheapest, text))
        for each, plan in policy.arms.items() if name == route.policy else ():
            arm = served[each]
            model = plan.models[0] if arm is None else arm.model
            most = f"at most {plan.arm.max_tokens:,} tokens"
            text, joules = f"{model}, {plan.arm.reasoning}, {most}", costs.get(model)
            way = Route(name, arm=each)
            arms.append(RouteChoice("arm", each, way, arm is not None, joules, text))
    models = [
        RouteChoice(
            "model",
            spec.name,
            Route(route.policy, spec.name),
            on_disk(spec.name),
            costs.get(spec.name),
            spec.size,
        )
        for spec in sorted(catalogue, key=lambda spec: not on_disk(spec.name))
    ]
    return (*policies, *arms, *models)

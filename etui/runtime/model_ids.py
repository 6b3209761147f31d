"""The ids by which clients name a policy, an arm of a policy, or a model.

``balanced`` is a policy, ``balanced/think`` an arm of it, ``smollm2-135m`` a model; ``etui``, or no
name, is what config.yaml chooses: its ``model``, else its ``policy``. ``aliases`` of config.yaml
gives further names to these. A name is looked up among the existing ones and never becomes a part
of a path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from etui.errors import EtuiError, InvalidFile, InvalidRequest
from etui.runtime.overrides import Overrides
from etui.text import find_nearest, format_suggestion

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.models.spec import ModelSpec
    from etui.runtime.runtime import Runtime

DEFAULT_ID = "etui"
"""Names what config.yaml chooses, for clients that insist on a name."""

_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One id that clients may name."""

    id: str
    kind: Literal["policy", "arm", "model", "alias"]
    description: str  # One line for people
    context_tokens: int | None = None
    """Size of the context; None if it depends on the arm that is chosen."""
    resident: bool = False
    """Whether its model is in memory; for a policy, whether one of its models is."""
    joules_per_token: float | None = None
    """Joules of a decoded token on this machine in an empty context; None if unknown, and for a
    policy."""
    joules_source: str = ""
    """Where that is from (``operating curve``, ``the mean of 12 turns``); empty if it is unknown.
    """
    backend: str | None = None  # Name of the remote backend that serves it; None for this machine


def list_model_ids(
    runtime: Runtime[Any], residents: Collection[str] = ()
) -> tuple[ServedModel, ...]:
    """List what clients may name: policies with their arms, models, aliases; only what can answer.

    A policy with errors is left out, as are arms and models without a file on this machine. An
    alias has the facts of what it names.
    """
    runtime.reload_catalogue()
    models = {model.id: model for model in _iter_models(runtime, residents)}
    for alias, target in runtime.config.aliases.items():
        meant = models.get(target)
        if meant is not None and alias not in models:
            text = f"{target}: {meant.description}"
            models[alias] = replace(meant, id=alias, kind="alias", description=text)
    return tuple(models.values())


def find_alias(name: str, aliases: Collection[str]) -> str | None:
    """Return the alias of a name: itself, else the first with ``*``; None for none."""
    if name in aliases:
        return name
    for alias in aliases:  # of what `fnmatch` knows only `*` is special
        if fnmatchcase(name, alias.replace("[", "[[]").replace("?", "[?]")):
            return alias
    return None


def parse_model_id(text: str, runtime: Runtime[Any]) -> Overrides:
    """Turn an id of a client into overrides; what exists goes before an alias of the same name.

    InvalidRequest if nothing is called so, with the nearest names; InvalidFile if an arm is named
    of a policy that has errors.
    """
    runtime.reload_catalogue()
    try:
        return _parse_name(text.strip(), runtime)
    except InvalidRequest:
        alias = find_alias(text.strip(), runtime.config.aliases)
        if alias is None:
            raise
    return _parse_alias(alias, runtime)


def check_names(runtime: Runtime[Any], model: str | None, policy: str | None) -> None:
    """Check that what should answer by default is known, on this machine or not."""
    if model is not None:
        runtime.catalogue.get(model)
    if policy is not None:
        runtime.load_policy(policy)


def list_wrong_aliases(runtime: Runtime[Any]) -> Iterator[EtuiError]:
    """Yield what is wrong with each alias of nothing, or for an arm of no use."""
    for alias in runtime.config.aliases:
        try:
            _parse_alias(alias, runtime)
        except EtuiError as error:
            yield error


def _parse_alias(alias: str, runtime: Runtime[Any]) -> Overrides:
    target = runtime.config.aliases[alias]
    try:
        return _parse_name(target, runtime)
    except InvalidRequest as error:
        what = f"the alias {alias!r} of config.yaml means {target!r}: {error.what}"
        raise InvalidRequest(what, error.fix, param="model") from error


def _parse_name(name: str, runtime: Runtime[Any]) -> Overrides:
    if name in ("", DEFAULT_ID):
        return Overrides()
    policies = runtime.policy_names()
    if name in policies:
        return Overrides(policy=name)
    if name in runtime.catalogue:
        return Overrides(model=name)
    policy, slash, arm = name.partition("/")
    arms: tuple[str, ...] = ()
    if slash and policy in policies:
        arms = tuple(runtime.load_policy(policy).arms)
        if arm in arms:
            return Overrides(policy=policy, arm=arm)
    known = [*policies, *runtime.catalogue.models, *(f"{policy}/{each}" for each in arms)]
    near = find_nearest(name.lower()[:_MOST_CHARACTERS], known, most=3, cutoff=0.5)
    raise InvalidRequest(
        f"no policy, arm or model is called {name[:_MOST_CHARACTERS]!r}",
        f"{format_suggestion(near)} GET /v1/models lists all of them; {DEFAULT_ID!r} is the "
        "default of this server".lstrip(),
        param="model",
    )


def _iter_models(runtime: Runtime[Any], residents: Collection[str]) -> Iterator[ServedModel]:
    from etui.routing.policy import choose_served_arm

    is_available = runtime.find_available()

    def describe(
        name: str, kind: Literal["arm", "model"], text: str, spec: ModelSpec
    ) -> ServedModel:
        cost, limit = runtime.find_token_cost(spec.name), runtime.config.context_tokens
        return ServedModel(
            name,
            kind,
            text,
            spec.context if limit is None else min(spec.context, limit),
            spec.name in residents,
            None if cost is None else cost.joules_per_token,
            "" if cost is None else cost.source,
            spec.backend,
        )

    for name in runtime.policy_names():
        try:
            policy = runtime.load_policy(name)
        except InvalidFile:
            continue
        arms = []
        for plan in policy.arms.values():
            arm = choose_served_arm(plan, is_available)
            if arm is not None and arm.model in runtime.catalogue:
                spec = runtime.catalogue.get(arm.model)
                text = f"{arm.model}, {_describe_way(arm)}"
                arms.append(describe(f"{name}/{plan.name}", "arm", text, spec))
        if arms:
            resident = any(arm.resident for arm in arms)
            yield ServedModel(name, "policy", policy.description, resident=resident)
            yield from arms
    for spec in runtime.catalogue:
        if is_available(spec.name):
            yield describe(spec.name, "model", spec.size, spec)


def _describe_way(arm: Arm) -> str:
    if arm.reasoning == "direct":
        return "answers directly"
    if arm.reasoning == "cot":
        return f"thinks up to {arm.think_tokens} tokens"
    return f"takes the majority of up to {arm.votes} answers"

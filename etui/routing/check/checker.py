"""Static checks of a policy file: consistency within the file and with the known models.

A policy with errors cannot be used; warnings point out probable mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from etui.errors import Problem
from etui.routing.check.fit_warnings import FitFacts, find_misfits, find_unfitted
from etui.routing.check.rules import check_known, check_rules
from etui.routing.check.warnings import (
    find_idle_audit,
    find_slow_patterns,
    find_undrafted,
    find_unlike_places,
    find_unlike_votes,
    find_unserved,
    find_unused,
    iter_other_arms,
)
from etui.routing.compile import map_condition_names, order_signals
from etui.routing.compile_signal import compile_regex
from etui.routing.limits import EFFORTS
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.signals.language import LANGUAGES
from etui.yaml.load import Located
from etui.yaml.messages import Loc


@dataclass(frozen=True, slots=True)
class Findings:
    """Errors and warnings, in the order of the file."""

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def check_policy(
    located: Located[PolicyFile],
    models: Collection[str],
    is_available: Callable[[str], bool] | None = None,
    *,
    policies: Collection[str] | None = None,
    fit: FitFacts | None = None,
    thorough: bool = False,
) -> Findings:
    """Check the content of a policy file.

    Args:
        is_available: Whether a model is on this machine; None skips this check.
        policies: Names of all policies; None skips this check.
        fit: What was fitted for the policy; None skips this check.
        thorough: Also try every pattern on texts made to slow it down.
    """
    errors = [
        *_check_models(located, models),
        *_check_signals(located, models),
        *check_rules(located),
        *_check_other_arms(located),
        *_check_probes(located),
        *_check_shadow(located, policies),
        *_check_efforts(located),
    ]
    warnings = [*find_unused(located), *find_unserved(located, is_available, models)]
    if not errors:
        warnings += find_undrafted(located, models)
        warnings += find_unlike_places(located, models)
        warnings += find_unfitted(located, fit, models)
        warnings += find_misfits(located, fit, models)
        warnings += find_unlike_votes(located)
        warnings += find_idle_audit(located)
        warnings += find_slow_patterns(located) if thorough else ()
    return Findings(_sorted(errors), _sorted(warnings))


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda p: (p.line, p.column)))


def _check_models(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    for role, names in file.models.items():
        for index, name in enumerate(names):
            loc: Loc = ("models", role, index)
            yield from check_known(located, loc, "model", name, models)
            if name in names[:index]:
                yield located.problem(loc, f"model '{name}' is listed twice in role '{role}'")
    for arm, entry in file.arms.items():
        loc = ("arms", arm, "model")
        yield from check_known(located, loc, "role or model", entry.model, [*file.models, *models])


def _check_signals(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    ordered = set(order_signals(file.signals))
    names = map_condition_names(file.signals)
    for name, entry in file.signals.items():
        loc: Loc = ("signals", name)
        known = True
        for part in entry.score or ():
            for problem in check_known(
                located, (*loc, "score", part), "signal", part, names, key=True
            ):
                known = False
                yield problem
        if name not in ordered and known and all(part in names for part in entry.score or ()):
            yield located.problem((*loc, "score"), f"score '{name}' includes itself", key=True)
        for band in entry.bands or ():
            if f"{name}.{band}" in file.signals:
                message = f"there is also a signal '{name}.{band}'"
                yield located.problem((*loc, "bands", band), message, key=True)
        if entry.regex is not None:
            yield from _check_regex(located, (*loc, "regex"), entry.regex)
        if entry.metadata is not None and entry.metadata.matches is not None:
            place = (*loc, "metadata", "matches")
            yield from _check_regex(located, place, entry.metadata.matches)
        if entry.language is not None:
            yield from check_known(
                located, (*loc, "language"), "language", entry.language, LANGUAGES
            )
        if entry.equals is not None:
            known_models = [*file.models, *models]
            yield from check_known(
                located, (*loc, "is"), "role or model", entry.equals, known_models
            )


def _check_regex(located: Located[PolicyFile], loc: Loc, text: str) -> Iterator[Problem]:
    try:
        pattern = compile_regex(text)
    except ValueError as error:
        yield located.problem(loc, str(error))
        return
    try:
        if pattern.search("", timeout=0.05) is not None:
            yield located.problem(loc, "this pattern matches an empty text, so it always holds")
    except TimeoutError:
        yield located.problem(loc, "this pattern takes too long even on an empty text")


def _check_probes(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    rules = [rule.name for rule in file.rules]
    signals = map_condition_names(file.signals)
    for index, probe in enumerate(file.probes):
        loc: Loc = ("probes", index)
        for key, what, names in (
            ("rule", "rule", rules),
            ("not_rule", "rule", rules),
            ("arm", "arm", file.arms),
            ("not_arm", "arm", file.arms),
        ):
            name = getattr(probe, key)
            if name is not None:
                yield from check_known(located, (*loc, key), what, name, names)
        for name in probe.signals or ():
            place = (*loc, "signals", name)
            yield from check_known(located, place, "signal", name, signals, key=True)


def _check_other_arms(located: Located[PolicyFile]) -> Iterator[Problem]:
    for loc, arm in iter_other_arms(located.model):
        yield from check_known(located, loc, "arm", arm, located.model.arms)


def _check_shadow(
    located: Located[PolicyFile], policies: Collection[str] | None
) -> Iterator[Problem]:
    shadow = located.model.shadow
    if shadow is not None and policies is not None:
        yield from check_known(located, ("shadow", "policy"), "policy", shadow.policy, policies)


def _check_efforts(located: Located[PolicyFile]) -> Iterator[Problem]:
    for effort in located.model.efforts:
        yield from check_known(located, ("efforts", effort), "effort", effort, EFFORTS, key=True)

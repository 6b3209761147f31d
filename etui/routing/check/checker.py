"""Static checks of a policy file: what it must agree on with itself and with the models there are.

Errors keep a policy from being used; warnings are worth a look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from etui.errors import Problem
from etui.routing.check.rules import check_rules, unknown
from etui.routing.check.warnings import other_arms, slow_patterns, unfitted, unserved, unused
from etui.routing.compile import compile_regex, condition_names, score_order
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.signals.language import LANGUAGES
from etui.yaml.load import Located
from etui.yaml.messages import Loc


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, in the order of the file."""

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def check_policy(
    located: Located[PolicyFile],
    models: Collection[str],
    here: Callable[[str], bool] | None = None,
    *,
    policies: Collection[str] | None = None,
    fitted: Callable[[str], bool] | None = None,
    thorough: bool = False,
) -> Findings:
    """Check the content of a policy file.

    Args:
        located: The file.
        models: Names of models.yaml.
        here: Whether a model is on this machine; None leaves that open.
        policies: Names of the policies there are; None leaves that open.
        fitted: Whether an accuracy was fitted for an arm; None leaves that open.
        thorough: Also try every pattern on texts made to slow it down.
    """
    errors = [
        *_models(located, models),
        *_signals(located, models),
        *check_rules(located),
        *_other_arms(located),
        *_probes(located),
        *_shadow(located, policies),
    ]
    warnings = [*unused(located), *unserved(located, here)]
    if not errors:
        warnings += unfitted(located, fitted)
        warnings += slow_patterns(located) if thorough else ()
    return Findings(_sorted(errors), _sorted(warnings))


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda p: (p.line, p.column)))


def _models(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    for role, names in file.models.items():
        for index, name in enumerate(names):
            loc: Loc = ("models", role, index)
            yield from unknown(located, loc, "model", name, models)
            if name in names[:index]:
                yield located.problem(loc, f"model '{name}' is twice in role '{role}'")
    for arm, entry in file.arms.items():
        loc = ("arms", arm, "model")
        yield from unknown(located, loc, "role or model", entry.model, [*file.models, *models])


def _signals(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    ordered = set(score_order(file.signals))
    names = condition_names(file.signals)
    for name, entry in file.signals.items():
        loc: Loc = ("signals", name)
        known = True
        for part in entry.score or ():
            for problem in unknown(located, (*loc, "score", part), "signal", part, names, key=True):
                known = False
                yield problem
        if name not in ordered and known and all(part in names for part in entry.score or ()):
            yield located.problem((*loc, "score"), f"score '{name}' adds up itself", key=True)
        for band in entry.bands or ():
            if f"{name}.{band}" in file.signals:
                message = f"there is a signal '{name}.{band}' too"
                yield located.problem((*loc, "bands", band), message, key=True)
        if entry.regex is not None:
            yield from _regex(located, (*loc, "regex"), entry.regex)
        if entry.language is not None:
            yield from unknown(located, (*loc, "language"), "language", entry.language, LANGUAGES)
        if entry.equals is not None:
            known_models = [*file.models, *models]
            yield from unknown(located, (*loc, "is"), "role or model", entry.equals, known_models)


def _regex(located: Located[PolicyFile], loc: Loc, text: str) -> Iterator[Problem]:
    try:
        pattern = compile_regex(text)
    except ValueError as error:
        yield located.problem(loc, str(error))
        return
    try:
        if pattern.search("", timeout=0.05) is not None:
            yield located.problem(loc, "this pattern matches the empty text, so it always holds")
    except TimeoutError:
        yield located.problem(loc, "this pattern takes too long even on the empty text")


def _probes(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    rules = [rule.name for rule in file.rules]
    signals = condition_names(file.signals)
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
                yield from unknown(located, (*loc, key), what, name, names)
        for name in probe.signals or ():
            place = (*loc, "signals", name)
            yield from unknown(located, place, "signal", name, signals, key=True)


def _other_arms(located: Located[PolicyFile]) -> Iterator[Problem]:
    for loc, arm in other_arms(located.model):
        yield from unknown(located, loc, "arm", arm, located.model.arms)


def _shadow(located: Located[PolicyFile], policies: Collection[str] | None) -> Iterator[Problem]:
    shadow = located.model.shadow
    if shadow is not None and policies is not None:
        yield from unknown(located, ("shadow", "policy"), "policy", shadow.policy, policies)

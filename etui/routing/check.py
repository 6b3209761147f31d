"""Static checks of a policy file: what it must agree on with itself and with the models there are.

Errors keep a policy from being used; warnings are worth a look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from etui.errors import Problem
from etui.routing.compile import compile_condition, compile_regex, in_order, score_order
from etui.routing.conditions import signals_of
from etui.routing.language import LANGUAGES
from etui.routing.reach import Form, never_holds
from etui.routing.schema import PolicyFile, RuleEntry, Tree
from etui.routing.signals import REGEX_SECONDS
from etui.yamlfile import Loc, Located, did_you_mean


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
    thorough: bool = False,
) -> Findings:
    """Check the content of a policy file.

    Args:
        located: The file.
        models: Names of models.yaml.
        here: Whether a model is on this machine; None leaves that open.
        policies: Names of the policies there are; None leaves that open.
        thorough: Also try every pattern on texts made to slow it down.
    """
    errors = [
        *_models(located, models),
        *_signals(located, models),
        *_rules(located),
        *_order(located),
        *_probes(located),
        *_shadow(located, policies),
    ]
    warnings = [*_unused(located), *_unserved(located, here)]
    if thorough and not errors:
        warnings += _slow_patterns(located)
    return Findings(_sorted(errors), _sorted(warnings))


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda p: (p.line, p.column)))


def _unknown(
    located: Located[PolicyFile],
    loc: Loc,
    what: str,
    name: str,
    names: Iterable[str],
    *,
    key: bool = False,
) -> Iterator[Problem]:
    known = list(names)
    if name not in known:
        hint = did_you_mean(name, known) if known else "; the file has none"
        yield located.problem(loc, f"unknown {what} '{name}'{hint}", key=key)


def _models(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    for role, names in file.models.items():
        for index, name in enumerate(names):
            loc: Loc = ("models", role, index)
            yield from _unknown(located, loc, "model", name, models)
            if name in names[:index]:
                yield located.problem(loc, f"model '{name}' is twice in role '{role}'")
    for arm, entry in file.arms.items():
        loc = ("arms", arm, "model")
        yield from _unknown(located, loc, "role or model", entry.model, [*file.models, *models])


def _signals(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    ordered = set(score_order(file.signals))
    for name, entry in file.signals.items():
        loc: Loc = ("signals", name)
        known = True
        for part in entry.score or ():
            for problem in _unknown(
                located, (*loc, "score", part), "signal", part, file.signals, key=True
            ):
                known = False
                yield problem
        if name not in ordered and known and all(p in file.signals for p in entry.score or ()):
            yield located.problem((*loc, "score"), f"score '{name}' adds up itself", key=True)
        if entry.regex is not None:
            yield from _regex(located, (*loc, "regex"), entry.regex)
        if entry.language is not None:
            yield from _unknown(located, (*loc, "language"), "language", entry.language, LANGUAGES)
        if entry.equals is not None:
            names = [*file.models, *models]
            yield from _unknown(located, (*loc, "is"), "role or model", entry.equals, names)


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


def _rules(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    first: dict[str, int] = {}
    for index, rule in enumerate(file.rules):
        loc: Loc = ("rules", index)
        if rule.name in first:
            line = located.where(("rules", first[rule.name])).line
            message = f"a second rule '{rule.name}'; the first is on line {line}"
            yield located.problem((*loc, "name"), message)
        first.setdefault(rule.name, index)
        yield from _unknown(located, (*loc, "use"), "arm", rule.use, file.arms)
        if rule.when is not None:
            yield from _condition(located, (*loc, "when"), rule.when)


def _condition(located: Located[PolicyFile], loc: Loc, condition: str | Tree) -> Iterator[Problem]:
    if isinstance(condition, str):
        yield from _unknown(located, loc, "signal", condition, located.model.signals)
        return
    for key in ("all", "any"):
        for index, part in enumerate(getattr(condition, key) or ()):
            yield from _condition(located, (*loc, key, index), part)
    if condition.negated is not None:
        yield from _condition(located, (*loc, "not"), condition.negated)


def _order(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Rules that can never be reached, and the rule that must take the rest."""
    file = located.model
    rules = file.rules
    place = {id(rule): index for index, rule in enumerate(rules)}
    ordered = in_order(rules)
    conditions = [compile_condition(rule.when) for rule in ordered]
    forms = [None if condition is None else Form.of(condition) for condition in conditions]

    def served_by(rule: RuleEntry) -> set[str]:
        arm = file.arms.get(rule.use)
        return set(file.models.get(arm.model, (arm.model,))) if arm is not None else set()

    def say(rule: RuleEntry, message: str) -> Problem:
        return located.problem(("rules", place[id(rule)]), message)

    for number, (rule, condition, form) in enumerate(zip(ordered, conditions, forms, strict=True)):
        if condition is not None and never_holds(condition):
            yield say(rule, f"rule '{rule.name}' can never match: its condition contradicts itself")
            continue
        for before, earlier in zip(ordered[:number], forms[:number], strict=True):
            # A rule whose arm has no model here gives way, so a later one with other models is
            # reached on some machines; behind a rule without a condition it is still a mistake.
            if earlier is None or (
                form is not None and earlier.covers(form) and served_by(rule) <= served_by(before)
            ):
                line = located.where(("rules", place[id(before)])).line
                takes = "every question" if earlier is None else "every question it would match"
                yield say(
                    rule,
                    f"rule '{rule.name}' is never reached: '{before.name}' (line {line}) takes "
                    f"{takes} before it",
                )
                break
    last = ordered[-1]
    if all(rule.when is not None for rule in rules):
        yield say(
            last,
            f"no rule takes the rest: '{last.name}' is tried last and has a `when`; end with a "
            "rule without one",
        )


def _probes(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    rules = [rule.name for rule in file.rules]
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
                yield from _unknown(located, (*loc, key), what, name, names)
        for name in probe.signals or ():
            place = (*loc, "signals", name)
            yield from _unknown(located, place, "signal", name, file.signals, key=True)


def _shadow(located: Located[PolicyFile], policies: Collection[str] | None) -> Iterator[Problem]:
    shadow = located.model.shadow
    if shadow is not None and policies is not None:
        yield from _unknown(located, ("shadow", "policy"), "policy", shadow.policy, policies)


def _unused(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    signals = {part for entry in file.signals.values() for part in entry.score or ()}
    for rule in file.rules:
        if rule.when is not None:
            signals.update(signals_of(compile_condition(rule.when)))
    roles = {arm.model for arm in file.arms.values()}
    roles.update(entry.equals for entry in file.signals.values() if entry.equals)
    used: Mapping[str, tuple[Iterable[str], set[str]]] = {
        "signals": (file.signals, signals),
        "arms": (file.arms, {rule.use for rule in file.rules}),
        "models": (file.models, roles),
    }
    one = {"signals": "signal", "arms": "arm", "models": "role"}
    for section, (names, using) in used.items():
        for name in names:
            if name not in using:
                yield located.problem(
                    (section, name), f"{one[section]} '{name}' is unused", key=True
                )


def _unserved(
    located: Located[PolicyFile], here: Callable[[str], bool] | None
) -> Iterator[Problem]:
    if here is None:
        return
    file = located.model
    for arm, entry in file.arms.items():
        models = file.models.get(entry.model, (entry.model,))
        if not any(map(here, models)):
            yield located.problem(
                ("arms", arm, "model"),
                f"no model of arm '{arm}' is on this machine: {', '.join(models)}; "
                f"`etui models pull {models[-1]}`",
            )


_SLOWING = ("a" * 3000, "1" * 3000, " " * 3000, "ab " * 1000, "a" * 3000 + "!", "(" * 3000)


def _slow_patterns(located: Located[PolicyFile]) -> Iterator[Problem]:
    for name, entry in located.model.signals.items():
        if entry.regex is None:
            continue
        pattern = compile_regex(entry.regex)
        for text in _SLOWING:
            try:
                sum(1 for _ in pattern.finditer(text, timeout=REGEX_SECONDS))
            except TimeoutError:
                yield located.problem(
                    ("signals", name, "regex"),
                    f"this pattern takes more than {REGEX_SECONDS * 1000:.0f} ms on a text like "
                    f"{text[:3]!r} repeated; it then counts as not known",
                )
                break

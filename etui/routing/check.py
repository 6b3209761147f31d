"""Static checks of a policy file: consistency within the file and with the known models.

A policy with errors cannot be used; warnings point out probable mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from etui.errors import Problem
from etui.routing._compile import (
    compile_condition,
    compile_regex,
    map_condition_names,
    order_signals,
    sort_rules,
)
from etui.routing.decision import EFFORTS
from etui.routing.policy import Place, find_settings, find_weights, list_places
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.schema.rules import AgreeEntry, CascadeEntry, RuleEntry, Tree
from etui.routing.signals import REGEX_SECONDS, All, AnyOf, Condition, Holds, Not, iter_signal_names
from etui.routing.text_measures import LANGUAGES
from etui.text import did_you_mean
from etui.yaml.load import Located
from etui.yaml.tree import Loc

if TYPE_CHECKING:
    from etui.routing.library import FitFacts


def check_policy(
    located: Located[PolicyFile],
    models: Collection[str],
    is_available: Callable[[str], bool] | None = None,
    *,
    policies: Collection[str] | None = None,
    fit: FitFacts | None = None,
    thorough: bool = False,
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Check the content of a policy file; return errors and warnings in the order of the file."""
    errors = [
        *_find_unknown(located, models, policies),
        *_check_signals(located),
        *check_rules(located),
    ]
    warnings = [*_find_unused(located), *_find_unserved(located, is_available, models)]
    if not errors:
        warnings += _find_undrafted(located, models)
        warnings += _find_unlike_places(located, models)
        warnings += _find_unfitted(located, fit, models)
        warnings += _find_misfits(located, fit, models)
        warnings += _find_unlike_votes(located)
        warnings += _find_idle_audit(located)
        warnings += _find_slow_patterns(located) if thorough else ()
    return _sorted(errors), _sorted(warnings)


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda p: (p.line, p.column)))


def _find_unfitted(
    located: Located[PolicyFile], fit: FitFacts | None, models: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield objectives whose accuracy is neither fitted nor stated, or that may have no answer."""
    file = located.model
    for index, rule in enumerate(file.rules):
        objective = rule.objective
        if objective is None:
            continue
        loc = ("rules", index, "objective")
        if fit is not None and (objective.accuracy or objective.maximize):
            prior = objective.prior or {}
            unknown = [
                arm
                for arm in rule.arms or ()
                if arm not in prior and not fit.covers(arm, _list_weights(file, arm, models))
            ]
            if unknown:
                then = f"'{rule.otherwise}' answers" if rule.otherwise else "it cannot choose"
                yield located.problem(
                    loc,
                    f"no accuracy was fitted or stated for {', '.join(unknown)}, so "
                    + (
                        f"{then} until you run `etui policy fit`"
                        if len(unknown) == len(rule.arms or ())
                        else "they never qualify until you run `etui policy fit`"
                    ),
                    key=True,
                )
        if rule.otherwise is None and rule is sort_rules(file.rules)[-1]:
            yield located.problem(
                loc,
                f"rule '{rule.name}' is the last and has no `otherwise`: if no candidate "
                "qualifies, no arm answers",
                key=True,
            )


def _find_misfits(
    located: Located[PolicyFile], fit: FitFacts | None, models: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield the arms that were fitted with another model, and steps that no fit ever accepts."""
    if fit is None:
        return
    file = located.model
    weights = {arm: _list_weights(file, arm, models) for arm in file.arms}
    for arm in file.arms:
        if arm in fit.arms and not fit.covers(arm, weights[arm]):
            yield located.problem(
                ("arms", arm, "model"),
                f"the fit of arm '{arm}' is of {fit.arms[arm]}, so nothing is predicted for it "
                "until you run `etui policy fit`",
            )
    for loc, cascade, step in iter_agreements(file):
        required = cascade.accept_at if step.accept is None else step.accept
        at_most, known = fit.agreed.get(step.agree, (1.0, True))
        if at_most >= required or not all(fit.covers(arm, weights[arm]) for arm in step.agree):
            continue
        share = f"{100 * at_most:.1f} % of the time"
        why = f"by the fit it is right {share} at most"
        fix = "lower `accept`, or remove the step"
        if not known:
            why = f"the fit knows only right and wrong, and of that {share} is certain"
            fix = "fit it from bench runs, which have the answers, or lower `accept`"
        alone = len(step.agree) == 1
        who = f"the votes of {step.agree[0]}" if alone else " and ".join(step.agree)
        yield located.problem(
            loc,
            f"an answer that {who} agree on is never accepted: {why}, and {100 * required:g} % is "
            f"required; {fix}",
        )


def _list_weights(file: PolicyFile, arm: str, models: Collection[str]) -> frozenset[str]:
    return frozenset(find_weights(models, name) for name in list_models(file, arm))


def _find_unused(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    named = {part for entry in file.signals.values() for part in entry.score or ()}
    named.update(name for rule in file.rules for _, name in iter_condition_names(rule.when))
    signal_by_name = map_condition_names(file.signals)
    signals = {signal_by_name[name] for name in named if name in signal_by_name}
    arms = {arm for rule in file.rules for _, arm in rule.ends()}
    arms.update(arm for _, arm in _iter_other_arms(file))
    roles = {arm.model for arm in file.arms.values()}
    roles.update(entry.equals for entry in file.signals.values() if entry.equals)
    for section, what, used in (
        ("signals", "signal", signals),
        ("arms", "arm", arms),
        ("models", "role", roles),
    ):
        for name in getattr(file, section):
            if name not in used:
                yield located.problem((section, name), f"{what} '{name}' is unused", key=True)


def _find_unserved(
    located: Located[PolicyFile],
    is_available: Callable[[str], bool] | None,
    models: Collection[str] = (),
) -> Iterator[Problem]:
    if is_available is None:
        return
    file = located.model
    for arm in file.arms:
        places = list_places(list_models(file, arm), models)
        if any(is_available(place.model) for place in places):
            continue
        names = ", ".join(
            f"{place.model} on {place.backend}" if place.backend else place.model
            for place in places
        )
        here = [place.model for place in places if place.backend is None]
        fix = f"run `etui models pull {here[-1]}`" if here else "check with `etui doctor`"
        yield located.problem(
            ("arms", arm, "model"),
            f"no model of arm '{arm}' is "
            + ("on this machine" if here else "available")
            + f": {names}; {fix}",
        )


def _find_unlike_places(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    """Yield the arms whose places differ, though they should have the same weights."""
    file = located.model
    for arm in file.arms:
        first: dict[str, Place] = {}
        for place in list_places(list_models(file, arm), models):
            other = first.setdefault(place.weights, place)
            for what in _list_differences(models, other, place):
                yield located.problem(
                    ("arms", arm, "model"), f"the places of arm '{arm}' differ: {what}"
                )


def _list_differences(models: Collection[str], one: Place, other: Place) -> Iterator[str]:
    """Yield in what two places of the same weights differ that changes their answers."""
    a, b = find_settings(models, one.model), find_settings(models, other.model)
    if a is None or b is None or one == other:
        return
    first, second = (f"{place.model} on {place.machine}" for place in (one, other))
    if a.context != b.context:
        yield (
            f"{first} has a context of {a.context:,} tokens, {second} of {b.context:,}; a question "
            "that fits one may not fit the other"
        )
    if bool(a.think_open) != bool(b.think_open):
        yes, no = (first, second) if a.think_open else (second, first)
        yield f"{yes} can think, {no} cannot, by their entries in models.yaml"
    if None not in (a.sha256, b.sha256) and a.sha256 != b.sha256:
        yield f"{first} and {second} have files of different sha256, so not the same weights"


def _find_undrafted(located: Located[PolicyFile], models: Collection[str]) -> Iterator[Problem]:
    file = located.model
    for arm, entry in file.arms.items():
        if entry.speculate != "draft":
            continue
        for model in list_models(file, arm):
            settings = find_settings(models, model)
            if settings is not None and settings.draft is None:
                yield located.problem(
                    ("arms", arm, "speculate"),
                    f"{model} has no draft model; add `draft: NAME` to its entry in models.yaml, "
                    "or use speculate: lookup",
                )


def _find_unlike_votes(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Yield the steps of votes, which end at the first that differs, if a bench stops otherwise."""
    for loc, _, step in iter_agreements(located.model):
        arm = located.model.arms[step.agree[0]]
        stop = arm.stop.rule if arm.stop is not None else "flip"
        if len(step.agree) == 1 and stop not in ("all", "unanimous"):
            yield located.problem(
                loc,
                f"the votes of '{step.agree[0]}' stop by {stop} in a bench, and in this step at "
                "the first that differs; give the arm `stop: {rule: unanimous}`, or a fit takes a "
                "few equal votes for all of them",
            )


def _find_idle_audit(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    answering = {arm for rule in file.rules for _, arm in rule.ends()}
    if file.audit != "off" and answering == {file.audit.arm}:
        yield located.problem(
            ("audit", "arm"),
            f"nothing is audited: '{file.audit.arm}' answers every turn itself; name another arm",
        )


def _iter_other_arms(file: PolicyFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the arms that are named outside of rules, with their paths."""
    if file.budgets is not None and file.budgets.degrade_to is not None:
        yield ("budgets", "degrade_to"), file.budgets.degrade_to
    if file.fallbacks is not None and file.fallbacks.load_failed is not None:
        yield ("fallbacks", "load_failed"), file.fallbacks.load_failed
    for effort, arm in file.efforts.items():
        yield ("efforts", effort), arm
    if file.audit != "off":
        yield ("audit", "arm"), file.audit.arm
    for name, entry in file.signals.items():
        if entry.nearest is not None and entry.nearest.by is not None:
            yield ("signals", name, "nearest", "by"), entry.nearest.by


_SLOWING = ("a" * 3000, "1" * 3000, " " * 3000, "ab " * 1000, "a" * 3000 + "!", "(" * 3000)


def _find_slow_patterns(located: Located[PolicyFile]) -> Iterator[Problem]:
    for loc, regex in _iter_patterns(located.model):
        pattern = compile_regex(regex)
        for text in _SLOWING:
            try:
                sum(1 for _ in pattern.finditer(text, timeout=REGEX_SECONDS))
            except TimeoutError:
                yield located.problem(
                    loc,
                    f"this pattern takes more than {REGEX_SECONDS * 1000:.0f} ms on a text like "
                    f"{text[:3]!r} repeated; the signal is then unknown",
                )
                break


def _iter_patterns(file: PolicyFile) -> Iterator[tuple[Loc, str]]:
    for name, entry in file.signals.items():
        if entry.regex is not None:
            yield ("signals", name, "regex"), entry.regex
        if entry.metadata is not None and entry.metadata.matches is not None:
            yield ("signals", name, "metadata", "matches"), entry.metadata.matches


def _find_unknown(
    located: Located[PolicyFile], models: Collection[str], policies: Collection[str] | None
) -> Iterator[Problem]:
    """Yield the names that refer to nothing, each with a suggestion, and models listed twice."""
    for loc, what, name, names, key in _iter_references(located.model, models, policies):
        known = list(names)
        if name not in known:
            hint = did_you_mean(name, known) if known else "; the file has none"
            yield located.problem(loc, f"unknown {what} '{name}'{hint}", key=key)
    for role, listed in located.model.models.items():
        for index, name in enumerate(listed):
            if name in listed[:index]:
                message = f"model '{name}' is listed twice in role '{role}'"
                yield located.problem(("models", role, index), message)


def _iter_references(
    file: PolicyFile, models: Collection[str], policies: Collection[str] | None
) -> Iterator[tuple[Loc, str, str, Iterable[str], bool]]:
    """Yield each name that refers to something: place, kind, name, known names, and if a key."""
    models_and_roles = [*file.models, *models]
    signals = map_condition_names(file.signals)
    rules = [rule.name for rule in file.rules]
    for role, names in file.models.items():
        for index, name in enumerate(names):
            yield ("models", role, index), "model", name, models, False
    for arm, settings in file.arms.items():
        yield ("arms", arm, "model"), "role or model", settings.model, models_and_roles, False
    for signal, entry in file.signals.items():
        for part in entry.score or ():
            yield ("signals", signal, "score", part), "signal", part, signals, True
        if entry.language is not None:
            yield ("signals", signal, "language"), "language", entry.language, LANGUAGES, False
        if entry.equals is not None:
            loc = ("signals", signal, "is")
            yield loc, "role or model", entry.equals, models_and_roles, False
    for index, rule in enumerate(file.rules):
        for below, arm in rule.ends():
            yield ("rules", index, *below), "arm", arm, file.arms, False
        for below, name in iter_condition_names(rule.when):
            if name in signals or name not in file.signals:  # else it has bands, of which one is
                yield ("rules", index, "when", *below), "signal", name, signals, False
    for place, arm in _iter_other_arms(file):
        yield place, "arm", arm, file.arms, False
    for index, probe in enumerate(file.probes):
        for key in ("rule", "not_rule", "arm", "not_arm"):
            name = getattr(probe, key)
            if name is not None:
                what = key.removeprefix("not_")
                known = rules if what == "rule" else file.arms
                yield ("probes", index, key), what, name, known, False
        for name in probe.signals or ():
            yield ("probes", index, "signals", name), "signal", name, signals, True
    if file.shadow is not None and policies is not None:
        yield ("shadow", "policy"), "policy", file.shadow.policy, policies, False
    for effort in file.efforts:
        yield ("efforts", effort), "effort", effort, EFFORTS, True


def _check_signals(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    ordered = set(order_signals(file.signals))
    names = map_condition_names(file.signals)
    for name, entry in file.signals.items():
        if name not in ordered and all(part in names for part in entry.score or ()):
            message = f"score '{name}' includes itself"
            yield located.problem(("signals", name, "score"), message, key=True)
        for band in entry.bands or ():
            if f"{name}.{band}" in file.signals:
                message = f"there is also a signal '{name}.{band}'"
                yield located.problem(("signals", name, "bands", band), message, key=True)
    for loc, text in _iter_patterns(file):
        try:
            if compile_regex(text).search("", timeout=0.05) is not None:
                yield located.problem(loc, "this pattern matches an empty text, so it always holds")
        except TimeoutError:
            yield located.problem(loc, "this pattern takes too long even on an empty text")
        except ValueError as error:
            yield located.problem(loc, str(error))


_TABLE_SIGNALS = 8
"""Most signals of a condition whose truth table is searched (256 rows)."""

Key = tuple[object, ...]


def never_holds(condition: Condition) -> bool:
    """Check whether a condition of at most ``_TABLE_SIGNALS`` signals contradicts itself."""
    names = sorted(set(iter_signal_names(condition)))
    if len(names) > _TABLE_SIGNALS or not _negates(condition):
        return False
    return not any(
        condition.holds(dict(zip(names, truth, strict=True)).__getitem__)
        for truth in product((True, False), repeat=len(names))
    )


@dataclass(frozen=True, slots=True)
class Form:
    """A condition in two forms, for comparison with others."""

    needs: frozenset[Key]  # Parts that must all hold
    takes: frozenset[Key]  # Parts of which any one is enough

    @classmethod
    def of(cls, condition: Condition) -> Form:
        """Build the form of a condition."""
        return cls(_parts(condition, All), _parts(condition, AnyOf))

    def covers(self, later: Form) -> bool:
        """Check whether this condition holds wherever ``later`` does, as far as the form shows it.

        ``a`` covers ``{all: [a, b]}``; ``{any: [a, b]}`` covers ``a``; equal conditions cover each
        other. Implications that need more reasoning are not detected.
        """
        return (
            self.needs <= later.needs
            or not self.takes.isdisjoint(later.needs)
            or later.takes <= self.takes
        )


def _parts(condition: Condition, kind: type[All] | type[AnyOf]) -> frozenset[Key]:
    """Return the parts of an ``all`` (or ``any``), flattened; else the condition itself."""
    if isinstance(condition, kind):
        return frozenset().union(*(_parts(part, kind) for part in condition.parts))
    return frozenset({_key(condition)})


def _key(condition: Condition) -> Key:
    """Return a key that is equal for conditions that differ only in the order of their parts."""
    match condition:
        case Holds(name):
            return ("signal", name)
        case Not(part):
            return ("not", _key(part))
        case All(parts) | AnyOf(parts):
            if len(parts) == 1:
                return _key(parts[0])
            return (type(condition).__name__, _parts(condition, type(condition)))


def _negates(condition: Condition) -> bool:
    match condition:
        case Holds():
            return False
        case Not():
            return True
        case All(parts) | AnyOf(parts):
            return any(map(_negates, parts))


def list_models(file: PolicyFile, arm: str) -> tuple[str, ...]:
    """List the models that an arm names, those of its role or the one."""
    asked = file.arms[arm].model
    return file.models.get(asked, (asked,))


def iter_condition_names(condition: str | Tree | None) -> Iterator[tuple[Loc, str]]:
    """Yield the signals of a condition and their places in it."""
    if isinstance(condition, str):
        yield (), condition
    elif condition is not None:
        parts = [
            ((key, index), part)
            for key in ("all", "any")
            for index, part in enumerate(getattr(condition, key) or ())
        ]
        for place, part in (*parts, (("not",), condition.negated)):
            for below, name in iter_condition_names(part):
                yield (*place, *below), name


def iter_agreements(file: PolicyFile) -> Iterator[tuple[Loc, CascadeEntry, AgreeEntry]]:
    """Yield the steps of several answers in the cascades, each with the place of its arms."""
    for index, rule in enumerate(file.rules):
        if rule.cascade is not None:
            for at, step in enumerate(rule.cascade.arms):
                if not isinstance(step, str):
                    yield ("rules", index, "cascade", "arms", at, "agree"), rule.cascade, step


def check_rules(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Yield every error of the rules, names that refer to nothing excepted."""
    file = located.model
    signals = map_condition_names(file.signals)
    first: dict[str, int] = {}
    for index, rule in enumerate(file.rules):
        loc: Loc = ("rules", index)
        if rule.name in first:
            line = located.where(("rules", first[rule.name])).line
            message = f"duplicate rule '{rule.name}'; the first is on line {line}"
            yield located.problem((*loc, "name"), message)
        first.setdefault(rule.name, index)
        for below, name in iter_condition_names(rule.when):
            if name in file.signals and name not in signals:
                bands = ", ".join(f"{name}.{band}" for band in file.signals[name].bands or ())
                message = f"signal '{name}' has bands; name one: {bands}"
                yield located.problem((*loc, "when", *below), message)
        yield from _check_repeated(located, loc, rule)
    for place, _, step in iter_agreements(file):
        yield from _check_agreement(located, place, step.agree)
    yield from _check_order(located)


def _check_repeated(located: Located[PolicyFile], loc: Loc, rule: RuleEntry) -> Iterator[Problem]:
    seen: dict[str, object] = {}  # Arm -> the step that named it last
    for path, arm in rule.cascade.places() if rule.cascade is not None else ():
        if arm in seen:
            why = _ALONE if seen[arm] == path[1] else "the cascade would loop"
            yield located.problem((*loc, "cascade", *path), f"arm '{arm}' is listed twice: {why}")
        seen[arm] = path[1]
    arms = rule.arms or ()
    for at, arm in enumerate(arms):
        if arm in arms[:at]:
            message = f"arm '{arm}' is listed twice among the candidates"
            yield located.problem((*loc, "arms", at), message)


_ALONE = (
    "an arm always agrees with itself; name two arms, or one with `reasoning: vote` and two votes "
    "or more"
)


def _check_agreement(
    located: Located[PolicyFile], loc: Loc, agree: tuple[str, ...]
) -> Iterator[Problem]:
    arms = located.model.arms
    if len(agree) == 1:
        entry = arms.get(agree[0])
        if entry is not None and (entry.reasoning != "vote" or entry.votes == 1):
            yield located.problem(loc, f"only '{agree[0]}' answers: {_ALONE}")
        return
    first: dict[str, str] = {}
    for at, name in enumerate(agree):
        entry = arms.get(name)
        if entry is None:
            continue
        other = first.setdefault(entry.model_dump_json(exclude=_SAME_ANSWER), name)
        if other != name:
            message = f"'{other}' and '{name}' are the same arm: {_ALONE}"
            yield located.problem((*loc, at), message)


_SAME_ANSWER = {"max_tokens", "max_joules", "speculate", "loop_guard"}
"""Keys in which two arms may differ and still give the same answer."""


def _check_order(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Yield rules that can never be reached, and a missing rule for the remaining questions."""
    file = located.model
    rules = file.rules
    place = {id(rule): index for index, rule in enumerate(rules)}
    ordered = sort_rules(rules)

    def served_by(rule: RuleEntry) -> set[str]:
        arms = [arm for _, arm in rule.ends() if arm in file.arms]
        return {model for arm in arms for model in list_models(file, arm)}

    conditions = [None if rule.when is None else compile_condition(rule.when) for rule in ordered]
    forms = [None if condition is None else Form.of(condition) for condition in conditions]
    served = [served_by(rule) for rule in ordered]

    def make_problem(rule: RuleEntry, message: str) -> Problem:
        return located.problem(("rules", place[id(rule)]), message)

    for number, (rule, condition, form) in enumerate(zip(ordered, conditions, forms, strict=True)):
        if condition is not None and never_holds(condition):
            yield make_problem(
                rule, f"rule '{rule.name}' can never match: its condition contradicts itself"
            )
            continue
        for place_before, before in enumerate(ordered[:number]):
            if before.objective is not None and before.otherwise is None:
                continue  # it falls through if no candidate qualifies
            earlier = forms[place_before]
            # A rule whose arms have no model here falls through, so a later one with other models
            # is reached on some machines; after a rule without a condition it is still an error.
            if earlier is None or (
                form is not None and earlier.covers(form) and served[number] <= served[place_before]
            ):
                line = located.where(("rules", place[id(before)])).line
                matched = "every question" if earlier is None else "every question it would match"
                yield make_problem(
                    rule,
                    f"rule '{rule.name}' is never reached: '{before.name}' (line {line}) takes "
                    f"{matched} before it",
                )
                break
    last = ordered[-1]
    if all(rule.when is not None for rule in rules):
        yield make_problem(
            last,
            f"no rule takes the remaining questions: '{last.name}' is tried last and has a `when`; "
            "end with a rule without `when`",
        )

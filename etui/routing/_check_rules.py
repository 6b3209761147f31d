"""Check the names, conditions and order of a policy's rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from etui.errors import Problem
from etui.routing._compile import compile_condition, map_condition_names, sort_rules
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.schema.rules import AgreeEntry, CascadeEntry, RuleEntry, Tree
from etui.routing.signals import All, AnyOf, Condition, Holds, Not, iter_signal_names
from etui.yaml.load import Located
from etui.yaml.tree import Loc

_TABLE_SIGNALS = 8
"""Most signals of a condition whose truth table is searched (256 rows)."""

Key = tuple[object, ...]


def never_holds(condition: Condition) -> bool:
    """Check whether a condition contradicts itself for all values of its signals.

    Conditions of more than ``_TABLE_SIGNALS`` signals are not examined and return False.
    """
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
    """Yield the arms that are listed twice in a cascade or among the candidates."""
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
    """Yield an agreement of one answer, and arms that differ in nothing but their names."""
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

    conditions = [compile_condition(rule.when) for rule in ordered]
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

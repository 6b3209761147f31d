"""Check the names, conditions and order of a policy's rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from etui.errors import Problem
from etui.routing._compile import compile_condition, map_condition_names, sort_rules
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.schema.rules import CascadeEntry, RuleEntry, Tree
from etui.routing.signals import All, AnyOf, Condition, Holds, Not, iter_signal_names
from etui.text import did_you_mean
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


def check_rules(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Yield every error of the rules."""
    yield from _check_names(located)
    yield from _check_repeated(located)
    yield from _check_order(located)


def _check_names(located: Located[PolicyFile]) -> Iterator[Problem]:
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
        for below, arm in rule.ends():
            yield from check_known(located, (*loc, *below), "arm", arm, file.arms)
        if rule.when is not None:
            yield from _check_condition(located, (*loc, "when"), rule.when, signals)


def _check_repeated(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Yield the arms that are listed twice in a cascade or among the candidates."""
    for index, rule in enumerate(located.model.rules):
        loc: Loc = ("rules", index)
        if rule.cascade is not None:
            yield from _check_cascade(located, (*loc, "cascade"), rule.cascade)
        yield from _check_duplicates(
            located, (*loc, "arms"), rule.arms or (), " among the candidates"
        )


def _check_cascade(
    located: Located[PolicyFile], loc: Loc, cascade: CascadeEntry
) -> Iterator[Problem]:
    """Yield the arms that are asked twice, and the agreements of an arm with itself."""
    seen: set[str] = set()
    for index, step in enumerate(cascade.arms):
        place = (*loc, "arms", index)
        if isinstance(step, str):
            if step in seen:
                message = f"arm '{step}' is listed twice: the cascade would loop"
                yield located.problem(place, message)
            seen.add(step)
            continue
        for at, arm in enumerate(step.agree):
            if arm in step.agree[:at]:
                message = f"arm '{arm}' is listed twice: {_ALONE}"
                yield located.problem((*place, "agree", at), message)
            elif arm in seen:
                message = f"arm '{arm}' is listed twice: the cascade would loop"
                yield located.problem((*place, "agree", at), message)
        seen.update(step.agree)
        yield from _check_agreement(located, (*place, "agree"), step.agree)


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


def _check_duplicates(
    located: Located[PolicyFile], loc: Loc, arms: Sequence[str], why: str
) -> Iterator[Problem]:
    for place, arm in enumerate(arms):
        if arm in arms[:place]:
            yield located.problem((*loc, place), f"arm '{arm}' is listed twice{why}")


def _check_condition(
    located: Located[PolicyFile], loc: Loc, condition: str | Tree, signals: Mapping[str, str]
) -> Iterator[Problem]:
    if isinstance(condition, str):
        entry = located.model.signals.get(condition)
        if entry is not None and entry.bands is not None:
            bands = ", ".join(f"{condition}.{band}" for band in entry.bands)
            yield located.problem(loc, f"signal '{condition}' has bands; name one: {bands}")
        else:
            yield from check_known(located, loc, "signal", condition, signals)
        return
    for key in ("all", "any"):
        for index, part in enumerate(getattr(condition, key) or ()):
            yield from _check_condition(located, (*loc, key, index), part, signals)
    if condition.negated is not None:
        yield from _check_condition(located, (*loc, "not"), condition.negated, signals)


def _check_order(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Yield rules that can never be reached, and a missing rule for the remaining questions."""
    file = located.model
    rules = file.rules
    place = {id(rule): index for index, rule in enumerate(rules)}
    ordered = sort_rules(rules)

    def served_by(rule: RuleEntry) -> set[str]:
        arms = [file.arms[arm] for _, arm in rule.ends() if arm in file.arms]
        return {model for arm in arms for model in file.models.get(arm.model, (arm.model,))}

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


def check_known(
    located: Located[PolicyFile],
    loc: Loc,
    what: str,
    name: str,
    names: Iterable[str],
    *,
    key: bool = False,
) -> Iterator[Problem]:
    """Yield a problem with a suggestion for an unknown name; nothing for a known one.

    Args:
        key: Whether the name is a key rather than a value.
    """
    known = list(names)
    if name not in known:
        hint = did_you_mean(name, known) if known else "; the file has none"
        yield located.problem(loc, f"unknown {what} '{name}'{hint}", key=key)

"""Check the names, conditions and order of a policy's rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from etui.errors import Problem
from etui.routing.check.reachability import Form, never_holds
from etui.routing.compile import compile_condition, condition_names, in_order
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.schema.rules import RuleEntry, Tree
from etui.text.suggest import did_you_mean
from etui.yaml.load import Located
from etui.yaml.messages import Loc


def check_rules(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Every fault of the rules."""
    yield from _names(located)
    yield from _repeated(located)
    yield from _order(located)


def _names(located: Located[PolicyFile]) -> Iterator[Problem]:
    file = located.model
    signals = condition_names(file.signals)
    first: dict[str, int] = {}
    for index, rule in enumerate(file.rules):
        loc: Loc = ("rules", index)
        if rule.name in first:
            line = located.where(("rules", first[rule.name])).line
            message = f"a second rule '{rule.name}'; the first is on line {line}"
            yield located.problem((*loc, "name"), message)
        first.setdefault(rule.name, index)
        for below, arm in rule.ends():
            yield from unknown(located, (*loc, *below), "arm", arm, file.arms)
        if rule.when is not None:
            yield from _condition(located, (*loc, "when"), rule.when, signals)


def _repeated(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Arms that stand twice in a cascade or among the candidates."""
    for index, rule in enumerate(located.model.rules):
        loc: Loc = ("rules", index)
        if rule.cascade is not None:
            below = (*loc, "cascade", "arms")
            yield from _twice(
                located, below, rule.cascade.arms, ": the cascade would go in a circle"
            )
        yield from _twice(located, (*loc, "arms"), rule.arms or (), " among the candidates")


def _twice(
    located: Located[PolicyFile], loc: Loc, arms: Sequence[str], why: str
) -> Iterator[Problem]:
    for place, arm in enumerate(arms):
        if arm in arms[:place]:
            yield located.problem((*loc, place), f"arm '{arm}' is twice{why}")


def _condition(
    located: Located[PolicyFile], loc: Loc, condition: str | Tree, signals: Mapping[str, str]
) -> Iterator[Problem]:
    if isinstance(condition, str):
        entry = located.model.signals.get(condition)
        if entry is not None and entry.bands is not None:
            bands = ", ".join(f"{condition}.{band}" for band in entry.bands)
            yield located.problem(loc, f"signal '{condition}' has bands; name one: {bands}")
        else:
            yield from unknown(located, loc, "signal", condition, signals)
        return
    for key in ("all", "any"):
        for index, part in enumerate(getattr(condition, key) or ()):
            yield from _condition(located, (*loc, key, index), part, signals)
    if condition.negated is not None:
        yield from _condition(located, (*loc, "not"), condition.negated, signals)


def _order(located: Located[PolicyFile]) -> Iterator[Problem]:
    """Rules that can never be reached, and the rule that must take the rest."""
    file = located.model
    rules = file.rules
    place = {id(rule): index for index, rule in enumerate(rules)}
    ordered = in_order(rules)

    def served_by(rule: RuleEntry) -> set[str]:
        arms = [file.arms[arm] for _, arm in rule.ends() if arm in file.arms]
        return {model for arm in arms for model in file.models.get(arm.model, (arm.model,))}

    conditions = [compile_condition(rule.when) for rule in ordered]
    forms = [None if condition is None else Form.of(condition) for condition in conditions]
    served = [served_by(rule) for rule in ordered]

    def say(rule: RuleEntry, message: str) -> Problem:
        return located.problem(("rules", place[id(rule)]), message)

    for number, (rule, condition, form) in enumerate(zip(ordered, conditions, forms, strict=True)):
        if condition is not None and never_holds(condition):
            yield say(rule, f"rule '{rule.name}' can never match: its condition contradicts itself")
            continue
        for place_before, before in enumerate(ordered[:number]):
            if before.objective is not None and before.otherwise is None:
                continue  # it gives way where no candidate qualifies
            earlier = forms[place_before]
            # A rule whose arms have no model here gives way, so a later one with other models is
            # reached on some machines; behind a rule without a condition it is still a mistake.
            if earlier is None or (
                form is not None and earlier.covers(form) and served[number] <= served[place_before]
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


def unknown(
    located: Located[PolicyFile],
    loc: Loc,
    what: str,
    name: str,
    names: Iterable[str],
    *,
    key: bool = False,
) -> Iterator[Problem]:
    """The problem of an unknown name with the nearest known one; nothing where it is known."""
    known = list(names)
    if name not in known:
        hint = did_you_mean(name, known) if known else "; the file has none"
        yield located.problem(loc, f"unknown {what} '{name}'{hint}", key=key)

"""What the cases of a policy reach, and whether paraphrases are routed alike; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from etui.routing.policy import CascadePlan, Objective, Policy, Rule
from etui.routing.probes import ProbeOutcome


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rules and arms of a policy, and those that no question reached.

    Arms are those that a rule leads to without a fit: an arm that only predictions, a budget, a
    fallback or an effort chooses is not counted.

    Attributes:
        rules, arms: Names, in the order of the policy.
        missed_rules, missed_arms: Those of them that no question reached.
    """

    rules: tuple[str, ...]
    arms: tuple[str, ...]
    missed_rules: tuple[str, ...]
    missed_arms: tuple[str, ...]

    @property
    def percent(self) -> float:
        """Share of the rules and arms that were reached, 0..100."""
        size = len(self.rules) + len(self.arms)
        return 100 * (size - len(self.missed_rules) - len(self.missed_arms)) / size


@dataclass(frozen=True, slots=True)
class ParaphraseGroup:
    """Cases that ask the same in other words."""

    name: str
    size: int  # Number of its cases, at least two
    routes: tuple[tuple[tuple[str, str] | None, tuple[int, ...]], ...]
    """Each pair of rule and arm that its cases were routed to, with the lines of the cases, most
    cases first; None if there was no decision."""

    @property
    def is_alike(self) -> bool:
        """Whether all its cases were routed alike."""
        return len(self.routes) == 1


def measure_coverage(policy: Policy, outcomes: Iterable[ProbeOutcome]) -> Coverage:
    """Find the rules and arms that the questions reached; a cascade reaches all its arms."""
    reached_rules: set[str | None] = set()
    reached_arms: set[str] = set()
    for outcome in outcomes:
        decision = outcome.decision
        if decision is not None:
            hops = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
            reached_rules.add(decision.rule)
            reached_arms.update(arm.name for arm in hops)
    rules = tuple(rule.name for rule in policy.rules)
    led_to = {name for rule in policy.rules for name in _iter_arms_without_fit(rule)}
    arms = tuple(name for name in policy.arms if name in led_to)
    return Coverage(
        rules,
        arms,
        tuple(name for name in rules if name not in reached_rules),
        tuple(name for name in arms if name not in reached_arms),
    )


def _iter_arms_without_fit(rule: Rule) -> Iterator[str]:
    """Yield the arms a rule may lead to where nothing was fitted or calibrated."""
    match rule.then:
        case CascadePlan(arms):
            yield from arms
        case Objective() as objective:
            if objective.otherwise is not None:
                yield objective.otherwise
            if objective.goal == "accuracy" and objective.prior:
                yield max(objective.prior, key=lambda arm: objective.prior[arm])
        case str() as arm:
            yield arm


def group_paraphrases(outcomes: Sequence[ProbeOutcome]) -> tuple[ParaphraseGroup, ...]:
    """Gather the groups of at least two cases, in the order of their first case."""
    groups: dict[str, list[ProbeOutcome]] = {}
    for outcome in outcomes:
        if outcome.probe.group:
            groups.setdefault(outcome.probe.group, []).append(outcome)
    return tuple(_build_group(name, each) for name, each in groups.items() if len(each) > 1)


def _build_group(name: str, outcomes: Sequence[ProbeOutcome]) -> ParaphraseGroup:
    lines: dict[tuple[str, str] | None, list[int]] = {}
    for outcome in outcomes:
        lines.setdefault(outcome.route, []).append(outcome.probe.line)
    routes = sorted(lines.items(), key=lambda item: -len(item[1]))
    return ParaphraseGroup(
        name, len(outcomes), tuple((route, tuple(each)) for route, each in routes)
    )


def measure_robustness(groups: Sequence[ParaphraseGroup]) -> float | None:
    """Compute the share of groups that are routed alike, 0..100; None without a group."""
    return 100 * sum(group.is_alike for group in groups) / len(groups) if groups else None

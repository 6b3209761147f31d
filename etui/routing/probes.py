"""Run the probes and cases of a policy: questions with the decisions expected for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from etui.config.config import Config, shipped_dir
from etui.errors import EtuiError, InvalidFile, Problem
from etui.routing._compile import compile_probe
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import CascadePlan, Objective, Policy, PolicyProbe, Rule
from etui.routing.schema.policy_file import CaseEntry
from etui.text import did_you_mean
from etui.yaml.load import limit_problems, parse_yaml, read_text


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """The result of one probe or case."""

    probe: PolicyProbe  # The question and its expectations
    decision: Decision | None  # The decision; None if the policy could not decide
    failures: tuple[str, ...]  # Expectations that were not met; empty if the probe passed

    @property
    def route(self) -> tuple[str, str] | None:
        """The rule and the arm; None if the policy could not decide."""
        decision = self.decision
        return None if decision is None else (decision.rule or "", decision.arm.name)


_MOST_RULES = 3
"""Rules of an expected arm that are named in an explanation, so that it stays short."""


def run_probes(
    policy: Policy, probes: Iterable[PolicyProbe] | None = None
) -> tuple[ProbeOutcome, ...]:
    """Run probes, those of the policy or others, with all models and without any fit.

    The result is therefore the same on every machine; an objective takes its ``otherwise``.
    """
    chosen = policy.probes if probes is None else probes
    return tuple(_run_probe(probe, policy) for probe in chosen)


def _run_probe(probe: PolicyProbe, policy: Policy) -> ProbeOutcome:
    try:
        decision = decide(
            probe.query,
            policy,
            available=lambda _: True,
            host=probe.host,
            every_signal=bool(probe.signals),
        )
    except EtuiError as error:
        return ProbeOutcome(probe, None, (error.what,))
    failures = []
    for what, required, excluded, got in (
        ("rule", probe.rule, probe.not_rule, decision.rule),
        ("arm", probe.arm, probe.not_arm, decision.arm.name),
    ):
        if required is not None and got != required:
            failures.append(f"{what} {got}, expected {required}")
        if excluded is not None and got == excluded:
            failures.append(f"{what} {got}, expected any other")
    if probe.signals:
        holds = {value.name: value.holds for value in decision.signals}
        for name, expected in probe.signals.items():
            if name not in holds:
                failures.append(f"there is no signal {name}")
            elif holds[name] is not expected:
                failures.append(f"signal {name} {'holds' if holds[name] else 'does not hold'}")
    return ProbeOutcome(probe, decision, tuple(failures))


def format_expectation(probe: PolicyProbe) -> str:
    """Format what is expected: ``rule talk, not arm large, signal long does not hold``."""
    named = (
        ("rule", probe.rule), ("not rule", probe.not_rule), ("arm", probe.arm),
        ("not arm", probe.not_arm),
    )  # fmt: skip
    parts = [f"{what} {name}" for what, name in named if name is not None]
    parts += [
        f"signal {name} {'holds' if holds else 'does not hold'}"
        for name, holds in probe.signals.items()
    ]
    return ", ".join(parts)


def explain_failure(outcome: ProbeOutcome, policy: Policy) -> tuple[str, ...]:
    """Explain why a probe failed: the rule that decided and why, then why others did not.

    Empty if the policy could not decide: the failure itself says why.
    """
    decision = outcome.decision
    if decision is None:
        return ()
    return (decision.why, *_explain_others(outcome.probe, decision, policy))


def _explain_others(probe: PolicyProbe, decision: Decision, policy: Policy) -> Iterator[str]:
    if probe.rule is not None and probe.rule != decision.rule:
        expected = [rule for rule in policy.rules if rule.name == probe.rule]
    elif probe.arm is not None and probe.arm != decision.arm.name:
        expected = [rule for rule in policy.rules if probe.arm in rule.arms]
    else:
        return
    tried = {rule.name: rule.failed for rule in decision.rules}
    for rule in expected[:_MOST_RULES]:
        if rule.name == decision.rule:
            continue
        if rule.name in tried:
            yield f"{rule.name} did not match: {tried[rule.name] or 'no candidate'}"
        else:
            yield f"{rule.name} was not tried: {decision.rule} comes before it"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rules and arms of a policy, and those that no question reached.

    Arms are those that a rule leads to without a fit: an arm that only predictions, a budget, a
    fallback or an effort chooses is not counted.
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


CASES_ENDING = ".cases.jsonl"
"""End of the name of a cases file, in place of ``.yaml``."""

MAX_BYTES = 50_000_000
"""Size of the largest cases file that is read."""


def _list_cases_paths(policy_path: Path, config: Config) -> tuple[Path, ...]:
    """List the files next to the policy and, for a shipped policy, in ETUI_HOME/policies."""
    name = policy_path.stem + CASES_ENDING
    folders = [policy_path.parent]
    if policy_path.parent == shipped_dir() / "policies":
        folders.append(config.policies_dir)
    return tuple(path for folder in folders if (path := folder / name).exists())


def load_cases(policy: Policy, config: Config) -> tuple[PolicyProbe, ...]:
    """Load the cases of a policy; InvalidFile with every error of its files."""
    cases: list[PolicyProbe] = []
    problems: list[Problem] = []
    for path in _list_cases_paths(policy.path, config):
        try:
            cases += parse_cases(read_text(path, max_bytes=MAX_BYTES), policy, file=str(path))
        except InvalidFile as error:
            problems += error.problems
    if problems:
        raise InvalidFile.of(problems, "fix each line named, and test again")
    return tuple(cases)


def parse_cases(text: str, policy: Policy, *, file: str) -> tuple[PolicyProbe, ...]:
    """Parse a cases file, one JSON object a line; InvalidFile with every error and its place.

    An empty file has no cases: a shell makes one for
    `etui policy cases NAME --from-log >> NAME.cases.jsonl`.
    """
    names: Mapping[str, Iterable[str]] = {
        "rule": [rule.name for rule in policy.rules],
        "arm": policy.arms,
        "signal": policy.signals,
    }
    cases: list[PolicyProbe] = []
    problems: list[Problem] = []
    first: dict[str, int] = {}
    # Not splitlines: a JSON text may hold U+2028, which is no end of a line there.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _parse_entry(line, file)
        except InvalidFile as error:
            problems += (replace(each, line=number) for each in error.problems)
            continue
        found = [*_check_names(entry, names, line, file)]
        if entry.id is not None and entry.id in first:
            message = f"duplicate id '{entry.id}'; the first is on line {first[entry.id]}"
            found.append(_locate(line, file, ("id",), message))
        problems += (replace(each, line=number) for each in found)
        if entry.id is not None:
            first.setdefault(entry.id, number)
        cases.append(compile_probe(entry, number, file))
    if problems:
        raise InvalidFile.of(limit_problems(problems), "fix each line named, and test again")
    return tuple(cases)


def _parse_entry(line: str, file: str) -> CaseEntry:
    try:
        json.loads(line, object_pairs_hook=_refuse_repeated, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        bad = Problem(file, 1, error.colno, f"broken JSON: {error.msg}")
        raise InvalidFile.of([bad]) from None
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidFile.of([Problem(file, 1, 1, message)]) from None
    try:
        return CaseEntry.model_validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
    except ValueError as error:  # a lone surrogate
        first = str(error)
    # JSON is YAML, and the YAML parser knows where each value is.
    parse_yaml(line, CaseEntry, file=file)
    raise InvalidFile.of([Problem(file, 1, 1, first)])


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_names(
    entry: CaseEntry, names: Mapping[str, Iterable[str]], line: str, file: str
) -> Iterator[Problem]:
    asked = [
        *((("rule",), "rule", entry.rule), (("not_rule",), "rule", entry.not_rule)),
        *((("arm",), "arm", entry.arm), (("not_arm",), "arm", entry.not_arm)),
        *((("signals", name), "signal", name) for name in entry.signals or ()),
    ]
    for loc, what, name in asked:
        known = names[what]
        if name is not None and name not in known:
            hint = did_you_mean(name, known) if known else "; the policy has none"
            yield _locate(line, file, loc, f"unknown {what} '{name}'{hint}")


def _locate(line: str, file: str, loc: tuple[str, ...], message: str) -> Problem:
    try:
        return parse_yaml(line, CaseEntry, file=file).problem(loc, message)
    except InvalidFile:  # JSON that YAML reads otherwise, such as an escaped emoji
        return Problem(file, 1, 1, message)


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

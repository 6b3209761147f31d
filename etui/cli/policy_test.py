"""``etui policy test``: run the probes and cases of policies, and say what they cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import json_option, load_context, print_lines, print_result
from etui.cli.param_types import TEXT, FiniteNumber, number_option, text_option
from etui.errors import ExitCode, InvalidFile, Problem, UsageError
from etui.routing.library import find_policy, list_policies, load_policy
from etui.text import did_you_mean, sanitize
from etui.units import count_text, percent_text

if TYPE_CHECKING:
    from etui.routing.policy import Policy, PolicyProbe
    from etui.routing.probes import Coverage, ParaphraseGroup, ProbeOutcome

_MOST_CHARACTERS = 60
_MOST_NAMES = 10
"""Names listed in one line."""


@dataclass(frozen=True, slots=True)
class _Tested:
    """A policy with the outcomes of its probes and cases, and what they cover."""

    policy: Policy
    outcomes: tuple[ProbeOutcome, ...]
    coverage: Coverage
    groups: tuple[ParaphraseGroup, ...]

    @property
    def failed(self) -> tuple[ProbeOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.failures)


@click.command()
@click.argument("names", type=TEXT, nargs=-1, metavar="[NAME|FILE]...")
@text_option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    help="Run only the cases with this tag, and no probes; repeatable.",
)
@number_option(
    FiniteNumber(0, 100),
    "--min-coverage",
    metavar="PERCENT",
    help="Fail if less of the rules and arms of a policy is reached.",
)
@json_option
def test(
    names: Sequence[str], tags: Sequence[str], min_coverage: float | None, as_json: bool
) -> ExitCode:
    """Run the probes and cases of policies.

    Probes are in the policy, cases in NAME.cases.jsonl next to it, one JSON object a line. Without
    a NAME, tests all policies. No model is loaded: the questions are decided as if every model were
    on this machine and nothing were fitted.

    A failure is printed with the rule that decided and the condition that failed first. Then follow
    the rules and arms that no question reaches, and the groups of paraphrases that are not routed
    alike.

    The exit code is 4 if a probe or case fails or too little is covered, and 2 if a file has
    errors.
    """
    from etui.routing.probes import load_cases

    config, catalogue, _ = load_context()
    places = [find_policy(name, config) for name in names] or list(list_policies(config))
    loaded: list[tuple[Policy, tuple[PolicyProbe, ...]]] = []
    problems: list[Problem] = []
    for place in places:
        name = place.name if place.origin != "file" else str(place.path)
        try:
            policy = load_policy(name, config, catalogue.models)
            loaded.append((policy, (*policy.probes, *load_cases(policy, config))))
        except InvalidFile as error:
            problems += error.problems
    print_lines((sanitize(str(problem)) for problem in problems), err=True)
    if not problems:  # the faulty file may be the one with the tag
        _check_tags(tags, [probe for _, probes in loaded for probe in probes])
    tested = [_run(policy, probes, tags) for policy, probes in loaded]
    if not as_json:
        print_lines(map(sanitize, _failure_lines(tested)), err=True)
    print_result(_build_document(tested, problems), map(sanitize, _result_lines(tested)), as_json)
    low = [each for each in tested if min_coverage and each.coverage.percent < min_coverage]
    for each in low:
        coverage = each.coverage
        missed = len(coverage.missed_rules) + len(coverage.missed_arms)
        size = len(coverage.rules) + len(coverage.arms)
        click.echo(
            f"policy {each.policy.name}: {size - missed} of {size} rules and arms are reached "
            f"({percent_text(coverage.percent / 100)}), less than {min_coverage:g} %",
            err=True,
        )
    if problems:
        return ExitCode.USAGE
    return ExitCode.GATE if low or any(each.failed for each in tested) else ExitCode.DONE


def _check_tags(tags: Sequence[str], probes: Sequence[PolicyProbe]) -> None:
    known = {tag for probe in probes for tag in probe.tags}
    for tag in tags:
        if tag not in known:
            hint = did_you_mean(tag, known, listed=20) if known else "; no case has tags"
            raise UsageError(f"no case has the tag {tag!r}{hint}", "name a tag of the cases file")


def _run(policy: Policy, probes: Sequence[PolicyProbe], tags: Sequence[str]) -> _Tested:
    from etui.routing.probes import group_paraphrases, measure_coverage, run_probes

    chosen = [probe for probe in probes if not tags or set(tags) & set(probe.tags)]
    outcomes = run_probes(policy, chosen)
    coverage = measure_coverage(policy, outcomes)
    return _Tested(policy, outcomes, coverage, group_paraphrases(outcomes))


def _failure_lines(tested: Sequence[_Tested]) -> Iterator[str]:
    from etui.routing.probes import explain_failure

    for each in tested:
        if not each.outcomes:
            yield f"policy {each.policy.name} has no probes and no cases"
        for outcome in each.failed:
            probe = outcome.probe
            query = sanitize(" ".join(probe.query.text.split()))
            shown = query if len(query) <= _MOST_CHARACTERS else f"{query[: _MOST_CHARACTERS - 1]}…"
            yield f"{probe.file}:{probe.line}: {shown!r}: {'; '.join(outcome.failures)}"
            yield from (f"  {line}" for line in explain_failure(outcome, each.policy))


def _result_lines(tested: Sequence[_Tested]) -> Iterator[str]:
    for each in tested:
        if each.outcomes:
            yield from _summary_lines(each)
    if len(tested) > 1:
        total = sum(len(each.outcomes) for each in tested)
        failed = sum(len(each.failed) for each in tested)
        yield f"{total - failed} of {total} passed"


def _summary_lines(tested: _Tested) -> Iterator[str]:
    total, failed = len(tested.outcomes), len(tested.failed)
    cases = sum(outcome.probe.is_case for outcome in tested.outcomes)
    parts = [count_text(total - cases, "probe"), count_text(cases, "case")]
    coverage = tested.coverage
    reached = [
        f"{len(names) - len(missed)} of {count_text(len(names), noun)}"
        for names, missed, noun in (
            (coverage.rules, coverage.missed_rules, "rule"),
            (coverage.arms, coverage.missed_arms, "arm"),
        )
    ]
    line = (
        f"{tested.policy.name}: {total - failed} of {total} passed ({', '.join(parts)}), "
        f"{' and '.join(reached)} reached"
    )
    if tested.groups:
        alike = sum(group.is_alike for group in tested.groups)
        line += f", {alike} of {count_text(len(tested.groups), 'paraphrase group')} alike"
    yield line
    for noun, missed in (("rule", coverage.missed_rules), ("arm", coverage.missed_arms)):
        if missed:
            yield f"  no question reaches {noun} {_join_names(missed)}"
    for group in tested.groups:
        if not group.is_alike:
            routes = ", ".join(_format_route(route, lines) for route, lines in group.routes)
            yield f"  group {group.name} is not routed alike: {routes}"


def _format_route(route: tuple[str, str] | None, lines: Sequence[int]) -> str:
    where = f"line{'s' if len(lines) > 1 else ''} {_join_names([str(line) for line in lines])}"
    return f"{'undecided' if route is None else f'{route[0]} to {route[1]}'} ({where})"


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _build_document(tested: Sequence[_Tested], problems: Sequence[Problem]) -> dict[str, Any]:
    rows = [_build_row(outcome, each.policy) for each in tested for outcome in each.outcomes]
    failed = sum(not row["passed"] for row in rows)
    return {
        "probes": rows,
        "passed": len(rows) - failed,
        "failed": failed,
        "policies": [_build_summary(each) for each in tested],
        "errors": list(map(build_problem, problems)),
    }


def build_problem(problem: Problem) -> dict[str, Any]:
    """Return a problem of a file as plain JSON values; an unknown place is None."""
    return {
        "file": problem.file,
        "line": problem.line or None,
        "column": problem.column or None,
        "message": problem.message,
    }


def _build_row(outcome: ProbeOutcome, policy: Policy) -> dict[str, Any]:
    from etui.routing.probes import explain_failure

    probe, decision = outcome.probe, outcome.decision
    return {
        "policy": policy.name,
        "file": probe.file,
        "line": probe.line,
        "query": probe.query.text,
        "passed": not outcome.failures,
        "failures": list(outcome.failures),
        "rule": decision.rule if decision is not None else None,
        "arm": decision.arm.name if decision is not None else None,
        "why": decision.why if decision is not None else None,
        "because": list(explain_failure(outcome, policy)) if outcome.failures else [],
        "kind": "case" if probe.is_case else "probe",
        "id": probe.id or None,
        "tags": list(probe.tags),
        "group": probe.group or None,
    }


def _build_summary(tested: _Tested) -> dict[str, Any]:
    from etui.routing.probes import measure_robustness

    coverage = tested.coverage
    return {
        "policy": tested.policy.name,
        "file": str(tested.policy.path),
        "cases": sum(outcome.probe.is_case for outcome in tested.outcomes),
        "passed": len(tested.outcomes) - len(tested.failed),
        "failed": len(tested.failed),
        "coverage": {
            "percent": coverage.percent,
            "rules": len(coverage.rules),
            "arms": len(coverage.arms),
            "missed_rules": list(coverage.missed_rules),
            "missed_arms": list(coverage.missed_arms),
        },
        "robustness": {
            "percent": measure_robustness(tested.groups),
            "groups": len(tested.groups),
            "not_alike": [
                {
                    "group": group.name,
                    "routes": [
                        {
                            "rule": route[0] if route is not None else None,
                            "arm": route[1] if route is not None else None,
                            "lines": list(lines),
                        }
                        for route, lines in group.routes
                    ],
                }
                for group in tested.groups
                if not group.is_alike
            ],
        },
    }

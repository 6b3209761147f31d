"""Differences between two policies: in their files, and in what they decide, cases included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.availability import Available
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import Policy, PolicyProbe
from etui.routing.probes import ProbeOutcome, run_probes
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.signals.host_state import HostState


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs between two files.

    Attributes:
        before, after: The values as in JSON; None if a file does not have the key.
    """

    path: str  # Keys that lead to it, joined by dots (`arms.quick.max_tokens`)
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class OtherAnswer:
    """A question that two policies send to different arms or models.

    A policy that could not decide has the reason, in words, in place of its decision.
    """

    query: Query
    before: Decision | str
    after: Decision | str


@dataclass(frozen=True, slots=True)
class DifferingCase:
    """A case that two policies decide differently, or that only one of them passes.

    Attributes:
        before, after: What came of it under each policy.
    """

    case: PolicyProbe  # The question and what is expected
    before: ProbeOutcome
    after: ProbeOutcome


def find_changes(before: PolicyFile, after: PolicyFile) -> tuple[Change, ...]:
    """Return every value that differs between two files, in the order of the first.

    Rules are compared by name; ``rules.order`` changes when they are tried in another order.
    """
    return tuple(_changes("", _comparable(before), _comparable(after)))


def find_other_answers(
    before: Policy,
    after: Policy,
    questions: Iterable[tuple[Query, HostState]],
    available: Available,
) -> tuple[OtherAnswer, ...]:
    """Return the questions for which the arm, or a setting of the arm, differs.

    No fitted accuracy or calibration is used, so an objective takes its ``otherwise``.
    """
    found = []
    for query, host in questions:
        one = _try_decide(query, before, available, host)
        other = _try_decide(query, after, available, host)
        if _answer_key(one) != _answer_key(other):
            found.append(OtherAnswer(query, one, other))
    return tuple(found)


def find_differing_cases(
    before: Policy, after: Policy, cases: Iterable[PolicyProbe]
) -> tuple[DifferingCase, ...]:
    """Run cases under two policies and return those with another arm, setting or verdict.

    A rule, an arm or a signal that a policy does not have is an expectation that it does not meet.
    """
    asked = tuple(cases)
    pairs = zip(asked, run_probes(before, asked), run_probes(after, asked), strict=True)
    return tuple(
        DifferingCase(case, one, other)
        for case, one, other in pairs
        if _outcome_key(one) != _outcome_key(other)
    )


def join_cases(*each: Iterable[PolicyProbe]) -> tuple[PolicyProbe, ...]:
    """Join the cases of several policies; a question with the same expectations counts once."""
    found: dict[object, PolicyProbe] = {}
    for cases in each:
        for case in cases:
            names = (case.rule, case.not_rule, case.arm, case.not_arm)
            signals = tuple(sorted(case.signals.items()))
            found.setdefault((case.to_query(), case.host, names, signals), case)
    return tuple(found.values())


def _outcome_key(outcome: ProbeOutcome) -> object:
    decision = outcome.decision
    return not outcome.failures, _answer_key("" if decision is None else decision)


def _try_decide(
    query: Query, policy: Policy, available: Available, host: HostState
) -> Decision | str:
    try:
        return decide(query, policy, available=available, host=host)
    except EtuiError as error:
        return error.what


def _answer_key(decision: Decision | str) -> object:
    return None if isinstance(decision, str) else (decision.arm, decision.cascade)


def list_probe_questions(*policies: Policy) -> list[tuple[Query, HostState]]:
    """Return the questions of the policies' probes, without duplicates."""
    asked = {(probe.to_query(), probe.host): None for policy in policies for probe in policy.probes}
    return list(asked)


def _comparable(file: PolicyFile) -> dict[str, Any]:
    content = file.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"probes"})
    rules = sorted(content["rules"], key=lambda rule: -rule.get("priority", 0))
    content["rules"] = {rule.pop("name"): rule for rule in rules}
    content["rules.order"] = list(content["rules"])
    return content


def _changes(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            inner = f"{path}.{key}" if path else str(key)
            yield from _changes(inner, before.get(key), after.get(key))
    elif before != after:
        yield Change(path, before, after)

"""Differences between two policies: in their files, and in what they decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.availability import Available
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import Policy
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.signals.host_state import HostState


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs between two files.

    Attributes:
        path: Keys that lead to it, joined by dots (``arms.quick.max_tokens``).
        before, after: The values as in JSON; None if a file does not have the key.
    """

    path: str
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

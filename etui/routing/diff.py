"""Differences between two policies: in their files, and in what they decide, cases included."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import Available, Policy, PolicyProbe
from etui.routing.probes import ProbeOutcome, format_expectation, run_probes
from etui.routing.schema.policy_file import PolicyFile
from etui.routing.signals import HostState
from etui.text import sanitize

if TYPE_CHECKING:
    from etui.routing.decision import Decision


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs between two files, as in JSON; None if a file lacks the key."""

    path: str  # Keys that lead to it, joined by dots (`arms.quick.max_tokens`)
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class OtherAnswer:
    """A question that goes to different arms or models, or is undecided for the reason given."""

    query: Query
    before: Decision | str
    after: Decision | str


@dataclass(frozen=True, slots=True)
class DifferingCase:
    """A case that two policies decide differently, or that only one of them passes."""

    case: PolicyProbe  # The question and what is expected
    before: ProbeOutcome
    after: ProbeOutcome


def find_changes(before: PolicyFile, after: PolicyFile) -> tuple[Change, ...]:
    """Return every value that differs, in the order of the first file; rules go by their names."""
    return tuple(_changes("", _comparable(before), _comparable(after)))


def find_other_answers(
    before: Policy,
    after: Policy,
    questions: Iterable[tuple[Query, HostState]],
    available: Available,
) -> tuple[OtherAnswer, ...]:
    """Return the questions whose arm, or a setting of it, differs without fit and calibration."""
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
    """Run cases under two policies and return those with another arm, setting or verdict."""
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
            found.setdefault((case.query, case.host, names, signals), case)
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
    asked = {(probe.query, probe.host): None for policy in policies for probe in policy.probes}
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


_MOST_CHARACTERS = 70
"""Length at which a question is cut off."""


def diff_lines(
    differing: Sequence[Change], answers: Sequence[OtherAnswer], asked: int
) -> Iterator[str]:
    """Yield a line for every value that differs, then for every question answered differently."""
    for change in differing:
        yield sanitize(_change_text(change))
    yield f"{len(answers)} of {asked} questions are answered differently"
    for answer in answers:
        yield f"  {_shorten(answer.query.text)}"
        for sign, text in zip("-+", _format_sides(answer.before, answer.after), strict=True):
            yield f"    {sign} {text}"


def case_lines(differing: Sequence[DifferingCase], count: int) -> Iterator[str]:
    """Yield a line for all cases that were run, then for each that is decided differently."""
    if not count:
        return
    worse = sum(bool(each.after.failures) and not each.before.failures for each in differing)
    better = sum(bool(each.before.failures) and not each.after.failures for each in differing)
    verdicts = [f"{worse} fail now"] if worse else []
    verdicts += [f"{better} pass now"] if better else []
    more = f": {', '.join(verdicts)}" if verdicts else ""
    yield f"{len(differing)} of {count} cases are decided differently{more}"
    for each in differing:
        case = each.case
        yield f"  {_shorten(case.query.text)}"
        named = f" ({case.id})" if case.id else ""
        place = f"{PurePath(case.file).name}:{case.line}{named}"
        yield sanitize(f"    {place} expects {format_expectation(case)}")
        sides = [
            outcome.decision or "; ".join(outcome.failures) for outcome in (each.before, each.after)
        ]
        texts = _format_sides(*sides)
        for sign, text, outcome in zip("-+", texts, (each.before, each.after), strict=True):
            verdict = "fails" if outcome.failures else "passes"
            yield f"    {sign} {text}; {verdict}"


def _shorten(question: str) -> str:
    text = sanitize(" ".join(question.split()))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _format_sides(before: Decision | str, after: Decision | str) -> Iterator[str]:
    """Yield both decisions: ``rule -> arm: model, reasoning``, or why there is none."""
    settings = _differing_settings(before, after)
    for decision in (before, after):
        if isinstance(decision, str):
            yield f"undecided: {sanitize(decision)}"
            continue
        arm = decision.arm
        differing = "".join(f", {key} {asdict(arm)[key]}" for key in settings)
        yield sanitize(f"{decision.rule} -> {arm.name}: {arm.model}, {arm.reasoning}{differing}")


def _change_text(change: Change) -> str:
    if change.before is None:
        return f"+ {change.path}: {_plain(change.after)}"
    if change.after is None:
        return f"- {change.path}: {_plain(change.before)}"
    if isinstance(change.before, list) and isinstance(change.after, list):
        removed = [f"-{_plain(item)}" for item in change.before if item not in change.after]
        added = [f"+{_plain(item)}" for item in change.after if item not in change.before]
        if removed or added:
            return f"~ {change.path}: {' '.join([*removed, *added])}"
    return f"~ {change.path}: {_plain(change.before)} -> {_plain(change.after)}"


def _differing_settings(before: Decision | str, after: Decision | str) -> list[str]:
    """Return the settings that differ; none unless name, model and reasoning are equal."""
    if isinstance(before, str) or isinstance(after, str):
        return []
    one, other = asdict(before.arm), asdict(after.arm)
    if any(one[key] != other[key] for key in ("name", "model", "reasoning")):
        return []
    return [key for key in one if one[key] != other[key]]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

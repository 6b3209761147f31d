"""Policies, their faults, explanations and replays as the policies screen shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from textual.content import Content

from etui import units
from etui.errors import Problem
from etui.replay.log_text import move_rows, replayed_lines
from etui.routing.policy import Policy
from etui.runtime.explain import Explanation
from etui.runtime.explain_text import (
    candidate_rows,
    explained_facts,
    joules_sources,
    rule_rows,
    signal_rows,
)
from etui.text.sanitize import sanitize
from etui.text.tables import one_line
from etui.tui.policies.messages import CheckVerdict, Compared, PolicyEntry, PolicyOpened, Replayed

_MUTED = "$foreground 60%"
"""Not $text-muted: it is drawn against a background, and these texts have none of their own."""


def entry_line(on: PolicyEntry, in_use: bool) -> Content:
    """One policy of the list: name, whose it is, whether it is in use; below what it does."""
    whose = "shipped" if on.place.origin == "shipped" else "yours"
    if on.place.hides:
        whose += ", in place of the shipped"
    told = "has errors" if on.description is None else one_line(on.description)
    return Content.assemble(
        ("● " if in_use else "  ", "$text-success"),
        (one_line(on.place.name), "bold"),
        ("  in use" if in_use else "", "$text-success"),
        (f"  {whose}\n", _MUTED),
        (f"  {told}", "$text-error" if on.description is None else _MUTED),
    )


def title_line(opened: PolicyOpened, *, changed: bool, in_use: bool) -> Content:
    """What is edited: ``mine · not saved · in use · yours``."""
    place = opened.place
    whose = "shipped, saved as a copy of yours" if place.origin == "shipped" else "yours"
    if place.origin == "file":
        whose = one_line(str(place.path))
    return Content.assemble(
        (one_line(place.name), "bold"),
        (" · not saved" if changed else "", "$text-warning"),
        (" · in use" if in_use else "", "$text-success"),
        (f" · {whose}", _MUTED),
    )


def problem_line(problem: Problem, is_error: bool) -> Content:
    """A fault with its place; errors and warnings are told apart by sign, word and colour."""
    sign, colour = ("✗ error", "$text-error") if is_error else ("! warning", "$text-warning")
    place = f" {problem.line}:{problem.column} " if problem.line else " "
    return Content.assemble((sign, colour), (place, "bold"), one_line(problem.message))


def verdict_line(verdict: CheckVerdict | None) -> Content:
    """What the check came to: ``✓ sound: 5 rules, 4 arms``."""
    if verdict is None:
        return Content.assemble(("… checking", _MUTED))
    errors, policy = len(verdict.checked.errors), verdict.checked.policy
    warnings = len(verdict.checked.warnings) + len(verdict.failing)
    also = f", {units.count_text(warnings, 'warning')}" if warnings else ""
    if policy is None:
        return Content.assemble((f"✗ {units.count_text(errors, 'error')}{also}", "$text-error"))
    colour = "$text-warning" if warnings else "$text-success"
    return Content.assemble((f"✓ sound{also}", colour), (f": {_size(policy)}", _MUTED))


def _size(policy: Policy) -> str:
    counted = (
        (policy.rules, "rule"), (policy.arms, "arm"), (policy.signals, "signal"),
        (policy.probes, "probe"),
    )  # fmt: skip
    return ", ".join(units.count_text(len(things), noun) for things, noun in counted)


def explained_lines(document: Explanation, width: int) -> list[str]:
    """Who would answer, then what the candidates cost, the signals and the rules that were tried.

    Args:
        document: What :func:`etui.runtime.explain.explanation` gives.
        width: Cells of a line.
    """
    lines = [line for name, text in explained_facts(document) for line in _fact(name, text, width)]
    if candidates := candidate_rows(document):
        lines += ["", "candidates"]
        for arm, model, right, _, joules, *_, outcome in candidates:
            told = (
                f"{joules} J predicted, right {right}" if joules != "unknown" else f"right {right}"
            )
            lines += _hanging(f"{arm} on {model}: {told}; {outcome or 'not taken'}", width)
        lines += [line for source in joules_sources(document) for line in _hanging(source, width)]
    if signals := signal_rows(document):
        lines += ["", "signals"]
        for name, holds, value, test, away, found in signals:
            far = f", {away} away" if away else ""
            detail = f": {found}" if found else ""
            lines += _row(holds, f"{name} {value} ({test}{far}){detail}", width)
    lines += ["", "rules tried"]
    for name, priority, matched, failed in rule_rows(document):
        lines += _row(matched, f"{name} ({priority}){f': {failed}' if failed else ''}", width)
    return lines


def replay_lines(replayed: Replayed, width: int) -> list[str]:
    """How many questions would move from where to where, joules and accuracy before and after."""
    lines = [
        part for line in replayed_lines(replayed.document) for part in _hanging(line, width)
    ]  # fmt: skip
    if replayed.newest_only:
        count = units.count_text(replayed.document["n"], "turn")
        lines += _hanging(f"only the newest {count} of the log", width)
    if moves := move_rows(replayed.document):
        lines += ["", "moves"]
        room = max(len(count) for *_, count in moves)
        for source, target, count in moves:
            told = f"{count:>{room}}  {source} → {target}"
            lines += wrap(told, width, subsequent_indent=" " * (room + 2), break_on_hyphens=False)
    return lines


def compared_lines(compared: Compared, width: int) -> list[str]:
    """What differs, each line whole."""
    return [
        part for line in compared.lines for part in (_hanging(sanitize(line), width) or [""])
    ]  # fmt: skip


def failed_lines(what: str, fix: str, width: int) -> list[str]:
    """Why something could not be done, and how to mend it."""
    lines = [part for line in sanitize(what).splitlines() for part in _hanging(line, width)]
    return lines + (_hanging(f"→ {sanitize(fix)}", width) if fix else [])


def template_names(policies: Sequence[PolicyEntry]) -> Iterator[tuple[str, str]]:
    """(name, what it is) of everything a new policy can begin with, but for the blank one."""
    for on in policies:
        yield on.place.name, one_line(on.description or "has errors")


def _fact(name: str, text: str, width: int) -> list[str]:
    return wrap(f"{name:<10} {text}", width, subsequent_indent=" " * 11) or [name]


def _row(yes: str, text: str, width: int) -> list[str]:
    return wrap(f"{yes:<3} {text}", width, subsequent_indent=" " * 4)


def _hanging(text: str, width: int) -> list[str]:
    begins = text[: len(text) - len(text.lstrip())]
    lines = wrap(text, width, subsequent_indent=f"{begins}  ", break_on_hyphens=False)
    return lines or [""]

"""Format policies, problems, explanations and replays for the policies screen."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill, wrap

from textual.content import Content

from etui import units
from etui.errors import Problem
from etui.learning.log_replay import TurnsDocument, move_rows, replayed_lines
from etui.runtime import explain
from etui.text import one_line, sanitize
from etui.tui.policies._tasks import CasesVerdict, CheckVerdict, FitRead, PolicyEntry, PolicyOpened

MUTED = "$foreground 60%"
_LIST_CELLS = 43  # Least width of a description in the list
"""Not $text-muted, which is computed against a background: these texts have none of their own."""


def entry_line(entry: PolicyEntry, in_use: bool, width: int) -> Content:
    """Format a policy of the list: name, owner and whether it is in use, then its description."""
    owner = "shipped" if entry.place.origin == "shipped" else "yours"
    if entry.place.hides:
        owner += ", replaces the shipped one"
    described = "has errors" if entry.description is None else one_line(entry.description)
    detail = fill(described, max(_LIST_CELLS, width), initial_indent="  ", subsequent_indent="  ")
    return Content.assemble(
        ("● " if in_use else "  ", "$text-success"),
        (one_line(entry.place.name), "bold"),
        ("  in use" if in_use else "", "$text-success"),
        (f"  {owner}\n", MUTED),
        (detail, "$text-error" if entry.description is None else MUTED),
    )


def title_line(opened: PolicyOpened, *, changed: bool, in_use: bool, fit: FitRead) -> Content:
    """Describe the edited policy: ``mine · not saved · in use · yours · fit 12 days ago``."""
    place, colour = opened.place, "$text-warning" if fit.is_amiss else MUTED
    owner = "shipped; saving makes your own copy" if place.origin == "shipped" else "yours"
    if place.origin == "file":
        owner = one_line(str(place.path))
    return Content.assemble(
        (one_line(place.name), "bold"),
        (" · not saved" if changed else "", "$text-warning"),
        (" · in use" if in_use else "", "$text-success"),
        (f" · {owner}", MUTED),
        (f" · {one_line(fit.summary)}" if fit.summary else "", colour),
    )


def problem_line(problem: Problem, is_error: bool) -> Content:
    """Format a problem; errors and warnings differ by sign, word and colour."""
    sign, colour = ("✗ error", "$text-error") if is_error else ("! warning", "$text-warning")
    place = f" {problem.line}:{problem.column} " if problem.line else " "
    return Content.assemble((sign, colour), (place, "bold"), one_line(problem.message))


def hint_line(problem: Problem | None, help_text: str) -> Content:
    """Format the line below the editor: the problem of the cursor's line, or else its help."""
    if problem is not None:
        return Content.assemble((one_line(problem.message), "$text-warning"))
    name, separator, rest = one_line(help_text).partition(" · ")
    return Content.assemble((name, "bold"), (separator + rest, MUTED))


def verdict_line(verdict: CheckVerdict | None) -> Content:
    """Format the verdict of the check: ``✓ valid: 5 rules, 4 arms``."""
    if verdict is None:
        return Content.assemble(("… checking", MUTED))
    errors, policy = len(verdict.checked.errors), verdict.checked.policy
    warnings = len(verdict.warnings)
    warnings_text = f", {units.count_text(warnings, 'warning')}" if warnings else ""
    if policy is None:
        return Content.assemble(
            (f"✗ {units.count_text(errors, 'error')}{warnings_text}", "$text-error")
        )
    colour = "$text-warning" if warnings else "$text-success"
    rules = units.count_text(len(policy.rules), "rule")
    arms = f"{units.count_text(len(policy.arms), 'arm')} (a model with a way to answer)"
    return Content.assemble(
        (f"✓ valid{warnings_text}", colour),
        (f": {rules} choose between {arms}", MUTED),
        *_cases_parts(verdict.cases),
    )


def _cases_parts(cases: CasesVerdict | None) -> list[tuple[str, str]]:
    if cases is None:
        return []
    if cases.problems:
        return [(f", {units.count_text(cases.problems, 'error')} in its cases", "$text-error")]
    count = units.count_text(cases.count, "case")
    if cases.failed:
        return [(f", {cases.failed} of {count} fail", "$text-warning")]
    return [(f", {count} pass{'es' if cases.count == 1 else ''}", MUTED)]


def explained_lines(document: explain.Explanation, width: int) -> list[str]:
    """Format an explanation: the decision, the candidates, the signals and the rules tried."""
    lines: list[str] = []
    for name, text in explain.explained_facts(document):
        lines += wrap(f"{name:<10} {text}", width, subsequent_indent=" " * 11) or [name]
    if candidates := explain.candidate_rows(document):
        lines += ["", "candidates"]
        for arm, model, accuracy, _, joules, *_, outcome in candidates:
            predicted = f"{joules} J predicted, " if joules != "unknown" else ""
            detail = f"{predicted}accuracy {accuracy}"
            lines += _wrap_hanging(f"{arm} on {model}: {detail}; {outcome or 'not chosen'}", width)
        for source in explain.joules_sources(document):
            lines += _wrap_hanging(source, width)
    if signals := explain.signal_rows(document):
        lines += ["", "signals"]
        for name, value_text, value, test, distance, note in signals:
            distance_text = f", {distance} away" if distance else ""
            detail = f": {note}" if note else ""
            lines += _format_row(
                value_text, f"{name} {value} ({test}{distance_text}){detail}", width
            )
    lines += ["", "rules tried"]
    for name, priority, matched, failed in explain.rule_rows(document):
        lines += _format_row(
            matched, f"{name} ({priority}){f': {failed}' if failed else ''}", width
        )
    return lines


def replay_lines(document: TurnsDocument, newest_only: bool, width: int) -> list[str]:
    """Format a replay: the moves between arms, joules and accuracy before and after."""
    lines = [part for line in replayed_lines(document) for part in _wrap_hanging(line, width)]
    if newest_only:
        count = units.count_text(document["n"], "turn")
        lines += _wrap_hanging(f"only the newest {count} of the log", width)
    if moves := move_rows(document):
        lines += ["", "moves"]
        count_width = max(len(count) for *_, count in moves)
        for source, target, count in moves:
            detail = f"{count:>{count_width}}  {source} → {target}"
            lines += wrap(
                detail, width, subsequent_indent=" " * (count_width + 2), break_on_hyphens=False
            )
    return lines


def compared_lines(lines: Sequence[str], width: int) -> list[str]:
    return [part for line in lines for part in _wrap_hanging(sanitize(line), width)]


def failed_lines(what: str, fix: str, width: int) -> list[str]:
    lines = [part for line in sanitize(what).splitlines() for part in _wrap_hanging(line, width)]
    return lines + (_wrap_hanging(f"→ {sanitize(fix)}", width) if fix else [])


def _format_row(yes: str, text: str, width: int) -> list[str]:
    return wrap(f"{yes:<3} {text}", width, subsequent_indent=" " * 4)


def _wrap_hanging(text: str, width: int) -> list[str]:
    indent = text[: len(text) - len(text.lstrip())]
    return wrap(text, width, subsequent_indent=f"{indent}  ", break_on_hyphens=False) or [""]

"""What an arm costs and gains, whether thinking pays, whether a small model suffices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.design.analysis.leads import Lead
from etui.design.analysis.multiples import Multiple
from etui.design.analysis.statement import (
    UNDECIDED,
    UNKNOWN,
    Evidence,
    Statement,
    build_evidence,
    multiple_text,
    points_text,
)
from etui.design.analysis.strategies import Layout, Strategy
from etui.stats.paired import count_questions_needed

POINTS = 0.03
"""The difference, as a share, for which the needed number of questions is stated."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The comparisons that a verdict is derived from."""

    layout: Layout
    multiples: Sequence[Multiple]  # Every arm against the direct answers
    leads: Sequence[Lead]  # Every thinking arm against the direct answers for the same joules


def judge_thinking(found: Comparisons) -> list[Statement]:
    """Say for every model with thinking arms whether thinking pays."""
    statements = []
    for role in found.layout.roles:
        thinking = [one for one in found.layout.of_role(role) if one.thinks]
        against = [m for m in found.multiples if m.against == "direct" and m.strategy.role == role]
        against = [m for m in against if m.strategy.thinks]
        leads = [lead for lead in found.leads if lead.strategy.role == role]
        if not thinking:
            continue
        if not against:
            why = (
                "no question has been answered by every arm"
                if found.layout.direct_of(role) is not None
                else "no arm of it answers directly"
            )
            text = f"Whether thinking pays for {role} is unknown: {why}."
            statements.append(Statement("thinking", role, UNKNOWN, text, (), (), 0))
        elif not leads:
            statements.append(_judge_accuracy(role, against))
        else:
            statements.append(_judge_leads(role, against, leads))
    return statements


def _judge_leads(role: str, against: Sequence[Multiple], leads: Sequence[Lead]) -> Statement:
    evidence = {one.strategy: _lead_evidence(one) for one in leads}
    above = [one for one in leads if evidence[one.strategy].side > 0]
    below = [one for one in leads if evidence[one.strategy].side < 0]
    best = max(above or leads, key=lambda one: one.lead.value)
    main, questions = evidence[best.strategy], against[0].questions
    multiple = next((m for m in against if m.strategy == best.strategy), None)
    cost: tuple[Evidence, ...] = ()
    price = ""
    if multiple is not None and multiple.joules is not None:
        cost = (build_evidence(f"{best.strategy.label}: joules", "ratio", multiple.joules),)
        price = f", at {multiple_text(multiple.joules)} the joules of {role} direct"
    shown = points_text(best.lead) + (f" ({main.note})" if main.note else "")
    if above:
        text = (
            f"Thinking pays for {role}: {best.strategy.way} gets {shown} more right than "
            f"{_name_directs(best)}{price}."
        )
        return Statement("thinking", role, "pays", text, (main, *cost), (main.name,), questions)
    if len(below) == len(leads):
        text = (
            f"Thinking does not pay for {role}: {_count_ways(len(leads))} fewer right than direct "
            f"answers for the same joules or fewer; the closest, {best.strategy.way}, is at "
            f"{shown} against {_name_directs(best)}{price}."
        )
        figures = tuple(evidence.values())
        names = tuple(figure.name for figure in figures)
        return Statement(
            "thinking", role, "does not pay", text, (*figures, *cost), names, questions
        )
    needed = count_questions_needed(best.deviation, POINTS, len(leads))
    text = (
        f"Whether thinking pays for {role} is undecided with {questions:,} questions: the best "
        f"way, {best.strategy.way}, is at {shown} against {_name_directs(best)}{price}. "
        f"{_needed_text(questions, needed)}"
    )
    return Statement("thinking", role, UNDECIDED, text, (main, *cost), (), questions, needed)


def _judge_accuracy(role: str, against: Sequence[Multiple]) -> Statement:
    """Judge a model without joules: whether it pays is unknown, whether it helps may not be."""
    best = max(against, key=lambda one: one.difference.value)
    figure = _difference_evidence(best)
    finding = {1: "more right than direct", -1: "fewer right than direct"}.get(
        figure.side, f"against direct ({figure.note})"
    )
    text = (
        f"Whether thinking pays for {role} is unknown, because joules are unmeasured: "
        f"{best.strategy.way} is at {points_text(best.difference)}, {finding}."
    )
    needed = count_questions_needed(best.deviation, POINTS, len(against))
    return Statement(
        "thinking", role, UNKNOWN, text, (figure,), (), best.questions,
        None if figure.side else needed,
    )  # fmt: skip


def judge_replacements(found: Comparisons) -> list[Statement]:
    """Say for every smaller model whether an arm of it can replace the largest model's answer."""
    reference = found.layout.reference
    if reference is None:
        return []
    statements = []
    for role in found.layout.roles:
        inside = [m for m in found.multiples if m.against == "large" and m.strategy.role == role]
        if inside:
            statements.append(_judge_replacement(role, reference, inside))
    return statements


def _judge_replacement(role: str, reference: Strategy, inside: Sequence[Multiple]) -> Statement:
    evidence = {m.strategy: _pair_evidence(m) for m in inside}
    sides = {one: tuple(figure.side for figure in pair) for one, pair in evidence.items()}
    best = max(inside, key=lambda m: m.difference.value)
    better = [m for m in inside if sides[m.strategy] == (1, -1)]
    if better:
        top = max(better, key=lambda m: m.difference.value)
        pair = evidence[top.strategy]
        text = (
            f"{top.strategy.label} replaces {reference.label}: it gets "
            f"{points_text(top.difference)} more right at {multiple_text(pair[1])} its joules."
        )
        names = tuple(figure.name for figure in pair)
        return Statement("replacement", role, "replaces", text, pair, names, top.questions)
    if all(side == (-1, 1) for side in sides.values()):
        pairs = tuple(figure for pair in evidence.values() for figure in pair)
        text = (
            f"No way of answering with {role} replaces {reference.label}: each gets fewer right "
            f"for more joules; the most accurate, {best.strategy.way}, is at "
            f"{points_text(best.difference)} and {multiple_text(evidence[best.strategy][1])} its "
            "joules."
        )
        names = tuple(figure.name for figure in pairs)
        return Statement(
            "replacement", role, "does not replace", text, pairs, names, best.questions
        )
    return _describe_closest(role, reference, best, len(inside))


def _describe_closest(role: str, reference: Strategy, best: Multiple, looks: int) -> Statement:
    """Describe the most accurate arm, where none is better in both and not all are worse."""
    pair = _pair_evidence(best)
    side = pair[0].side
    words = {1: "more right", -1: "fewer right"}.get(side, pair[0].note)
    price = f" at {multiple_text(pair[1])} its joules" if len(pair) > 1 else ""
    needed = count_questions_needed(best.deviation, POINTS, looks)
    text = (
        f"The most accurate way with {role}, {best.strategy.way}, is at "
        f"{points_text(best.difference)} against {reference.label} ({words}){price}."
    )
    if side:
        outcome = "more accurate" if side > 0 else "less accurate"
        return Statement("replacement", role, outcome, text, pair, (pair[0].name,), best.questions)
    text += f" {_needed_text(best.questions, needed)}"
    return Statement("replacement", role, UNDECIDED, text, pair, (), best.questions, needed)


def judge_arms(found: Comparisons) -> list[Statement]:
    """State for every comparison what it costs and what it gains."""
    return [_judge_arm(one) for one in found.multiples]


def _judge_arm(one: Multiple) -> Statement:
    pair = _pair_evidence(one)
    side = pair[0].side
    gain = points_text(one.difference) + ("" if side else f" ({pair[0].note})")
    if one.joules is None:
        text = f"{one.strategy.label}: {gain} against {one.base.label}; joules unmeasured."
    else:
        text = (
            f"{one.strategy.label} costs {multiple_text(one.joules)} the joules of "
            f"{one.base.label} for {gain}."
        )
    outcome = {1: "more accurate", -1: "less accurate"}.get(side, UNDECIDED)
    needed = None if side else count_questions_needed(one.deviation, POINTS)
    decisive = (pair[0].name,) if side else ()
    return Statement(
        "arm", one.strategy.label, outcome, text, pair, decisive, one.questions, needed
    )


def _lead_evidence(lead: Lead) -> Evidence:
    return build_evidence(f"{lead.strategy.label}: lead", "points", lead.lead, lead.p_holm)


def _difference_evidence(one: Multiple) -> Evidence:
    name = f"{one.strategy.label} against {one.base.label}: accuracy"
    return build_evidence(name, "points", one.difference, one.p_holm)


def _pair_evidence(one: Multiple) -> tuple[Evidence, ...]:
    name = f"{one.strategy.label} against {one.base.label}: joules"
    joules = () if one.joules is None else (build_evidence(name, "ratio", one.joules),)
    return (_difference_evidence(one), *joules)


def _name_directs(lead: Lead) -> str:
    names = " and ".join(one.label for one in lead.directs)
    if len(lead.directs) > 1:
        return f"a random choice between {names} for the same joules"
    return f"{names}, which costs {'less' if lead.costs_more else 'no less'}"


def _count_ways(count: int) -> str:
    return "the only way gets" if count == 1 else f"each of {count} ways gets"


def _needed_text(questions: int, needed: int) -> str:
    if needed <= questions:
        return "A difference of 3 points would probably have shown; a smaller one needs more."
    return f"About {needed:,} questions would show a difference of 3 points."

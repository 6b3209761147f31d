"""The key figures at the head of the page."""

from __future__ import annotations

from etui import units
from etui.bench.analysis.summary_text import interval_text, joules_text
from etui.design.analysis.analysis import PartAnalysis

Finding = tuple[str, str, str]
"""Label, figure and note."""


def list_findings(part: PartAnalysis) -> list[Finding]:
    """List the key figures: questions, the most accurate and the cheapest arm, and the router."""
    if not part.arms:
        return []
    top = max(part.arms, key=lambda one: one.accuracy.value)
    found: list[Finding] = [
        (
            "Most accurate",
            units.accuracy_text(top.accuracy.value),
            f"{top.strategy.label}, 95 % CI {interval_text(top.accuracy)}",
        )
    ]
    kind = part.kind if part.kind == units.ESTIMATE else None
    priced = [
        (one.strategy.label, one.energy.per_correct)
        for one in part.arms
        if one.energy is not None and one.energy.per_correct is not None
    ]
    if priced:
        label, cheapest = min(priced, key=lambda pair: pair[1].value)
        found.append(
            ("Cheapest right answer", units.energy_text(cheapest.value, None, kind),
             f"{label}, {joules_text(cheapest, None)}")
        )  # fmt: skip
        label, highest = max(priced, key=lambda pair: pair[1].value)
        found.append(
            ("Most expensive one", units.energy_text(highest.value, None, kind),
             f"{label}, {units.multiple_text(highest.value / cheapest.value)} the cheapest")
        )  # fmt: skip
    else:
        found.append(("Energy", units.UNMEASURED, "no readable power channel"))
    count = len(part.paired)
    dropped = part.paired.questions_dropped
    note = f"{units.count_text(dropped, 'question')} left out" if dropped else "all paired"
    found.append(("Questions", f"{count:,}", note))
    return found

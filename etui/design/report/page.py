"""HTML page of a design run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from etui import units
from etui.bench.page import build_config_tree
from etui.bench.report.layout import Size
from etui.bench.summary_text import interval_text, joules_text
from etui.design.analysis.analysis import DesignAnalysis, PartAnalysis
from etui.design.analysis.multiples import Against
from etui.design.analysis.statement import Statement
from etui.design.report import curve_chart, forest_chart, plane_chart, wording
from etui.design.report.curve_marks import build_curve_panels
from etui.design.report.marks import (
    Forest,
    build_bands,
    build_multiples,
    build_per_correct,
    build_plane,
    get_colour,
)
from etui.design.report.tables import (
    Table,
    tabulate_arms,
    tabulate_curves,
    tabulate_groups,
    tabulate_multiples,
    tabulate_routers,
    tabulate_subjects,
)
from etui.measure.page import render_template
from etui.text import sanitize

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


_PACKAGE = "etui.design.report"


@dataclass(frozen=True, slots=True)
class Charts:
    """A chart in two sizes; the style shows one of them."""

    wide: Markup
    narrow: Markup

    def __html__(self) -> str:
        return self.wide + self.narrow


def render_page(analysis: DesignAnalysis, title: str, extras: Table | None) -> str:
    """Render the page, a single file that loads nothing and has no texts of questions.

    Args:
        extras: Percentiles and steadiness; None without them.
    """
    config, main = analysis.config, analysis.main
    chance = 0.25 if config.chance is None else config.chance
    return render_template(
        _PACKAGE,
        style="design.css",
        title=title,
        design=config.design.name if config.design is not None else "",
        started=config.started_at[:10],
        run_id=config.run_id,
        headline=main.verdict.headline,
        questions=units.count_text(len(main.paired), "question"),
        planned=f"{config.questions:,}",
        suite=f"{config.suite}, {config.split} split",
        answered_by=wording.answered_by_text(len(analysis.layout.strategies)),
        models=[
            (f"arm-{get_colour(analysis.layout, role)}", role, model)
            for role, model in analysis.layout.roles.items()
        ],
        model_keys=[
            (f"arm-{get_colour(analysis.layout, role)}", role) for role in analysis.layout.roles
        ],
        is_complete=analysis.is_complete,
        findings=list_findings(main),
        parts=[_build_part(part, chance) for part in analysis.parts],
        extras=extras,
        limits=analysis.limits,
        wording=wording,
        config=build_config_tree(config),
    )


def _build_part(part: PartAnalysis, chance: float) -> dict[str, Any]:
    layout = part.paired.layout
    plane = build_plane(part, chance)
    panels = build_curve_panels(part.curves)
    fitted = [one for one in part.curves if one.prefill is not None]
    colours = [get_colour(layout, one.role) for one in fitted]
    verdict = part.verdict
    return {
        "machine": sanitize(part.machine),
        "is_empty": not part.arms,
        "statements": [
            _mark(one) for one in verdict.summary
        ],
        "plane": plane
        and Charts(
            plane_chart.draw_plane(plane, plane_chart.WIDE),
            plane_chart.draw_plane(plane, plane_chart.NARROW),
        ),
        "arms": tabulate_arms(part) if part.arms else None,
        "per_correct": _draw_forest(build_per_correct(part), forest_chart.WIDE, with_text=True),
        "multiples": [
            (heading, chart, tabulate_multiples(part, against))
            for heading, against in _AGAINST
            if (
                chart := _draw_forest(
                    build_multiples(part, against), forest_chart.WIDE, with_text=True
                )
            )
        ],
        "has_bands": bool(part.subjects.rows),
        "groups": _draw_forest(
            build_bands(part, part.groups), forest_chart.WIDE, with_text=True,
            narrow=forest_chart.NARROW_MIDDLE,
        ),
        "band_statements": [_mark(one) for one in verdict.about("band")],
        "router_statements": [_mark(one) for one in verdict.about("router")],
        "group_table": tabulate_groups(part),
        "subjects": _draw_subjects(part),
        "subject_table": tabulate_subjects(part),
        "curves": [
            (
                panel.title,
                Charts(
                    curve_chart.draw_curves(panel, colours, curve_chart.WIDE),
                    curve_chart.draw_curves(panel, colours, curve_chart.NARROW),
                ),
            )
            for panel in panels
        ],
        "curve_keys": [
            (f"arm-{colour}", one.role) for one, colour in zip(fitted, colours, strict=True)
        ],
        "curve_statements": [_mark(one) for one in verdict.about("curve")],
        "curve_table": tabulate_curves(part),
        "routers": tabulate_routers(part),
        "every": [_mark(one) for one in verdict.about("arm")],
    }  # fmt: skip


_AGAINST: tuple[tuple[str, Against], ...] = (
    ("Against the direct answer of the same model", "direct"),
    ("Against the direct answer of the largest model", "large"),
)  # fmt: skip

_OUTCOMES = {
    "pays": "good", "replaces": "good", "saves": "good", "helps": "good", "more accurate": "good",
    "nonlinear": "claim", "less accurate": "bad", "hurts": "bad", "does not pay": "bad",
    "does not replace": "bad", "uses more": "bad", "saves at a loss": "bad",
}  # fmt: skip


def _mark(one: Statement) -> tuple[str, str, str]:
    """Return outcome, CSS class and sentence."""
    return one.outcome, _OUTCOMES.get(one.outcome, "open"), one.text


def _draw_forest(
    forest: Forest | None, size: Size, *, with_text: bool, narrow: Size = forest_chart.NARROW
) -> Charts | None:
    if forest is None:
        return None
    return Charts(
        forest_chart.draw_forest(forest, size, with_text=with_text),
        forest_chart.draw_forest(forest, narrow),
    )


def _draw_subjects(part: PartAnalysis) -> list[Charts]:
    """Draw one forest for each model, side by side."""
    forest = build_bands(part, part.subjects)
    if forest is None:
        return []
    single = [Forest(forest.panels, (group,)) for group in forest.groups]
    return [
        Charts(
            forest_chart.draw_forest(one, forest_chart.HALF),
            forest_chart.draw_forest(one, forest_chart.NARROW_LONG),
        )
        for one in single
    ]

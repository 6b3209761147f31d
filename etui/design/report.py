"""Write the report of a design run: a page, Markdown, tables, and figures."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from etui import __version__, units
from etui.atomic import write_text
from etui.bench.config import RunConfig
from etui.bench.folder import Recorded, read_run
from etui.bench.page import build_config_tree
from etui.bench.summary_text import interval_text, joules_text
from etui.codec import DocumentError
from etui.design._figures import draw_figures, get_colour
from etui.design._tables import (
    Table,
    csv_files,
    tabulate_arms,
    tabulate_curves,
    tabulate_multiples,
    tabulate_routers,
    tabulate_spread,
)
from etui.design.analysis import DesignAnalysis, PartAnalysis, analyse
from etui.design.curve_visits import read_curve_points
from etui.design.load import design_of_run
from etui.errors import EtuiError, InvalidFile
from etui.measure.page import render_template, render_text
from etui.plots.figure import Figure
from etui.text import format_markdown_table, one_line, sanitize

PAGE = "report.html"
FIGURES = "figures"


def write_design_report(folder: Path, to: Path, *, figures: bool = True) -> list[Path]:
    """Write the report of a design run; equal runs give equal files.

    Args:
        folder: The run folder, finished or not.
        to: Folder of the report, which is created; may be the run folder.
        figures: Whether to write the figures for papers, in ``to/figures``.

    Returns:
        Paths of the files, in the order in which they were written.

    Raises:
        UsageError: The folder is not a run folder.
        InvalidFile: A file of the run is unreadable or invalid.
        EtuiError: The report cannot be written.
    """
    recorded = read_run(folder)
    analysis, title = _analyse(recorded)
    extras = tabulate_spread(recorded.config, recorded.samples, analysis.layout)
    chance = 0.25 if analysis.config.chance is None else analysis.config.chance
    drawn = [draw_figures(part, chance) for part in analysis.parts]
    written: list[Path] = []
    saved: list[Path] = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        if figures:
            saved = _save_figures(to / FIGURES, drawn)
        values = _build_values(analysis, drawn, title, extras)
        # Neither has the texts of questions.
        texts = {
            PAGE: render_template("etui.design", style="design.css", **values),
            "report.md": _render_markdown(values, [path.name for path in saved]),
            **csv_files(analysis),
        }
        for name, text in texts.items():
            write_text(to / name, text, errors="surrogatepass")
            written.append(to / name)
    except OSError as error:
        raise EtuiError(
            f"cannot write the report: {error.strerror or error}: {error.filename or to}",
            "choose a writable folder",
        ) from error
    return [*written, *saved]


def _analyse(recorded: Recorded) -> tuple[DesignAnalysis, str]:
    """Analyse a run; return the analysis and the title of the design."""
    config, folder = recorded.config, recorded.folder
    roles, title = _read_design(config)
    found = analyse(config, recorded.samples, lambda keys: read_curve_points(folder, keys), roles)
    return found, title


def _read_design(config: RunConfig) -> tuple[Mapping[str, str] | None, str]:
    """Return the roles and the title; a design of another etui still has its arms' models."""
    if config.design is None:
        return None, config.run_id
    try:
        design = design_of_run(config)
    except (InvalidFile, DocumentError):
        return None, config.design.name
    return design.models, design.title


def _save_figures(folder: Path, parts: list[dict[str, Figure]]) -> list[Path]:
    """Save the figures; those of the second and further parts end in ``_2`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        path
        for number, figures in enumerate(parts, 1)
        for name, figure in figures.items()
        for path in figure.save(folder / (name if number == 1 else f"{name}_{number}"))
    ]


def _build_values(
    analysis: DesignAnalysis, drawn: list[dict[str, Figure]], title: str, extras: Table | None
) -> dict[str, Any]:
    """Build what the templates of the page and of the Markdown use."""
    config, main, layout = analysis.config, analysis.main, analysis.layout
    colours = {role: f"arm-{get_colour(layout, role)}" for role in layout.roles}
    arms = len(layout.strategies)
    return {
        "title": title,
        "design": config.design.name if config.design is not None else "",
        "started": config.started_at[:10],
        "run_id": config.run_id,
        "headline": main.headline,
        "questions": units.count_text(len(main.paired), "question"),
        "planned": f"{config.questions:,}",
        "suite": f"{config.suite}, {config.split} split",
        "answered_by": f"answered by all {arms:,} arms" if arms > 1 else "answered by its arm",
        "models": [(colours[role], role, model) for role, model in layout.roles.items()],
        "is_complete": analysis.is_complete,
        "findings": _list_findings(main),
        "parts": [
            _build_part(part, figures, "" if at == 0 else f"_{at + 1}")
            for at, (part, figures) in enumerate(zip(analysis.parts, drawn, strict=True))
        ],
        "extras": extras,
        "limits": analysis.limits,
        "config": build_config_tree(config),
    }


_OUTCOMES = {"more right": "good", "fewer right": "bad"}

_ALT = {
    "accuracy_joules": "Accuracy against joules per question",
    "joules_per_correct": "Joules per right answer",
    "multiples": "Multiples against the direct answer of the same model",
    "multiples_large": "Multiples against the direct answer of the largest model",
    "operating_curves": "Joules per token and joules over lengths",
}


def _build_part(part: PartAnalysis, figures: Mapping[str, Figure], suffix: str) -> dict[str, Any]:
    charts: dict[str, Markup] = {name: one.svg(_ALT[name]) for name, one in figures.items()}
    direct, large = tabulate_multiples(part, "direct"), tabulate_multiples(part, "large")
    return {
        "machine": sanitize(part.machine),
        "suffix": suffix,
        "is_empty": not part.arms,
        "statements": [
            (one.outcome, _OUTCOMES.get(one.outcome, "open"), one.text) for one in part.statements
        ],
        "arms": tabulate_arms(part) if part.arms else None,
        "charts": charts,
        "direct": direct,
        "large": large,
        "multiples": [
            (_ALT[name], charts[name], table)
            for name, table in (("multiples", direct), ("multiples_large", large))
            if name in charts
        ],
        "has_curves": bool(part.curves),
        "curve_errors": [(one.model, one.error) for one in part.curves if one.error],
        "curve_table": tabulate_curves(part),
        "routers": tabulate_routers(part),
    }


def _list_findings(part: PartAnalysis) -> list[tuple[str, str, str]]:
    """List label, figure and note of the key figures: the best and the cheapest arm, questions."""
    if not part.arms:
        return []
    top = max(part.arms, key=lambda one: one.accuracy.value)
    found: list[tuple[str, str, str]] = [
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


def _render_markdown(values: Mapping[str, Any], drawn: Collection[str]) -> str:
    """Render the report; ``drawn`` are the names of figures in the folder ``figures``."""
    text = render_text(
        "etui.design",
        "report.md",
        version=__version__,
        drawn=drawn,
        plain=_escape,
        table=_format_table,
        **values,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _format_table(table: Table) -> str:
    rows = [[_escape(cell) for cell in row] for row in table.rows]
    return format_markdown_table(rows, header=[_escape(cell) for cell in table.header], align="<>")


def _escape(text: str) -> str:
    """Put a text on one line that neither ends a cell nor begins HTML or a link."""
    safe = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return safe.replace("[", "\\[").replace("_", "\\_")

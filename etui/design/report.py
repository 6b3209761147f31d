"""Write the report of a design run: a page, Markdown, tables, and figures."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from etui import __version__, units
from etui.atomic import write_text
from etui.bench.config import RunConfig
from etui.bench.folder import read_run
from etui.codec import DocumentError
from etui.design._figures import draw_figures, get_colour
from etui.design._tables import (
    Table,
    csv_files,
    tabulate_arms,
    tabulate_curves,
    tabulate_multiples,
    tabulate_readouts,
)
from etui.design.analysis import DesignAnalysis, analyse_kinds
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
    config = recorded.config
    roles, title = _read_design(config)
    runs = analyse_kinds(
        config, recorded.samples, lambda keys: read_curve_points(recorded.folder, keys), roles
    )
    chance = 0.25 if config.chance is None else config.chance
    drawn = [draw_figures(run, chance) for run in runs]
    written: list[Path] = []
    saved: list[Path] = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        if figures:
            (to / FIGURES).mkdir(exist_ok=True)
            saved = [
                path
                for number, part in enumerate(drawn)
                for name, figure in part.items()
                for path in figure.save(to / FIGURES / f"{name}{_number(number)}")
            ]
        values = _build_values(runs, drawn, title)
        # Neither has the texts of questions.
        texts = {
            PAGE: render_template("etui.design", style="design.css", **values),
            "report.md": _render_markdown(values, [path.name for path in saved]),
            **csv_files(runs),
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


def _read_design(config: RunConfig) -> tuple[Mapping[str, str] | None, str]:
    """Return the roles and the title; a design of another etui still has its arms' models."""
    if config.design is None:
        return None, config.run_id
    try:
        design = design_of_run(config)
    except (InvalidFile, DocumentError):
        return None, config.design.name
    return design.models, design.title


_ALT = {
    "accuracy_joules": "Accuracy against joules per question",
    "operating_curves": "Joules per token and joules over lengths",
}


def _number(part: int) -> str:
    """Return the end of the names of the figures of a part: ``_2`` for the second."""
    return f"_{part + 1}" if part else ""


def _build_values(
    runs: Sequence[DesignAnalysis], drawn: Sequence[Mapping[str, Figure]], title: str
) -> dict[str, Any]:
    """Build what the templates of the page and of the Markdown use."""
    main = runs[0]
    config, layout = main.config, main.layout
    colours = {role: f"arm-{get_colour(layout, role)}" for role in layout.roles}
    arms = len(layout.strategies)
    return {
        "title": title,
        "design": config.design.name if config.design is not None else "",
        "started": config.started_at[:10],
        "run_id": config.run_id,
        "questions": units.count_text(len(main.paired), "question"),
        "planned": f"{config.questions:,}",
        "suite": f"{config.suite}, {config.split} split",
        "answered_by": f"answered by all {arms:,} arms" if arms > 1 else "answered by its arm",
        "models": [(colours[role], role, model) for role, model in layout.roles.items()],
        "is_complete": main.is_complete,
        "parts": [
            _build_part(run, figures, _number(number))
            for number, (run, figures) in enumerate(zip(runs, drawn, strict=True))
        ],
        "limits": main.limits,
    }


def _build_part(
    analysis: DesignAnalysis, drawn: Mapping[str, Figure], suffix: str
) -> dict[str, Any]:
    return {
        "machine": sanitize(analysis.machine),
        "suffix": suffix,
        "headline": analysis.headline,
        "statements": [one.text for one in analysis.statements],
        "arms": tabulate_arms(analysis) if analysis.arms else None,
        "charts": {name: figure.svg(_ALT[name]) for name, figure in drawn.items()},
        "readouts": tabulate_readouts(analysis),
        "multiples": tabulate_multiples(analysis),
        "curve_errors": [(one.model, one.error) for one in analysis.curves if one.error],
        "curve_table": tabulate_curves(analysis),
    }


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

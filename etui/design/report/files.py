"""Write the report of a design run: a page, Markdown, tables, the verdict, and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.bench.folder import read_run
from etui.codec import DocumentError
from etui.design.analysis.analysis import DesignAnalysis, analyse
from etui.design.curve_points import read_curve_points
from etui.errors import EtuiError, InvalidFile

if TYPE_CHECKING:
    from etui.bench.config import RunConfig

PAGE = "report.html"
MARKDOWN = "report.md"
FIGURES = "figures"


def write_design_report(folder: Path, to: Path, *, figures: bool = True) -> list[Path]:
    """Write the report of a design run; equal runs give equal files.

    Args:
        folder: The run folder, finished or not.
        to: Folder of the report, which is created; may be the run folder.
        figures: Whether to draw the figures for papers, in ``to/figures``.

    Returns:
        Paths of the files, in the order in which they were written.

    Raises:
        UsageError: The folder is not a run folder.
        InvalidFile: A file of the run is unreadable or invalid.
        EtuiError: The report cannot be written.
    """
    from etui.design.report.csv_files import csv_files
    from etui.design.report.extras import read_extras
    from etui.design.report.markdown import render_markdown
    from etui.design.report.page import render_page
    from etui.design.report.verdict_file import verdict_json

    analysis, title = analyse_run(folder)
    extras = read_extras(folder, analysis.layout)
    written: list[Path] = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        drawn = _draw_figures(to, analysis) if figures else []
        texts = {
            PAGE: render_page(analysis, title, extras),
            MARKDOWN: render_markdown(analysis, title, extras, [path.name for path in drawn]),
            **csv_files(analysis),
            "verdict.json": verdict_json(analysis, title),
        }
        for name, text in texts.items():
            write_text(to / name, text, errors="surrogatepass")
            written.append(to / name)
    except OSError as error:
        raise EtuiError(
            f"cannot write the report: {error.strerror or error}: {error.filename or to}",
            "choose a writable folder",
        ) from error
    return [*written, *drawn]


def analyse_run(folder: Path) -> tuple[DesignAnalysis, str]:
    """Read a run folder and analyse it.

    Returns:
        The analysis, and the title of the design.

    Raises:
        UsageError: The folder is not a run folder.
        InvalidFile: A file of the run is unreadable or invalid.
    """
    recorded = read_run(folder)
    roles, title = _read_design(recorded.config)
    analysis = analyse(
        recorded.config,
        recorded.samples,
        lambda machines: read_curve_points(folder, machines),
        roles,
    )
    return analysis, title


def _read_design(config: RunConfig) -> tuple[Mapping[str, str] | None, str]:
    """Return the roles and the title; a design of another etui still has its arms' models."""
    from etui.design.load import design_of_run

    if config.design is None:
        return None, config.run_id
    try:
        design = design_of_run(config)
    except (InvalidFile, DocumentError):
        return None, config.design.name
    return design.models, design.title


def _draw_figures(to: Path, analysis: DesignAnalysis) -> list[Path]:
    from etui.design.report.figures import write_figures

    return write_figures(to / FIGURES, analysis)

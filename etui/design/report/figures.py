"""Figures of a design run for papers: SVG and PDF from matplotlib, on white."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etui.design.analysis.analysis import DesignAnalysis, PartAnalysis
from etui.design.report.curve_marks import CurvePanel, build_curve_panels
from etui.design.report.marks import (
    Forest,
    build_bands,
    build_multiples,
    build_per_correct,
    build_plane,
    get_colour,
)
from etui.design.report.paper_style import COLOURS, MARKERS, STYLE, set_log
from etui.design.report.plane_figure import draw_plane_figure
from etui.plots.style import figure_style, save_figure

FORMS = ("svg", "pdf")
Drawn = tuple[str, Callable[[], Any]]
"""Name of a figure, and what draws it."""


def write_figures(folder: Path, analysis: DesignAnalysis) -> list[Path]:
    """Write every figure for which the run has data; equal runs give equal files.

    The figures are ``accuracy_joules``, ``joules_per_correct``, ``multiples``, ``groups``,
    ``subjects`` and ``operating_curves``. Those of the second and further parts of a run of several
    machines end in ``_2`` and so on.

    Returns:
        Paths in the order in which they were written.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = 0.25 if analysis.config.chance is None else analysis.config.chance
    written = []
    with figure_style(STYLE):
        for number, part in enumerate(analysis.parts, 1):
            suffix = "" if number == 1 else f"_{number}"
            for name, draw in _list_figures(part, chance):
                figure = draw()
                for form in FORMS:
                    path = folder / f"{name}{suffix}.{form}"
                    save_figure(figure, path, form)
                    written.append(path)
    return written


def _list_figures(part: PartAnalysis, chance: float) -> Iterator[Drawn]:
    plane = build_plane(part, chance)
    if plane is not None:
        yield "accuracy_joules", lambda: draw_plane_figure(plane)
    forests = {
        "joules_per_correct": build_per_correct(part),
        "multiples": build_multiples(part, "direct"),
        "multiples_large": build_multiples(part, "large"),
        "groups": build_bands(part, part.groups),
        "subjects": build_bands(part, part.subjects),
    }
    for name, forest in forests.items():
        if forest is not None:
            yield (
                name,
                lambda forest=forest, name=name: _draw_forest(  # type: ignore[misc]
                    forest, beside=name == "subjects"
                ),
            )
    panels = build_curve_panels(part.curves)
    if panels:
        layout = part.paired.layout
        fitted = [one.role for one in part.curves if one.prefill is not None]
        colours = [COLOURS[get_colour(layout, role)] for role in fitted]
        yield "operating_curves", lambda: _draw_curves(panels, colours)


def _draw_forest(forest: Forest, *, beside: bool) -> Any:
    """Draw the rows below each other, or the groups ``beside`` each other."""
    from matplotlib.figure import Figure

    groups = forest.groups
    columns = len(groups) if beside else len(forest.panels)
    longest = max(len(rows) for _, rows in groups)
    rows = longest if beside else len(forest.rows) + len(groups)
    size = 6.4 if beside else 8
    figure = Figure(figsize=(3.4 + 2.4 * (columns - 1), 0.75 + (0.135 if beside else 0.17) * rows))
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    for column in range(columns):
        at_panel = 0 if beside else column
        panel = forest.panels[at_panel]
        shown = (groups[column],) if beside else groups
        labels: list[tuple[int, str, bool]] = []
        drawn: list[tuple[Any, int]] = []
        y = 0
        for heading, inside in shown:
            if not beside:
                labels.append((y, heading, True))
                y += 1
            for row in inside:
                labels.append((y, row.label, False))
                _draw_whisker(axes[column], row, at_panel, y)
                drawn.append((row, y))
                y += 1
        if column == 0:
            axes[0].set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels])
            axes[0].set_ylim(rows - 0.4, -0.6)
        for text, (_, _, bold) in zip(axes[0].get_yticklabels(), labels, strict=False):
            text.set(fontsize=size, fontweight="bold" if bold else "normal")
        if panel.scale == "log":
            set_log(axes[column].xaxis)
        _draw_open_ends(axes[column], drawn, at_panel)
        if panel.neutral is not None:
            axes[column].axvline(panel.neutral, color="0.25", linewidth=0.8, zorder=0)
        axes[column].grid(axis="x", color="0.9", linewidth=0.6)
        axes[column].set_axisbelow(True)
        axes[column].tick_params(axis="y", length=0)
        if not beside:
            axes[column].set_xlabel(panel.title)
        if beside:
            axes[column].set_title(groups[column][0])
    if beside:
        figure.supxlabel(forest.panels[0].title, fontsize=9)
    return figure


def _draw_whisker(axes: Any, row: Any, panel: int, y: int) -> None:
    figure = row.figures[panel]
    if figure is None:
        return
    colour = COLOURS[row.colour]
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    axes.plot([low, high], [y, y], color=colour, linewidth=1.1, alpha=0.55, solid_capstyle="butt")
    axes.plot(
        [figure.value], [y], marker=MARKERS[row.shape], color=colour, markersize=4,
        markerfacecolor="white" if figure.claimed is False else colour, linestyle="",
    )  # fmt: skip


def _draw_open_ends(axes: Any, drawn: Sequence[tuple[Any, int]], panel: int) -> None:
    """Continue the intervals whose upper end is unknown to the edge of the axes, with an arrow.

    An interval that ended at its value would claim that the value is the most it can be.
    """
    from matplotlib.transforms import blended_transform_factory

    found = [(row, y, row.figures[panel]) for row, y in drawn]
    ends = [(row, y, one) for row, y, one in found if one is not None and one.high is None]
    if not ends:
        return
    low, high = axes.get_xlim()
    room = 1.25 if axes.get_xscale() == "log" else 1.0
    axes.set_xlim(low, high * room)
    at_edge = blended_transform_factory(axes.transAxes, axes.transData)
    for row, y, one in ends:
        colour = COLOURS[row.colour]
        axes.plot([one.value, high * room], [y, y], color=colour, linewidth=0.9, alpha=0.6,
                  scalex=False, zorder=1)  # fmt: skip
        axes.plot(1, y, ">", color=colour, transform=at_edge, clip_on=False, markersize=3,
                  scalex=False)  # fmt: skip


def _draw_curves(panels: Sequence[CurvePanel], colours: Sequence[str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 5.0))
    grid = figure.subplots(2, 2)
    for axes, panel in zip(grid.ravel(), panels, strict=True):
        for series, colour in zip(panel.series, colours, strict=True):
            x = [at for at, _ in series.line]
            axes.fill_between(
                x,
                [max(low, 1e-9) for _, low, _ in series.band],
                [high for _, _, high in series.band],
                color=colour, alpha=0.14, linewidth=0,
            )  # fmt: skip
            axes.plot(x, [y for _, y in series.line], color=colour, lw=1.2, label=series.role)
            axes.plot(x, [y for _, y in series.linear], color=colour, lw=1, ls=(0, (4, 2)))
            for at, value, low, high in series.points:
                errors = None if low is None or high is None else [[value - low], [high - value]]
                axes.errorbar(at, value, yerr=errors, fmt="o", color=colour, ms=3, elinewidth=0.8)
        set_log(axes.xaxis, (1,) if panel.series[0].line[-1][0] > 400 else (1, 2, 5))
        end = max(series.measured_to for series in panel.series)
        right = axes.get_xlim()[1]
        if right > end:
            axes.axvspan(end, right, color="0.93", zorder=-1, linewidth=0)
            axes.set_xlim(right=right)
        if panel.logarithmic:
            set_log(axes.yaxis, (1,))
            low = min(y for one in panel.series for _, y in one.line)
            axes.set_ylim(bottom=low / 1.5)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(panel.title, loc="left")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
    grid[0][0].plot([], [], color="0.4", lw=1, ls=(0, (4, 2)), label="linear part alone")
    grid[0][0].legend(loc="best")
    return figure

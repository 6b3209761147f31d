"""Figures of a design run for papers: SVG and PDF from matplotlib, on white."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from etui.design.analysis.analysis import DesignAnalysis, PartAnalysis
from etui.design.report.curve_marks import CurvePanel, build_curve_panels
from etui.design.report.marks import (
    Forest,
    Plane,
    build_bands,
    build_multiples,
    build_per_correct,
    build_plane,
    get_colour,
)
from etui.plots.style import OPEN_AXES, figure_style, save_figure

COLOURS = (
    "#0f78b4", "#cf6a12", "#1d8a5c", "#b53a80", "#6f55c2", "#94730f", "#c43c2f", "#566579",
)  # fmt: skip

MARKERS = {"direct": "o", "cot": "s", "vote": "^"}

WAYS = {"direct": "direct", "cot": "chain of thought", "vote": "vote"}

STYLE = {
    **OPEN_AXES,
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


def set_log(axis: Any, subs: Sequence[int] = (1, 2, 5)) -> None:
    """Make an axis logarithmic, with numbers at these multiples of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())


_OFFSETS = (
    (6, 4),
    (6, -11),
    (-6, 4),
    (-6, -11),
    (6, 12),
    (-6, 12),
    (6, -19),
    (-6, -19),
    (6, 20),
    (-6, 20),
    (6, -27),
    (-6, -27),
)
"""Places of a label around its mark, in points; the first that is free is used."""


def draw_plane_figure(plane: Plane) -> Any:
    """Draw the plane as a matplotlib figure."""
    figure, axes = _canvas(5.4, 3.9)
    for dot in plane.dots:
        (x, x_low, x_high), (y, low, high) = dot.joules, (100 * v for v in dot.accuracy)
        axes.errorbar(
            x, y,
            xerr=[[max(0.0, x - x_low)], [max(0.0, x_high - x)]],
            yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
            fmt=MARKERS[dot.shape], color=COLOURS[dot.colour], markersize=4.5,
            elinewidth=0.7, capsize=0, ecolor=(*_rgb(COLOURS[dot.colour]), 0.35),
        )  # fmt: skip
    joules = [end for dot in plane.dots for end in dot.joules]
    if max(joules) > 6 * min(joules):
        set_log(axes.xaxis)
    line = _trace_hull(plane)
    axes.plot(
        [x for x, _ in line], [y for _, y in line],
        color="0.55", linewidth=0.9, linestyle=(0, (5, 3)), zorder=0,
    )  # fmt: skip
    for _, x, y in plane.routers:
        axes.plot([x], [100 * y], "D", color="white", markeredgecolor="0.35", markersize=5)
    axes.margins(x=0.08, y=0.06)
    _place_labels(figure, axes, plane)
    axes.axhline(100 * plane.chance, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel(f"joules per question{' (estimate)' if plane.estimate else ''}")
    axes.set_ylabel("accuracy, %")
    _add_legend(axes, plane)
    return figure


def _trace_hull(plane: Plane) -> list[tuple[float, float]]:
    """Return the line of mixtures as joules and per cent; straight in joules."""
    corners = [plane.dots[at] for at in plane.hull]
    return [
        (
            left.joules[0] + (right.joules[0] - left.joules[0]) * step / 40,
            100 * (left.accuracy[0] + (right.accuracy[0] - left.accuracy[0]) * step / 40),
        )
        for left, right in pairwise(corners)
        for step in range(41)
    ]


def _place_labels(figure: Any, axes: Any, plane: Plane) -> None:
    """Write the labels that find a free place; corners of the line and direct answers first."""
    figure.draw_without_rendering()
    to_pixels, scale = axes.transData.transform, figure.dpi / 72
    order = sorted(plane.dots, key=lambda dot: (not dot.on_hull, dot.shape != "direct"))
    labels = [(name, x, 100 * y, "0.35") for name, x, y in plane.routers]
    labels += [
        (dot.label, dot.joules[0], 100 * dot.accuracy[0], COLOURS[dot.colour]) for dot in order
    ]
    taken = [_box_around(to_pixels((x, y)), 5) for _, x, y, _ in labels]
    taken += [_box_around(to_pixels(point), 1) for point in _trace_hull(plane)]
    for text, x, y, colour in labels:
        at_x, at_y = to_pixels((x, y))
        width, height = 4.7 * scale * len(text), 8 * scale
        for dx, dy in _OFFSETS:
            left = at_x + dx * scale - (width if dx < 0 else 0)
            low = at_y + dy * scale
            box = (left, low, left + width, low + height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    text, (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=7.5,
                    color=colour, ha="left" if dx > 0 else "right",
                )  # fmt: skip
                break


def _box_around(point: Sequence[float], half: float) -> tuple[float, float, float, float]:
    x, y = point
    return (x - half, y - half, x + half, y + half)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _add_legend(axes: Any, plane: Plane) -> None:
    from matplotlib.lines import Line2D

    roles = {dot.role: COLOURS[dot.colour] for dot in plane.dots}
    shapes = dict.fromkeys(dot.shape for dot in plane.dots)
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=5, label=role)
        for role, colour in roles.items()
    ] + [
        Line2D([], [], color="0.4", marker=MARKERS[shape], linestyle="", markersize=5,
               label=WAYS[shape])
        for shape in shapes
    ]  # fmt: skip
    axes.legend(
        handles=handles, ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1.0),
        columnspacing=1.2, handletextpad=0.2,
    )  # fmt: skip


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # pyplot would open windows and keep global state

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


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

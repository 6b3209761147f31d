"""Forest plots of the page: figures with intervals, one row for each arm or band."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from etui.bench.report import svg
from etui.bench.report.layout import Size
from etui.bench.report.svg import Axis
from etui.design.report.marks import Forest, ForestPanel, ForestRow, Whisker
from etui.design.report.plane_chart import draw_shape
from etui.text import fit_cells

WIDE = Size(960, 0, left=150, right=6, top=4, bottom=48)
HALF = Size(470, 0, left=176, right=14, top=4, bottom=48)
NARROW = Size(360, 0, left=74, right=8, top=4, bottom=48, class_="narrow")
NARROW_MIDDLE = Size(360, 0, left=152, right=10, top=4, bottom=48, class_="narrow")
NARROW_LONG = Size(360, 0, left=166, right=10, top=4, bottom=48, class_="narrow")

_ROW = 23.0
_HEADING = 30.0
_GAP = 26.0
_TEXT = 176.0
"""Width of the figures in words, to the right of a panel."""


def draw_forest(forest: Forest, size: Size, *, with_text: bool = False) -> Markup:
    """Draw a forest plot.

    Args:
        size: Width and margins; the height follows from the number of rows.
        with_text: Whether the figures are also written beside each panel.
    """
    count = len(forest.panels)
    text = _TEXT if with_text else 0.0
    width = (size.width - size.left - size.right - (_GAP + text) * count + _GAP) / count
    height = size.top + sum(_HEADING + _ROW * len(rows) for _, rows in forest.groups)
    axes = []
    for at, panel in enumerate(forest.panels):
        start = size.left + at * (width + text + _GAP)
        figures = [row.figures[at] for row in forest.rows]
        axes.append(_choose_axis(panel, [one for one in figures if one], start, start + width))
    parts: list[Markup] = []
    spans = []
    at_y = size.top
    for _, rows in forest.groups:
        at_y += _HEADING + _ROW * len(rows)
        spans.append((at_y - _ROW * len(rows), at_y))
    for panel, axis in zip(forest.panels, axes, strict=True):
        parts += _draw_axis(panel, axis, spans, height)
    at_y = size.top
    for heading, rows in forest.groups:
        parts.append(svg.label(2, at_y + 21, heading, "row-heading"))
        at_y += _HEADING
        for row in rows:
            parts += _draw_row(row, axes, at_y + _ROW / 2, size, with_text)
            at_y += _ROW
    name = "; ".join(panel.title for panel in forest.panels)
    return svg.drawing(size.width, height + size.bottom, parts, name, f"{size.class_} forest")


def _choose_axis(panel: ForestPanel, figures: Sequence[Whisker], start: float, end: float) -> Axis:
    values = [
        value for one in figures for value in (one.value, one.low, one.high) if value is not None
    ]
    if panel.neutral is not None:
        values.append(panel.neutral)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if panel.scale == "log":
        return Axis(low / 1.12, high * 1.12, start, end, logarithmic=True)
    room = 0.05 * (high - low or 1.0)
    return Axis(low - room, high + room, start, end)


def _draw_axis(
    panel: ForestPanel, axis: Axis, spans: Sequence[tuple[float, float]], bottom: float
) -> list[Markup]:
    """Draw the lines of an axis, except across headings, which may be wider than the margin."""
    parts = []
    placed: list[float] = []
    for value in axis.ticks(max(3, round((axis.end - axis.start) / 44))):
        at = axis.at(value)
        parts += [svg.line(at, start, at, end, "grid") for start, end in spans]
        if all(abs(at - other) >= 27 for other in placed):
            placed.append(at)
            parts.append(svg.label(at, bottom + 16, f"{value:,g}", "tick", "middle"))
    if panel.neutral is not None:
        at = axis.at(panel.neutral)
        parts += [svg.line(at, start, at, end, "zero") for start, end in spans]
    middle = (axis.start + axis.end) / 2
    return [*parts, svg.label(middle, bottom + 36, panel.title, "title", "middle")]


def _draw_row(
    row: ForestRow, axes: Sequence[Axis], y: float, size: Size, with_text: bool
) -> list[Markup]:
    label = fit_cells(row.label, int((size.left - 8) / (0.93 * svg.CHARACTER_WIDTH)))
    parts = [svg.label(2, y + 4, label, "row-label")]
    for figure, axis in zip(row.figures, axes, strict=True):
        if figure is None:
            parts.append(svg.label(axis.start, y + 4, "–", "note"))
            continue
        low = axis.low if figure.low is None else figure.low
        high = axis.high if figure.high is None else figure.high
        marks = [
            svg.line(axis.at(low), y, axis.at(high), y, "whisker"),
            draw_shape(row.shape, axis.at(figure.value), y, 5),
        ]
        class_ = f"arm-{row.colour}" + (" unclaimed" if figure.claimed is False else "")
        parts.append(svg.group(class_, marks, f"{row.label}: {figure.text}"))
        if with_text:
            parts.append(svg.label(axis.end + 10, y + 4, figure.text, "note"))
    return parts

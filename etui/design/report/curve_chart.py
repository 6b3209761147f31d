"""Charts of operating curves: measured points, the fitted curve, its band and its linear part."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from etui.bench.report import svg
from etui.bench.report.layout import Size
from etui.bench.report.svg import Axis
from etui.design.report.curve_marks import CurvePanel, CurveSeries

WIDE = Size(470, 300, left=52, right=14)
NARROW = Size(360, 280, left=46, right=10, class_="narrow")


def draw_curves(panel: CurvePanel, colours: Sequence[int], size: Size) -> Markup:
    """Draw one panel.

    Args:
        colours: Number of the colour of each series.
    """
    x, y = _choose_axes(panel, size)
    parts = _draw_frame(x, y)
    middle = (size.left + size.width - size.right) / 2
    parts.append(svg.label(middle, size.height - 10, panel.x_label, "title", "middle"))
    parts.append(svg.label(2, size.top - 16, panel.y_label, "title"))
    end = max(one.measured_to for one in panel.series)
    if end < x.high:
        left, top = x.at(end), y.end
        parts.insert(
            0,
            svg.element(
                "rect", x=left, y=top, width=x.end - left, height=y.start - top, class_="beyond"
            ),
        )
        parts.append(svg.label(left + 6, top + 14, "not measured", "note"))
    for series, colour in zip(panel.series, colours, strict=True):
        parts.append(svg.group(f"arm-{colour}", _draw_series(series, x, y), series.role))
    name = f"{panel.y_label}, {panel.title}, over {panel.x_label}"
    return svg.drawing(size.width, size.height, parts, name, size.class_)


def _choose_axes(panel: CurvePanel, size: Size) -> tuple[Axis, Axis]:
    xs = [x for one in panel.series for x, _ in one.line]
    ys = [y for one in panel.series for _, y in one.line]
    ys += [y for one in panel.series for _, y in one.linear]
    ys += [point[1] for one in panel.series for point in one.points]
    x = Axis(min(xs) / 1.15, max(xs) * 1.1, size.left, size.width - size.right, logarithmic=True)
    ends = size.height - size.bottom, size.top
    if panel.logarithmic:
        low = max(min(y for y in ys if y > 0), 1e-9)
        return x, Axis(low / 1.5, max(ys) * 1.3, *ends, logarithmic=True)
    return x, Axis(0.0, max(ys) * 1.08 or 1.0, *ends)


def _draw_frame(x: Axis, y: Axis) -> list[Markup]:
    """Draw the grid and the numbers that have room, powers of ten first."""
    parts = []
    rows: list[float] = []
    for value in _sort_ticks(y.ticks(5)):
        at = y.at(value)
        if all(abs(at - other) >= 20 for other in rows):
            rows.append(at)
            parts.append(svg.line(x.start, at, x.end, at, "grid"))
            parts.append(svg.label(x.start - 7, at + 4, f"{value:,g}", "tick", "end"))
    columns: list[float] = []
    for value in _sort_ticks(x.ticks(5)):
        at = x.at(value)
        if all(abs(at - other) >= 38 for other in columns):
            columns.append(at)
            parts.append(svg.line(at, y.start, at, y.start + 5, "axis"))
            parts.append(svg.label(at, y.start + 20, f"{value:,g}", "tick", "middle"))
    return [*parts, svg.line(x.start, y.start, x.end, y.start, "axis")]


def _sort_ticks(values: Sequence[float]) -> list[float]:
    """Put powers of ten first, then 2 and then 5 times one."""
    return sorted(values, key=lambda value: (f"{value:e}"[0] not in "01", f"{value:e}"[0] == "5"))


def _draw_series(series: CurveSeries, x: Axis, y: Axis) -> list[Markup]:
    upper = [(x.at(at), y.at(high)) for at, _, high in series.band]
    lower = [(x.at(at), y.at(low)) for at, low, _ in reversed(series.band)]
    corners = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in (*upper, *lower))
    parts = [
        svg.element("polygon", points=corners, class_="band"),
        svg.path([(x.at(at), y.at(value)) for at, value in series.linear], "linear"),
        svg.path([(x.at(at), y.at(value)) for at, value in series.line], "power"),
    ]
    for at, value, low, high in series.points:
        if low is not None and high is not None:
            parts.append(svg.line(x.at(at), y.at(low), x.at(at), y.at(high), "whisker"))
        parts.append(svg.element("circle", cx=x.at(at), cy=y.at(value), r=4, class_="dot"))
    return parts

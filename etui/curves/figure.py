"""Operating curves as SVG; matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from etui.curves.curve_lines import compute_drawn_lines
from etui.curves.operating_curve import OperatingCurve
from etui.plots.figure import ARM_COLOURS, Figure, Panel, Point


def figure_svg(curves: Sequence[OperatingCurve]) -> str:
    """Draw a panel per curve: measured turns as points, the curve as a line with its 95 % band.

    Returns:
        The SVG document; equal curves give equal documents.
    """
    figure = Figure(6.4, 4.0 * max(len(curves), 1), rows=max(len(curves), 1))
    for curve, panel in zip(curves, figure.panels, strict=False):
        _draw_panel(panel, curve)
    return figure.document()


def _draw_panel(panel: Panel, curve: OperatingCurve) -> None:
    for line, colour in zip(compute_drawn_lines(curve), ARM_COLOURS, strict=False):
        outputs, joules = zip(*line.line, strict=True)
        half = [width for _, width in line.band]
        low = [value - width for value, width in zip(joules, half, strict=True)]
        high = [value + width for value, width in zip(joules, half, strict=True)]
        label = f"{line.computed} prompt tokens"
        panel.line(outputs, joules, colour, label=label, band=(low, high))
        panel.points([Point(x, y, colour=colour, size=3.5) for x, y in line.points])
    kind = "estimate" if curve.kind == "estimate" else curve.kind or "unknown kind"
    title = f"{curve.model}, {curve.source}, {kind}"
    panel.name_axes("output tokens", "joules of a turn", title)
    panel.axes.set_xlim(left=0)
    panel.axes.set_ylim(bottom=0)
    if curve.points:
        panel.legend()

"""Operating curves as SVG; matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence

from etui.curves.curve_lines import compute_drawn_lines
from etui.curves.operating_curve import OperatingCurve
from etui.plots.style import figure_style, save_figure

_COLOURS = ("#0b7285", "#d9480f", "#5f3dc4")  # distinguishable with colour blindness
_INCHES = (6.4, 4.0)


def figure_svg(curves: Sequence[OperatingCurve]) -> str:
    """Draw a panel per curve: measured turns as points, the curve as a line with its 95 % band.

    Returns:
        The SVG document; equal curves give equal documents.
    """
    from matplotlib.figure import Figure

    width, height = _INCHES
    with figure_style():
        figure = Figure(figsize=(width, height * max(len(curves), 1)), layout="constrained")
        panels = figure.subplots(len(curves), 1, squeeze=False)
        for curve, (panel,) in zip(curves, panels, strict=True):
            _draw_panel(panel, curve)
        out = io.StringIO()
        save_figure(figure, out, "svg")
    return out.getvalue()


def _draw_panel(panel: object, curve: OperatingCurve) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    for line, colour in zip(compute_drawn_lines(curve), _COLOURS, strict=False):
        outputs = [output for output, _ in line.line]
        joules = [value for _, value in line.line]
        half = [value for _, value in line.band]
        low = [value - width for value, width in zip(joules, half, strict=True)]
        high = [value + width for value, width in zip(joules, half, strict=True)]
        panel.fill_between(outputs, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.plot(outputs, joules, color=colour, label=f"{line.computed} prompt tokens")
        panel.scatter(
            [output for output, _ in line.points],
            [value for _, value in line.points],
            color=colour,
            s=14,
        )
    kind = "estimate" if curve.kind == "estimate" else curve.kind or "unknown kind"
    panel.set_title(f"{curve.model}, {curve.source}, {kind}", fontsize=10)
    panel.set_xlabel("output tokens")
    panel.set_ylabel("joules of a turn")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    if curve.points:
        panel.legend(frameon=False, fontsize=8)

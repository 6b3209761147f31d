"""Colours, marks and axes of the figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etui.plots.style import OPEN_AXES

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

"""Figures for papers: SVG and PDF from matplotlib, on white, at column width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from etui import units
from etui.bench.config import RunConfig
from etui.bench.cost import Figure as CostFigure
from etui.bench.sample import Sample
from etui.bench.summary import Summary, summarise
from etui.bench.summary_text import protocol
from etui.plots.style import OPEN_AXES, figure_style, save_figure
from etui.stats.tests import Interval

_COLOURS = (
    "#0f78b4", "#cf6a12", "#1d8a5c", "#b53a80", "#6f55c2", "#94730f", "#c43c2f", "#566579",
)  # fmt: skip
_FORMS = ("svg", "pdf")
_STYLE = {
    **OPEN_AXES,
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


def write_figures(folder: Path, run: RunConfig, samples: Sequence[Sample]) -> list[Path]:
    """Write every figure for which the run has data.

    The figures are ``accuracy_joules`` (arms with both intervals, and the hull), ``subjects``
    (accuracy of each subject) and ``phases`` (joules per question in prefill and decode).

    Returns:
        Paths in the order in which they were written.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(samples, run)
    drawn = {
        "accuracy_joules": _draw_accuracy_joules,
        "subjects": _draw_subjects,
        "phases": _draw_phases,
    }
    written = []
    with figure_style(_STYLE):
        for name, draw in drawn.items():
            figure = draw(summary)
            if figure is None:
                continue
            for form in _FORMS:
                path = folder / f"{name}.{form}"
                save_figure(figure, path, form)
                written.append(path)
    return written


def _draw_accuracy_joules(summary: Summary) -> Any:
    from matplotlib.ticker import LogLocator, NullFormatter

    arms = summary.arms
    costs = {name: arm.energy for name, arm in arms.items() if arm.energy is not None}
    if len(costs) < len(arms):
        return None
    figure, axes = _canvas(4.6, 3.2)
    points = {}
    for at, (name, cost) in enumerate(costs.items()):
        micro, joules = arms[name].accuracy.micro, cost.per_question
        points[name] = (joules.value, 100 * micro.value)
        x, y = points[name]
        axes.errorbar(
            x,
            y,
            xerr=_error_bars(joules, 1),
            yerr=_error_bars(micro, 100),
            fmt="o",
            color=_COLOURS[at % 8],
            markersize=5,
            elinewidth=1,
            capsize=2,
        )
        axes.annotate(
            name,
            (x, y),
            textcoords="offset points",
            xytext=(7, -11 if name in summary.hull[:-1] else 6),
            color=_COLOURS[at % 8],
            fontsize=8.5,
        )
    if max(x for x, _ in points.values()) > 8 * min(x for x, _ in points.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for left, right in pairwise(summary.hull):
        (x0, y0), (x1, y1) = points[left], points[right]
        shares = [step / 40 for step in range(41)]
        axes.plot(
            [x0 + (x1 - x0) * share for share in shares],
            [y0 + (y1 - y0) * share for share in shares],
            color="0.55",
            linewidth=0.9,
            linestyle=(0, (5, 3)),
            zorder=0,
        )
    if summary.chance:
        axes.axhline(100 * summary.chance, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    kinds = {cost.kind for cost in costs.values()}
    axes.set_xlabel(f"joules per question{' (estimate)' if units.ESTIMATE in kinds else ''}")
    axes.set_ylabel("accuracy, %")
    axes.set_title(protocol(summary), loc="left", fontsize=9)
    axes.margins(x=0.12)
    return figure


def _draw_subjects(summary: Summary) -> Any:
    arms = summary.arms
    names = sorted({name for arm in arms.values() for name in arm.accuracy.subjects})
    if len(names) < 2:
        return None
    first = next(iter(arms.values())).accuracy.subjects
    names.sort(key=lambda name: first[name].accuracy if name in first else -1)
    figure, axes = _canvas(5.2, 0.9 + 0.145 * len(names))
    for at, (arm_name, arm) in enumerate(arms.items()):
        shares = arm.accuracy.subjects
        rows = [row for row, name in enumerate(names) if name in shares]
        values = [100 * shares[names[row]].accuracy for row in rows]
        if at == 0:
            ends = [
                [100 * getattr(shares[names[row]], end) for row in rows] for end in ("low", "high")
            ]
            axes.hlines(rows, *ends, color=_COLOURS[0], linewidth=0.7, alpha=0.5)
        axes.plot(values, rows, "o", color=_COLOURS[at % 8], markersize=3.2, label=arm_name)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=6.5)
    axes.set_ylim(-1, len(names))
    axes.set_xlim(-2, 102)
    if summary.chance:
        axes.axvline(100 * summary.chance, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel("accuracy, % (intervals at 95 % of the first arm)")
    if len(arms) > 1:
        axes.legend(frameon=False, fontsize=7.5, loc="lower right")
    return figure


def _draw_phases(summary: Summary) -> Any:
    arms = summary.arms
    costs = {name: arm.energy for name, arm in arms.items() if arm.energy is not None}
    if len(costs) < len(arms) or any(cost.prefill_joules is None for cost in costs.values()):
        return None
    figure, axes = _canvas(4.6, 0.9 + 0.34 * len(costs))
    names = list(costs)[::-1]
    left = [0.0] * len(names)
    for phase, colour in (("prefill", _COLOURS[0]), ("decode", _COLOURS[1])):
        widths = [getattr(costs[name], f"{phase}_joules") / costs[name].questions for name in names]
        axes.barh(names, widths, left=left, height=0.6, color=colour, label=phase)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    kinds = {cost.kind for cost in costs.values()}
    axes.set_xlabel(f"joules per question{' (estimate)' if units.ESTIMATE in kinds else ''}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # pyplot would open windows and keep global state

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _error_bars(figure: CostFigure | Interval, scale: float) -> list[list[float]] | None:
    """Return both half widths in matplotlib's form; None if an end is unknown."""
    if figure.low is None or figure.high is None:
        return None
    low, high = figure.value - figure.low, figure.high - figure.value
    return [[max(0.0, low) * scale], [max(0.0, high) * scale]]

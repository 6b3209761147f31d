"""Figure of accuracy against joules per question, for papers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from etui.design.report.marks import Plane
from etui.design.report.paper_style import COLOURS, MARKERS, WAYS, set_log

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

"""Plot a replay: accuracy against cost, with the hull, the router's curve and the oracle."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from etui.plots.label_places import Box, Label, find_distance, place_labels
from etui.plots.style import OPEN_AXES, figure_style, save_figure
from etui.replay.documents import AtHull, ReplayDocument

_INK = "#222222"
_MIX = "#8a8a8a"
_ROUTER = "#0b6fa4"
_POLICY = "#c2410c"
_ORACLE = "#3f7d20"
_LOGARITHMIC_FROM = 12.0
"""Ratio of the largest to the smallest cost from which the cost has a logarithmic axis."""
_LONGEST_NAME = 28
_LINE_FROM = 9.0
"""Distance in pixels between a point and its label from which a line joins them."""


@dataclass(frozen=True, slots=True)
class _Note:
    """A text next to a point of the chart, in the units of the axes."""

    text: str
    x: float
    y: float
    angle: float
    color: str = _INK
    size: float = 9.0


def replay_svg(document: ReplayDocument) -> str:
    """Draw a replay as SVG; labels stay text elements.

    Args:
        document: The document from :func:`etui.replay.judge.judge`.

    Returns:
        The SVG source.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    many = len(document["arms"]) > 4
    with figure_style({**OPEN_AXES, "font.size": 10}), warnings.catch_warnings():
        # Names in other scripts are drawn by the reader's fonts, whatever matplotlib has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(9.0, 6.0) if many else (7.2, 4.6), layout="constrained")
        FigureCanvasAgg(figure)  # measures the texts
        _draw(figure, figure.add_subplot(), document)
        buffer = io.BytesIO()
        save_figure(figure, buffer, "svg", dpi=144)
    return buffer.getvalue().decode("utf-8")


def _draw(figure: Any, axes: Any, document: ReplayDocument) -> None:
    hull = document["hull"]
    costs, accuracies = [c["cost"] for c in hull], [100 * c["accuracy"] for c in hull]
    _scale_costs(axes, document)
    xs, ys = _mix(costs, accuracies)
    axes.plot(xs, ys, "--", color=_MIX, lw=1.3, label="random mixture of arms", zorder=1)
    best = document["router"]
    if best is not None and document["apgr"] is not None:
        curve = document["routers"][best]["curve"]
        label = f"router {best}, APGR {document['apgr']:.3f}"
        xs, ys = [x for x, _ in curve], [100 * y for _, y in curve]
        axes.plot(xs, ys, color=_ROUTER, lw=2, label=label, zorder=2)
        mixture = [_interpolate(costs, accuracies, x) for x in xs]
        axes.fill_between(xs, mixture, ys, color=_ROUTER, alpha=0.10, lw=0, zorder=0)
    energy = document["energy"]
    gains = [place for place in (energy["at_hull"] if energy is not None else ()) if _gains(place)]
    for place in gains:
        _draw_gain(axes, place)
    for arm in document["arms"].values():
        x, y = arm["cost"], 100 * arm["accuracy"]
        low, high = (100 * end for end in arm["accuracy_interval"])
        below, above = max(0.0, y - low), max(0.0, high - y)
        axes.errorbar([x], [y], [[below], [above]], fmt="o", color=_INK, ms=5, capsize=3)
    oracle = document["oracle"]
    axes.plot(oracle["cost"], 100 * oracle["accuracy"], "*", color=_ORACLE, ms=13, zorder=3)
    for policy in document["policies"].values():
        axes.plot(policy["cost"], 100 * policy["accuracy"], "D", color=_POLICY, ms=7, zorder=3)
    joules = bool(document["kinds"])
    kinds = f" ({', '.join(document['kinds'])})" if joules else ""
    axes.set_xlabel(f"joules per question{kinds}" if joules else "cost per question (as stated)")
    axes.set_ylabel("right answers, %")
    axes.set_title(f"{document['n']:,} questions", loc="left", fontsize=10)
    axes.margins(x=0.12, y=0.12)
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, borderpad=0)
    figure.draw_without_rendering()  # the places of labels depend on the size of the axes
    figure.set_layout_engine("none")
    _write_notes(axes, list(_list_notes(document, gains)), list(_list_bars(document, gains)))


def _scale_costs(axes: Any, document: ReplayDocument) -> None:
    """Use a logarithmic axis for costs that differ by more than a factor."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    costs = [arm["cost"] for arm in document["arms"].values()] + [document["oracle"]["cost"]]
    if min(costs) <= 0 or max(costs) < _LOGARITHMIC_FROM * min(costs):
        return
    axes.set_xscale("log")
    few = max(costs) < 1000 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _mix(costs: list[float], accuracies: list[float]) -> tuple[list[float], list[float]]:
    """Return points of the mixture close enough for a line that is curved on a logarithmic axis."""
    import numpy as np

    if min(costs) <= 0:
        return costs, accuracies
    xs = np.union1d(np.geomspace(costs[0], costs[-1], 200), costs)
    return xs.tolist(), np.interp(xs, costs, accuracies).tolist()


def _gains(place: AtHull) -> bool:
    """Check whether a gain has an interval: at the cheapest corner only one arm answers."""
    low, high = place["difference"]["low"], place["difference"]["high"]
    return low is not None and high is not None and low != high


def _span(place: AtHull) -> tuple[float, float, float]:
    """Return the accuracy at a place, and how far its interval reaches below and above, in %."""
    y, mixture = 100 * place["accuracy"], 100 * place["mixture_accuracy"]
    low, high = place["difference"]["low"], place["difference"]["high"]
    assert low is not None
    assert high is not None
    return y, max(0.0, y - (mixture + 100 * low)), max(0.0, mixture + 100 * high - y)


def _draw_gain(axes: Any, place: AtHull) -> None:
    """Draw the gain over the mixture at a corner or a middle of the hull, with its interval."""
    y, below, above = _span(place)
    axes.errorbar(
        [place["cost"]], [y], [[below], [above]], fmt="s", color=_ROUTER, ms=4, capsize=2, lw=1
    )


def _list_notes(document: ReplayDocument, gains: Sequence[AtHull]) -> Iterator[_Note]:
    """Yield the texts of the chart: arms below their points, policies and gains to the left."""
    for name, policy in document["policies"].items():
        text = f"policy {_cut(name)}"
        yield _Note(text, policy["cost"], 100 * policy["accuracy"], 135, _POLICY)
    oracle = document["oracle"]
    yield _Note("oracle", oracle["cost"], 100 * oracle["accuracy"], 0)
    for name, arm in document["arms"].items():
        yield _Note(_cut(name), arm["cost"], 100 * arm["accuracy"], 292)
    for place in gains:
        text = f"{100 * place['difference']['value']:+z.1f}"
        yield _Note(text, place["cost"], 100 * place["accuracy"], 157, _ROUTER, 7.5)


def _list_bars(
    document: ReplayDocument, gains: Sequence[AtHull]
) -> Iterator[tuple[float, float, float]]:
    """Yield what labels should not cover: a cost, and the ends of a bar of accuracy."""
    best = document["router"]
    if best is not None and document["apgr"] is not None:
        for cost, accuracy in document["routers"][best]["curve"]:
            yield cost, 100 * accuracy, 100 * accuracy
    for arm in document["arms"].values():
        low, high = arm["accuracy_interval"]
        yield arm["cost"], 100 * low, 100 * high
    for place in gains:
        y, below, above = _span(place)
        yield place["cost"], y - below, y + above


def _write_notes(
    axes: Any, notes: Sequence[_Note], bars: Sequence[tuple[float, float, float]]
) -> None:
    """Write texts next to their points, where they cover neither points nor each other."""
    renderer = axes.figure.canvas.get_renderer()
    to_pixels = axes.transData.transform
    frame = axes.get_window_extent(renderer)
    labels, texts = [], []
    for note in notes:
        text = axes.text(
            0, 0, note.text, color=note.color, fontsize=note.size, parse_math=False, zorder=4
        )
        size = text.get_window_extent(renderer)
        x, y = to_pixels((note.x, note.y))
        labels.append(Label(x, y, size.width, size.height, note.angle))
        texts.append(text)
    obstacles = [Box(one.x, one.y, one.x, one.y).grow(6) for one in labels]
    for cost, low, high in bars:
        (x, bottom), (_, top) = to_pixels((cost, low)), to_pixels((cost, high))
        obstacles.append(Box(x, bottom, x, top).grow(2))
    boxes = place_labels(labels, obstacles, Box(frame.x0, frame.y0, frame.x1, frame.y1))
    from_pixels = axes.transData.inverted().transform
    for note, text, label, box in zip(notes, texts, labels, boxes, strict=True):
        text.set_position(from_pixels((box.left, box.bottom)))
        text.set_verticalalignment("bottom")
        if find_distance(box, label.x, label.y) > _LINE_FROM:
            near = (
                min(max(label.x, box.left), box.right),
                min(max(label.y, box.bottom), box.top),
            )
            xs, ys = zip(from_pixels((label.x, label.y)), from_pixels(near), strict=True)
            axes.plot(xs, ys, color=note.color, lw=0.5, alpha=0.5, zorder=1.5)


def _cut(name: str) -> str:
    """Cut a long name, so that its label finds a place."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _interpolate(costs: list[float], accuracies: list[float], x: float) -> float:
    import numpy as np

    return float(np.interp(x, costs, accuracies))

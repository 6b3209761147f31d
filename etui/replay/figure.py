"""Plot a replay: accuracy against cost, with the hull, the router's curve and the oracle."""

from __future__ import annotations

import io
from typing import Any

from etui.plots.style import OPEN_AXES, figure_style, save_figure
from etui.replay.documents import AtHull, ReplayDocument

_INK = "#222222"
_MIX = "#8a8a8a"
_ROUTER = "#0b6fa4"
_POLICY = "#c2410c"
_ORACLE = "#3f7d20"


def replay_svg(document: ReplayDocument) -> str:
    """Draw a replay as SVG; labels stay text elements.

    Args:
        document: The document from :func:`etui.replay.judge.judge`.

    Returns:
        The SVG source.
    """
    from matplotlib.figure import Figure

    with figure_style({**OPEN_AXES, "font.size": 10}):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        _draw(figure.add_subplot(), document)
        buffer = io.BytesIO()
        save_figure(figure, buffer, "svg", dpi=144)
    return buffer.getvalue().decode("utf-8")


def _draw(axes: Any, document: ReplayDocument) -> None:
    hull = document["hull"]
    costs, accuracies = [c["cost"] for c in hull], [100 * c["accuracy"] for c in hull]
    axes.plot(costs, accuracies, "--", color=_MIX, lw=1.3, label="random mixture of arms", zorder=1)
    best = document["router"]
    if best is not None and document["apgr"] is not None:
        curve = document["routers"][best]["curve"]
        label = f"router {best}, APGR {document['apgr']:.3f}"
        xs, ys = [x for x, _ in curve], [100 * y for _, y in curve]
        axes.plot(xs, ys, color=_ROUTER, lw=2, label=label, zorder=2)
        mixture = [_interpolate(costs, accuracies, x) for x in xs]
        axes.fill_between(xs, mixture, ys, color=_ROUTER, alpha=0.10, lw=0, zorder=0)
    energy = document["energy"]
    for place in energy["at_hull"] if energy is not None else ():
        _draw_gain(axes, place)
    for name, arm in document["arms"].items():
        x, y = arm["cost"], 100 * arm["accuracy"]
        low, high = (100 * end for end in arm["accuracy_interval"])
        axes.errorbar([x], [y], [[y - low], [high - y]], fmt="o", color=_INK, ms=5, capsize=3)
        _label(axes, name, x, low, below=True)
    oracle = document["oracle"]
    axes.plot(oracle["cost"], 100 * oracle["accuracy"], "*", color=_ORACLE, ms=13, zorder=3)
    _label(axes, "oracle", oracle["cost"], 100 * oracle["accuracy"])
    for name, policy in document["policies"].items():
        x, y = policy["cost"], 100 * policy["accuracy"]
        axes.plot(x, y, "D", color=_POLICY, ms=7, zorder=3)
        _label(axes, f"policy {name}", x, y, color=_POLICY, before=True)
    joules = bool(document["kinds"])
    kinds = f" ({', '.join(document['kinds'])})" if joules else ""
    axes.set_xlabel(f"joules per question{kinds}" if joules else "cost per question (as stated)")
    axes.set_ylabel("right answers, %")
    axes.set_title(f"{document['n']:,} questions", loc="left", fontsize=10)
    axes.margins(x=0.12, y=0.12)
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=False)


def _draw_gain(axes: Any, place: AtHull) -> None:
    """Draw the gain over the mixture at a corner or a middle of the hull, with its interval."""
    x, y, mixture = place["cost"], 100 * place["accuracy"], 100 * place["mixture_accuracy"]
    difference = place["difference"]
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low == high:  # only the cheapest arm answers
        return
    below = max(0.0, y - (mixture + 100 * low))
    above = max(0.0, mixture + 100 * high - y)
    axes.errorbar([x], [y], [[below], [above]], fmt="s", color=_ROUTER, ms=4, capsize=2, lw=1)
    axes.annotate(
        f"{100 * difference['value']:+.1f}",
        (x, y),
        xytext=(-5, 1),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=_ROUTER,
        fontsize=8,
    )


def _label(
    axes: Any,
    text: str,
    x: float,
    y: float,
    color: str = _INK,
    *,
    below: bool = False,
    before: bool = False,
) -> None:
    """Label a point: arms below it, policies to the left, so that the mixture stays visible."""
    axes.annotate(
        text,
        (x, y),
        xytext=(0, -6) if below else (-8 if before else 8, 6),
        textcoords="offset points",
        ha="center" if below else "right" if before else "left",
        va="top" if below else "bottom",
        color=color,
    )


def _interpolate(costs: list[float], accuracies: list[float], x: float) -> float:
    import numpy as np

    return float(np.interp(x, costs, accuracies))

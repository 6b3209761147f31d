"""Plot a replay: accuracy against cost, with the hull, the router's curve and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from etui.learning.judge import Document
from etui.plots.figure import ARM_COLOURS, Figure, Panel, Point

_ROUTER, _POLICY, _ORACLE = ARM_COLOURS[0], ARM_COLOURS[1], ARM_COLOURS[2]
_LOGARITHMIC_FROM = 12.0
"""Ratio of the largest to the smallest cost from which the cost has a logarithmic axis."""
_POWERS_FROM = 1000.0
"""The same ratio from which the axis has the powers of ten alone."""
_LONGEST_NAME = 28


def replay_svg(document: Document) -> str:
    """Draw a replay as SVG; labels stay text elements."""
    figure = Figure(9.0, 6.0) if len(document["arms"]) > 4 else Figure(7.2, 4.6)
    (panel,) = figure.panels
    _draw_lines(panel, document)
    panel.points([*chain(_list_marks(document), _list_arms(document), _list_gains(document))])
    joules = bool(document["kinds"])
    kinds = f" ({', '.join(document['kinds'])})" if joules else ""
    cost = f"joules per question{kinds}" if joules else "cost per question (as stated)"
    panel.name_axes(cost, "right answers, %", f"{document['n']:,} questions")
    panel.axes.margins(x=0.12, y=0.12)
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0)
    return figure.document()


def _draw_lines(panel: Panel, document: Document) -> None:
    """Draw the mixtures of arms and, if it is better than chance, the router's curve."""
    costs = [arm["cost"] for arm in document["arms"].values()] + [document["oracle"]["cost"]]
    if min(costs) > 0 and max(costs) >= _LOGARITHMIC_FROM * min(costs):
        panel.log(many=max(costs) >= _POWERS_FROM * min(costs))
    corners = [(corner["cost"], 100 * corner["accuracy"]) for corner in document["hull"]]
    panel.mix(corners, "random mixture of arms")
    best = document["router"]
    if best is None or document["apgr"] is None:
        return
    curve = document["routers"][best]["curve"]
    xs, ys = [x for x, _ in curve], [100 * y for _, y in curve]
    mixture = document["mixture"]["apgr"]
    label = f"router {best}, APGR {document['apgr']:.3f} (mixture {mixture:.3f})"
    panel.band(xs, _interpolate(corners, xs), ys, _ROUTER)
    panel.line(xs, ys, _ROUTER, label=label)


def _list_marks(document: Document) -> list[Point]:
    policies = [
        Point(
            policy["cost"],
            100 * policy["accuracy"],
            colour=_POLICY,
            label=f"policy {_cut(name)}",
            angle=135,
            shape="D",
            size=7,
        )
        for name, policy in document["policies"].items()
    ]
    oracle = document["oracle"]
    x, y = oracle["cost"], 100 * oracle["accuracy"]
    star = Point(x, y, colour=_ORACLE, label="oracle", angle=0, shape="*", size=13)
    return [*policies, star]


def _list_arms(document: Document) -> list[Point]:
    found = []
    for name, arm in document["arms"].items():
        low, high = (100 * end for end in arm["accuracy_interval"])
        found.append(
            Point(arm["cost"], 100 * arm["accuracy"], y_ends=(low, high), label=_cut(name))
        )
    return found


def _list_gains(document: Document) -> list[Point]:
    """List the gains over the mixture at the corners and middles of the hull, with intervals."""
    energy = document["energy"]
    return [
        _mark_gain(place)
        for place in (energy["at_hull"] if energy is not None else ())
        if None not in (ends := _ends(place)) and ends[0] != ends[1]
    ]


def _ends(place: Document) -> tuple[float | None, float | None]:
    return place["difference"]["low"], place["difference"]["high"]


def _mark_gain(place: Document) -> Point:
    mixture = 100 * place["mixture_accuracy"]
    low, high = (mixture + 100 * (end or 0.0) for end in _ends(place))
    return Point(
        place["cost"],
        100 * place["accuracy"],
        y_ends=(low, high),
        colour=_ROUTER,
        label=f"{100 * place['difference']['value']:+z.1f}",
        angle=157,
        shape="s",
        size=4,
    )


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _interpolate(corners: Sequence[tuple[float, float]], xs: Sequence[float]) -> list[float]:
    costs, accuracies = zip(*corners, strict=True)
    return [float(np.interp(x, costs, accuracies)) for x in xs]

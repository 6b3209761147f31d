"""The figures of a design run: the page shows the same ones that are written as SVG and PDF."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from etui import units
from etui.design._arms import Against, excludes
from etui.design._curves import CONTEXTS, LengthMean, ModelCurve, predict_phase
from etui.design._paired import Layout, Strategy
from etui.design._routing import BY_SUBJECT, FRUGAL
from etui.design.analysis import PartAnalysis, points_text
from etui.plots.figure import ARM_COLOURS, INK, SOFT, Figure, Panel, Point
from etui.stats.tests import SIGNIFICANCE, Interval

_SHAPES = {"direct": "o", "cot": "s", "vote": "^"}
_WAYS = {"direct": "direct", "cot": "chain of thought", "vote": "vote"}
_ROUTERS = {FRUGAL: "frugal oracle", BY_SUBJECT: "router by subject"}
_STEPS = 60
_LEAST = 20
"""A lower end below the value over this is drawn there: a logarithmic axis has no 0."""

_Mean = tuple[float, float | None, float | None]


def draw_figures(part: PartAnalysis, chance: float) -> dict[str, Figure]:
    """Draw every figure for which a part has data.

    Args:
        chance: Share of right answers by guessing.

    Returns:
        ``accuracy_joules``, ``joules_per_correct``, ``multiples``, ``multiples_large`` and
        ``operating_curves``, as far as there are any, in this order.
    """
    figures = {
        "accuracy_joules": _draw_plane(part, chance),
        "joules_per_correct": _draw_per_correct(part),
        "multiples": _draw_multiples(part, "direct"),
        "multiples_large": _draw_multiples(part, "large"),
        "operating_curves": _draw_curves(part),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def get_colour(layout: Layout, role: str) -> int:
    """Return the number of the colour of a role."""
    return list(layout.roles).index(role) % len(ARM_COLOURS)


def _colour(layout: Layout, role: str) -> str:
    return ARM_COLOURS[get_colour(layout, role)]


def _shape(strategy: Strategy) -> str:
    return _SHAPES.get(strategy.reasoning, "o")


def _estimate(kind: str | None) -> str:
    return f" ({units.ESTIMATE})" if kind == units.ESTIMATE else ""


def _low(value: float, low: float | None) -> float | None:
    return None if low is None else max(low, value / _LEAST)


def _add_keys(panel: Panel, layout: Layout, strategies: Sequence[Strategy]) -> None:
    """Draw the legend: a colour for each model, a shape for each way of reasoning."""
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"linestyle": "", "markersize": 5}
    roles = dict.fromkeys(one.role for one in strategies)
    ways = dict.fromkeys(one.reasoning for one in strategies)
    handles = [
        *(Line2D([], [], color=_colour(layout, role), marker="o", label=role, **style)
          for role in roles),
        *(Line2D([], [], color=SOFT, marker=_SHAPES.get(way, "o"), label=_WAYS.get(way, way),
                 **style) for way in ways),
    ]  # fmt: skip
    panel.legend(
        handles=handles, ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1.0),
        columnspacing=1.2, handletextpad=0.2,
    )  # fmt: skip


def _draw_plane(part: PartAnalysis, chance: float) -> Figure | None:
    """Draw accuracy over joules; None if an arm is unmeasured or costs nothing."""
    layout = part.paired.layout
    points = []
    for one in part.arms:
        if one.energy is None or one.energy.per_question.value <= 0:
            return None
        cost, accuracy = one.energy.per_question, one.accuracy
        points.append(
            Point(
                cost.value,
                100 * accuracy.value,
                x_ends=(_low(cost.value, cost.low), cost.high),
                y_ends=tuple(None if end is None else 100 * end  # type: ignore[arg-type]
                             for end in (accuracy.low, accuracy.high)),
                colour=_colour(layout, one.strategy.role),
                label=one.strategy.way,
                note=f"{one.strategy.label}: {units.accuracy_text(accuracy.value)}, "
                f"{units.energy_text(cost.value, None, part.kind)}",
                shape=_shape(one.strategy),
            )
        )  # fmt: skip
    if not points:
        return None
    figure = Figure(5.4, 3.9)
    (panel,) = figure.panels
    joules = [point.x for point in points]
    if max(joules) > 6 * min(joules):
        panel.log("x")
    panel.points(points)
    corners = sorted(
        (point.x, point.y) for point, one in zip(points, part.arms, strict=True) if one.on_hull
    )
    if len(corners) > 1:
        panel.mix(corners)
    panel.points(
        [
            Point(one.joules_per_question, 100 * one.accuracy, colour=INK, filled=False, shape="D",
                  label=_ROUTERS[one.name])
            for one in part.replay.routed
            if one.name in _ROUTERS
        ]
    )  # fmt: skip
    panel.guide(y=100 * chance, text="guessing")
    panel.name_axes(f"joules per question{_estimate(part.kind)}", "accuracy, %")
    _add_keys(panel, layout, [one.strategy for one in part.arms])
    return figure


def _draw_per_correct(part: PartAnalysis) -> Figure | None:
    """Draw the joules per right answer of every arm; None if no arm has any."""
    rows = [
        (one.strategy, one.energy.per_correct)
        for one in part.arms
        if one.energy is not None
        and one.energy.per_correct is not None
        and one.energy.per_correct.value > 0
    ]
    if not rows:
        return None
    points = [
        Point(
            figure.value,
            y,
            x_ends=(_low(figure.value, figure.low), figure.high),
            colour=_colour(part.paired.layout, strategy.role),
            note=f"{strategy.label}: {units.energy_text(figure.value, None, part.kind)}",
            shape=_shape(strategy),
        )
        for y, (strategy, figure) in enumerate(rows)
    ]
    figure = Figure(5.4, 0.8 + 0.2 * len(rows))
    (panel,) = figure.panels
    panel.log("x")
    panel.name_rows([strategy.label for strategy, _ in rows])
    panel.points(points)
    _draw_open_ends(panel, points)
    panel.name_axes(f"joules per right answer{_estimate(part.kind)}", "")
    return figure


def _draw_open_ends(panel: Panel, points: Sequence[Point]) -> None:
    """Continue intervals without an upper end to the edge, with an arrow.

    An interval that ended at its value would claim that the value is the most it can be.
    """
    for point in points:
        if point.x_ends[1] is None:
            panel.axes.annotate(
                "", xy=(1, point.y), xycoords=("axes fraction", "data"), xytext=(point.x, point.y),
                textcoords="data", arrowprops={"arrowstyle": "->", "color": point.colour},
            )  # fmt: skip


def _draw_multiples(part: PartAnalysis, against: Against) -> Figure | None:
    """Draw accuracy and joules of every arm against a direct answer; None if there are none.

    A filled mark is a claim, after correction for the other arms of the model.
    """
    chosen = [one for one in part.multiples if one.against == against]
    if not chosen:
        return None
    has_joules = any(one.joules is not None for one in chosen)
    figure = Figure(5.4, (1 + has_joules) * (0.7 + 0.2 * len(chosen)), rows=1 + has_joules)
    names = [one.strategy.label for one in chosen]
    gains, *costs = figure.panels
    gains.name_rows(names)
    gains.guide(x=0.0)
    for panel in costs:
        panel.log("x")
        panel.name_rows(names)
        panel.guide(x=1.0)
    for y, one in enumerate(chosen):
        colour, shape = _colour(part.paired.layout, one.strategy.role), _shape(one.strategy)
        claimed = excludes(one.difference, 0.0) != 0 and one.p_holm < SIGNIFICANCE
        low, high = (None if end is None else 100 * end
                     for end in (one.difference.low, one.difference.high))  # fmt: skip
        gains.points(
            [Point(100 * one.difference.value, y, x_ends=(low, high), colour=colour, shape=shape,
                   filled=claimed, note=f"{one.strategy.label}: {points_text(one.difference)}")]
        )  # fmt: skip
        if one.joules is not None and one.joules.value > 0:
            ratio = _place_ratio(one.joules, y, colour, shape, one.strategy.label)
            costs[0].points([ratio])
            _draw_open_ends(costs[0], [ratio])
    gains.name_axes("accuracy, points", "")
    for panel in costs:
        panel.name_axes("joules, multiple", "")
    return figure


def _place_ratio(ratio: Interval, y: float, colour: str, shape: str, name: str) -> Point:
    return Point(
        ratio.value,
        y,
        x_ends=(_low(ratio.value, ratio.low), ratio.high),
        colour=colour,
        note=f"{name}: {units.multiple_text(ratio.value, ratio.low, ratio.high)}",
        shape=shape,
        filled=excludes(ratio, 1.0) != 0,
    )


def _draw_curves(part: PartAnalysis) -> Figure | None:
    """Draw joules per token over input and output, and joules over the same; None without a fit.

    The solid line is the fit with the band of a single turn, the dashed one leaves out the terms of
    the context; lengths beyond the measured ones are shaded.
    """
    fitted = [one for one in part.curves if one.prefill is not None and one.decode is not None]
    if not fitted:
        return None
    estimate = _estimate(
        units.ESTIMATE if any(one.kind == units.ESTIMATE for one in fitted) else None
    )
    longest_in = min(max(mean.computed for mean in one.means) for one in fitted)
    longest_out = min(max(mean.output for mean in one.means) for one in fitted)
    per_token = f"J per output token{estimate}"
    figure = Figure(5.6, 10.0, rows=4)
    named: list[tuple[str, str, str, Callable[[ModelCurve], _Series]]] = [
        (f"per token, outputs of {longest_out:,} tokens", per_token, "input tokens",
         lambda curve: _per_token(curve, "computed", longest_out)),
        (f"per token, prompts of {longest_in:,} tokens", per_token, "output tokens",
         lambda curve: _per_token(curve, "output", longest_in)),
        ("prompt (prefill)", f"J{estimate}", "input tokens", _prefill),
        (f"answer (decode), prompts of {longest_in:,} tokens", f"J{estimate}", "output tokens",
         lambda curve: _decode(curve, longest_in)),
    ]  # fmt: skip
    for panel, (title, y_label, x_label, series_of) in zip(figure.panels, named, strict=True):
        series = [series_of(curve) for curve in fitted]
        for curve, one in zip(fitted, series, strict=True):
            one.draw(panel, _colour(part.paired.layout, curve.role), curve.role)
        panel.log("x")
        if y_label != per_token:
            panel.log("y", many=True)
        left, right = panel.axes.get_xlim()
        end = max(one.measured_to for one in series)
        if right > end:
            panel.span(end, right, SOFT, "beyond the measured lengths")
            panel.axes.set_xlim(left, right)
        panel.name_axes(x_label, y_label, title)
    figure.panels[0].legend(loc="best")
    return figure


class _Series:
    """One model in a panel: its means, its fitted curve, and the linear part alone."""

    def __init__(
        self,
        curve: ModelCurve,
        axis: str,
        means: Sequence[LengthMean],
        read: Callable[[LengthMean], _Mean],
        predict: Callable[[float, bool], float],
        scatter: Callable[[float], float],
    ) -> None:
        lengths = sorted(getattr(mean, axis) for mean in curve.means)
        low, high = float(lengths[0]), float(max(lengths[-1], *CONTEXTS))
        self.measured_to = float(lengths[-1])
        self.xs = [low * (high / low) ** (step / _STEPS) for step in range(_STEPS + 1)]
        self.line = [predict(x, True) for x in self.xs]
        self.linear = [predict(x, False) for x in self.xs]
        self.widths = [scatter(x) for x in self.xs]
        self.points = [(float(getattr(mean, axis)), *read(mean)) for mean in means]

    def draw(self, panel: Panel, colour: str, role: str) -> None:
        low = [max(y - w, 1e-9) for y, w in zip(self.line, self.widths, strict=True)]
        high = [y + w for y, w in zip(self.line, self.widths, strict=True)]
        panel.band(self.xs, low, high, colour)
        panel.line(self.xs, self.line, colour, label=role)
        panel.line(self.xs, self.linear, colour, dashed=True, note="linear part alone")
        panel.points(
            [
                Point(x, value, y_ends=(low, high), colour=colour, size=3)
                for x, value, low, high in self.points
            ]
        )


def _per_token(curve: ModelCurve, axis: str, fixed: int) -> _Series:
    def turn(x: float) -> tuple[float, float]:
        return (x, fixed) if axis == "computed" else (fixed, x)

    def read(mean: LengthMean) -> _Mean:
        low, high = (None if end is None else end / mean.output for end in mean.total[1:])
        return mean.total[0] / mean.output, low, high

    def predict(x: float, bend: bool) -> float:
        joules = curve.joules(*turn(x), bend=bend)
        assert joules is not None
        return joules / turn(x)[1]

    def scatter(x: float) -> float:
        computed, output = turn(x)
        assert curve.prefill is not None
        assert curve.decode is not None
        prefill = curve.prefill.joules(0, computed)
        decode = curve.decode.joules(computed, output - 1)
        widths = curve.prefill.half_width(prefill), curve.decode.half_width(decode)
        return math.hypot(*widths) / output

    other = "output" if axis == "computed" else "computed"
    means = [mean for mean in curve.means if getattr(mean, other) == fixed]
    return _Series(curve, axis, means, read, predict, scatter)


def _prefill(curve: ModelCurve) -> _Series:
    phase = curve.prefill
    assert phase is not None
    longest = max(mean.output for mean in curve.means)
    return _Series(
        curve,
        "computed",
        [mean for mean in curve.means if mean.output == longest],
        lambda mean: mean.prefill,
        lambda x, bend: predict_phase(phase, 0, x, bend=bend),
        lambda x: phase.half_width(phase.joules(0, x)),
    )


def _decode(curve: ModelCurve, prompt: int) -> _Series:
    phase = curve.decode
    assert phase is not None
    return _Series(
        curve,
        "output",
        [mean for mean in curve.means if mean.computed == prompt],
        lambda mean: mean.decode,
        lambda x, bend: predict_phase(phase, prompt, x - 1, bend=bend),
        lambda x: phase.half_width(phase.joules(prompt, x - 1)),
    )

"""What the charts show, as plain values: the page and the figures for papers draw the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etui import units
from etui.bench.cost import Figure
from etui.design.analysis.analysis import PartAnalysis
from etui.design.analysis.band_verdict import name_band
from etui.design.analysis.bands import Bands
from etui.design.analysis.intervals import excludes
from etui.design.analysis.routing import BY_SUBJECT, FRUGAL
from etui.design.analysis.strategies import Layout, Strategy
from etui.stats.tests import SIGNIFICANCE, Interval

Shape = Literal["direct", "cot", "vote"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True, slots=True)
class PlaneDot:
    """An arm on the plane of joules and accuracy, with the ends of both intervals.

    Attributes:
        joules, accuracy: Value, lower and upper end.
    """

    label: str
    role: str  # Role of its model; empty for a router
    colour: int  # Number of the colour of its model
    shape: Shape
    joules: tuple[float, float, float]
    accuracy: tuple[float, float, float]
    on_hull: bool  # Whether it is a corner of the line of mixtures


@dataclass(frozen=True, slots=True)
class Plane:
    """The plane of joules and accuracy."""

    dots: tuple[PlaneDot, ...]
    hull: tuple[int, ...]
    """Labels of the corners of the line of mixtures, cheapest first, as positions in dots."""
    routers: tuple[tuple[str, float, float], ...]
    """Name, joules and accuracy of what a router would have reached."""
    chance: float  # Accuracy of guessing
    estimate: bool  # Whether the joules are estimates


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value with its interval; an open end is None."""

    value: float
    low: float | None
    high: float | None
    claimed: bool | None
    """Whether it differs from the neutral value after correction; None if that was not asked."""
    text: str  # The figure in words


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A row of a forest plot: a label and one figure for each panel; None where there is none."""

    label: str
    colour: int
    shape: Shape
    figures: tuple[Whisker | None, ...]


@dataclass(frozen=True, slots=True)
class ForestPanel:
    """A panel of a forest plot."""

    title: str  # What is shown, with its unit
    scale: Scale  # Linear or logarithmic
    neutral: float | None  # Value of no difference; None if there is none


@dataclass(frozen=True, slots=True)
class Forest:
    """A forest plot; ``groups`` are heading and rows."""

    panels: tuple[ForestPanel, ...]
    groups: tuple[tuple[str, tuple[ForestRow, ...]], ...]

    @property
    def rows(self) -> tuple[ForestRow, ...]:
        """All rows."""
        return tuple(row for _, rows in self.groups for row in rows)


def get_colour(layout: Layout, role: str) -> int:
    """Return the number of the colour of a role."""
    return list(layout.roles).index(role) % 8


def get_shape(strategy: Strategy) -> Shape:
    """Return the shape of a strategy's mark."""
    return {"cot": "cot", "vote": "vote"}.get(strategy.reasoning, "direct")  # type: ignore[return-value]


def build_plane(part: PartAnalysis, chance: float) -> Plane | None:
    """Build the plane; None if an arm is unmeasured or costs nothing."""
    layout = part.paired.layout
    dots = []
    for one in part.arms:
        if one.energy is None or one.energy.per_question.value <= 0:
            return None
        accuracy = one.accuracy
        low = accuracy.value if accuracy.low is None else accuracy.low
        high = accuracy.value if accuracy.high is None else accuracy.high
        dots.append(
            PlaneDot(
                one.strategy.way,
                one.strategy.role,
                get_colour(layout, one.strategy.role),
                get_shape(one.strategy),
                _ends(one.energy.per_question),
                (accuracy.value, low, high),
                one.on_hull,
            )
        )
    if not dots:
        return None
    corners = sorted(
        (at for at, dot in enumerate(dots) if dot.on_hull), key=lambda at: dots[at].joules
    )
    shown = {FRUGAL: "frugal oracle", BY_SUBJECT: "router by subject"}
    routers = tuple(
        (shown[one.name], one.joules_per_question, one.accuracy)
        for one in part.replay.routed
        if one.name in shown
    )
    return Plane(tuple(dots), tuple(corners), routers, chance, part.kind == units.ESTIMATE)


def _ends(figure: Figure) -> tuple[float, float, float]:
    """Return value and ends; an unknown end is the value, and the lower one stays above 0."""
    low = figure.value if figure.low is None else max(figure.low, figure.value / 20)
    return figure.value, low, figure.value if figure.high is None else figure.high


def build_per_correct(part: PartAnalysis) -> Forest | None:
    """Build the joules per right answer of every arm; None if no arm has any."""
    layout = part.paired.layout
    kind = part.kind if part.kind == units.ESTIMATE else None
    groups = []
    for role in layout.roles:
        rows = []
        for one in part.arms:
            figure = one.energy.per_correct if one.energy is not None else None
            if one.strategy.role != role or figure is None or figure.value <= 0:
                continue
            low = None if figure.low is None else max(figure.low, figure.value / 20)
            whisker = Whisker(
                figure.value, low, figure.high, None,
                units.energy_text(figure.value, None, kind),
            )  # fmt: skip
            rows.append(
                ForestRow(
                    one.strategy.way, get_colour(layout, role), get_shape(one.strategy), (whisker,)
                )
            )
        if rows:
            groups.append((role, tuple(rows)))
    if not groups:
        return None
    mark = f" ({kind})" if kind else ""
    panel = ForestPanel(f"joules per right answer{mark}", "log", None)
    return Forest((panel,), tuple(groups))


def build_multiples(part: PartAnalysis, against: str) -> Forest | None:
    """Build joules and accuracy of every arm against a direct answer; None if there are none."""
    layout = part.paired.layout
    chosen = [one for one in part.multiples if one.against == against]
    if not chosen:
        return None
    has_joules = any(one.joules is not None for one in chosen)
    groups = []
    for role in layout.roles:
        inside = [one for one in chosen if one.strategy.role == role]
        rows = tuple(
            ForestRow(
                one.strategy.way,
                get_colour(layout, role),
                get_shape(one.strategy),
                (
                    *([_ratio(one.joules)] if has_joules else []),
                    _points(one.difference, one.p_holm),
                ),
            )
            for one in inside
        )
        if rows:
            groups.append((f"{role} against {inside[0].base.label}", rows))
    joules = ForestPanel("times the joules", "log", 1.0)
    accuracy = ForestPanel("accuracy, points", "linear", 0.0)
    return Forest((joules, accuracy) if has_joules else (accuracy,), tuple(groups))


def build_bands(part: PartAnalysis, bands: Bands) -> Forest | None:
    """Build thinking minus direct by subject or group; None without any."""
    layout = part.paired.layout
    groups = []
    for role in layout.roles:
        rows = tuple(
            ForestRow(
                f"{name_band(one.band)} ({one.questions:,})",
                get_colour(layout, role),
                "direct",
                (_points(one.difference, None),),
            )
            for one in bands.pooled
            if one.role == role
        )
        if rows:
            groups.append((role, rows))
    if not groups:
        return None
    return Forest((ForestPanel("thinking minus direct, points", "linear", 0.0),), tuple(groups))


def _ratio(figure: Interval | None) -> Whisker | None:
    if figure is None or figure.value <= 0:
        return None
    low = None if figure.low is None else max(figure.low, figure.value / 20)
    text = units.multiple_text(figure.value, figure.low, figure.high)
    return Whisker(figure.value, low, figure.high, excludes(figure, 1.0) != 0, text)


def _points(figure: Interval, p: float | None) -> Whisker:
    low, high = (None if end is None else 100 * end for end in (figure.low, figure.high))
    claimed = excludes(figure, 0.0) != 0 and p is not None and p < SIGNIFICANCE
    text = units.points_change_text(100 * figure.value, low, high)
    return Whisker(100 * figure.value, low, high, None if p is None else claimed, text)

"""Write the report of a design run: a page, Markdown, tables, and figures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from etui import __version__, units
from etui.atomic import write_text
from etui.bench.config import RunConfig
from etui.bench.folder import read_run
from etui.codec import DocumentError
from etui.curves.operating_curve import PhaseCurve
from etui.design._paired import Layout, Strategy
from etui.design._tables import (
    Table,
    csv_files,
    tabulate_arms,
    tabulate_curves,
    tabulate_multiples,
    tabulate_readouts,
)
from etui.design.analysis import CONTEXTS, DesignAnalysis, ModelCurve, analyse_kinds, predict_phase
from etui.design.curve_visits import read_curve_points
from etui.design.load import design_of_run
from etui.errors import InvalidFile, writing
from etui.measure.page import render_template, render_text
from etui.plots.figure import ARM_COLOURS, SOFT, Figure, Panel, Point
from etui.text import format_markdown_table, one_line, sanitize

PAGE = "report.html"
FIGURES = "figures"


def write_design_report(folder: Path, to: Path, *, figures: bool = True) -> list[Path]:
    """Write the report of a design run, finished or not; equal runs give equal files.

    ``to``: folder of the report, which is created; may be the run folder. ``figures``: whether to
    write the figures for papers, in ``to/figures``. Returns the files in the order of writing.

    Raises:
        UsageError: The folder is not a run folder.
        InvalidFile: A file of the run is unreadable or invalid.
        EtuiError: The report cannot be written.
    """
    recorded = read_run(folder)
    config = recorded.config
    roles, title = _read_design(config)
    runs = analyse_kinds(
        config, recorded.samples, lambda keys: read_curve_points(recorded.folder, keys), roles
    )
    chance = 0.25 if config.chance is None else config.chance
    drawn = [draw_figures(run, chance) for run in runs]
    written: list[Path] = []
    saved: list[Path] = []
    with writing("the report", "choose a writable folder", folder=to):
        to.mkdir(parents=True, exist_ok=True)
        if figures:
            (to / FIGURES).mkdir(exist_ok=True)
            saved = [
                path
                for number, part in enumerate(drawn)
                for name, figure in part.items()
                for path in figure.save(to / FIGURES / f"{name}{_number(number)}")
            ]
        values = _build_values(runs, drawn, title)
        # Neither has the texts of questions.
        texts = {
            PAGE: render_template("etui.design", style="design.css", **values),
            "report.md": _render_markdown(values, [path.name for path in saved]),
            **csv_files(runs),
        }
        for name, text in texts.items():
            write_text(to / name, text, errors="surrogatepass")
            written.append(to / name)
    return [*written, *saved]


def _read_design(config: RunConfig) -> tuple[Mapping[str, str] | None, str]:
    """Return the roles and the title; a design of another etui still has its arms' models."""
    if config.design is None:
        return None, config.run_id
    try:
        design = design_of_run(config)
    except (InvalidFile, DocumentError):
        return None, config.design.name
    return design.models, design.title


_ALT = {
    "accuracy_joules": "Accuracy against joules per question",
    "operating_curves": "Joules per token and joules over lengths",
}


def _number(part: int) -> str:
    """Return the end of the names of the figures of a part: ``_2`` for the second."""
    return f"_{part + 1}" if part else ""


def _build_values(
    runs: Sequence[DesignAnalysis], drawn: Sequence[Mapping[str, Figure]], title: str
) -> dict[str, Any]:
    main = runs[0]
    config, layout = main.config, main.layout
    colours = {role: f"arm-{get_colour(layout, role)}" for role in layout.roles}
    arms = len(layout.strategies)
    return {
        "title": title,
        "design": config.design.name if config.design is not None else "",
        "started": config.started_at[:10],
        "run_id": config.run_id,
        "questions": units.count_text(len(main.paired), "question"),
        "planned": f"{config.questions:,}",
        "suite": f"{config.suite}, {config.split} split",
        "answered_by": f"answered by all {arms:,} arms" if arms > 1 else "answered by its arm",
        "models": [(colours[role], role, model) for role, model in layout.roles.items()],
        "is_complete": main.is_complete,
        "parts": [
            _build_part(run, figures, _number(number))
            for number, (run, figures) in enumerate(zip(runs, drawn, strict=True))
        ],
        "limits": main.limits,
    }


def _build_part(
    analysis: DesignAnalysis, drawn: Mapping[str, Figure], suffix: str
) -> dict[str, Any]:
    return {
        "machine": sanitize(analysis.machine),
        "suffix": suffix,
        "headline": analysis.headline,
        "statements": [one.text for one in analysis.statements],
        "arms": tabulate_arms(analysis) if analysis.arms else None,
        "charts": {name: figure.svg(_ALT[name]) for name, figure in drawn.items()},
        "readouts": tabulate_readouts(analysis),
        "multiples": tabulate_multiples(analysis),
        "curve_errors": [(one.model, one.error) for one in analysis.curves if one.error],
        "curve_table": tabulate_curves(analysis),
    }


def _render_markdown(values: Mapping[str, Any], drawn: Collection[str]) -> str:
    """Render the report; ``drawn`` are the names of figures in the folder ``figures``."""
    text = render_text(
        "etui.design",
        "report.md",
        version=__version__,
        drawn=drawn,
        plain=_escape,
        table=_format_table,
        **values,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _format_table(table: Table) -> str:
    rows = [[_escape(cell) for cell in row] for row in table.rows]
    return format_markdown_table(rows, header=[_escape(cell) for cell in table.header], align="<>")


def _escape(text: str) -> str:
    """Put a text on one line that neither ends a cell nor begins HTML or a link."""
    safe = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return safe.replace("[", "\\[").replace("_", "\\_")


_SHAPES = {"direct": "o", "cot": "s", "vote": "^"}
_WAYS = {"direct": "direct", "cot": "chain of thought", "vote": "vote"}
_STEPS = 60
_LEAST = 20
"""A lower end below the value over this is drawn there: a logarithmic axis has no 0."""


def draw_figures(run: DesignAnalysis, chance: float) -> dict[str, Figure]:
    """Draw every figure for which a run has data; ``chance`` is the share right by guessing."""
    figures = {
        "accuracy_joules": _draw_plane(run, chance),
        "operating_curves": _draw_curves(run),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def get_colour(layout: Layout, role: str) -> int:
    """Return the number of the colour of a role."""
    return list(layout.roles).index(role) % len(ARM_COLOURS)


def _colour(layout: Layout, role: str) -> str:
    return ARM_COLOURS[get_colour(layout, role)]


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


def _draw_plane(run: DesignAnalysis, chance: float) -> Figure | None:
    """Draw accuracy over joules; None if an arm is unmeasured or costs nothing."""
    layout = run.paired.layout
    points = []
    for one in run.arms:
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
                f"{units.energy_text(cost.value, None, run.kind)}",
                shape=_SHAPES.get(one.strategy.reasoning, "o"),
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
        (point.x, point.y) for point, one in zip(points, run.arms, strict=True) if one.on_hull
    )
    if len(corners) > 1:
        panel.mix(corners)
    panel.guide(y=100 * chance, text="guessing")
    panel.name_axes(f"joules per question{_estimate(run.kind)}", "accuracy, %")
    _add_keys(panel, layout, [one.strategy for one in run.arms])
    return figure


def _draw_curves(run: DesignAnalysis) -> Figure | None:
    """Draw joules per token over input and output, and joules over the same; None without a fit.

    The solid line is the fit with the band of a single turn, the dashed one leaves out the terms of
    the context; lengths beyond the measured ones are shaded.
    """
    fitted = [one for one in run.curves if one.prefill is not None and one.decode is not None]
    if not fitted:
        return None
    estimate = _estimate(
        units.ESTIMATE if any(one.kind == units.ESTIMATE for one in fitted) else None
    )
    longest_in = min(max(mean.computed for mean in one.means) for one in fitted)
    longest_out = min(max(mean.output for mean in one.means) for one in fitted)
    per_token = f"J per output token{estimate}"
    figure = Figure(5.6, 10.0, rows=4)
    named: list[tuple[str, str, str, _Part, int | None]] = [
        (f"per token, outputs of {longest_out:,} tokens", per_token, "input tokens", "total",
         longest_out),
        (f"per token, prompts of {longest_in:,} tokens", per_token, "output tokens", "total",
         longest_in),
        ("prompt (prefill)", f"J{estimate}", "input tokens", "prefill", None),
        (f"answer (decode), prompts of {longest_in:,} tokens", f"J{estimate}", "output tokens",
         "decode", longest_in),
    ]  # fmt: skip
    for panel, (title, y_label, x_label, part_, fixed) in zip(figure.panels, named, strict=True):
        axis: _Axis = "computed" if x_label == "input tokens" else "output"
        ends = [
            _draw_series(panel, curve, part_, axis, fixed, _colour(run.paired.layout, curve.role))
            for curve in fitted
        ]
        panel.log("x")
        if y_label != per_token:
            panel.log("y", many=True)
        left, right = panel.axes.get_xlim()
        if right > max(ends):
            panel.span(max(ends), right, SOFT, "beyond the measured lengths")
            panel.axes.set_xlim(left, right)
        panel.name_axes(x_label, y_label, title)
    figure.panels[0].legend(loc="best")
    return figure


_Axis = Literal["computed", "output"]
_Part = Literal["prefill", "decode", "total"]
"""Joules of a phase, or of both per output token."""


def _draw_series(
    panel: Panel, curve: ModelCurve, part: _Part, axis: _Axis, fixed: int | None, colour: str
) -> float:
    """Draw the means of a model, its fitted curve and the linear part; return the last length.

    ``fixed`` is the length that is not on the axis; None is the longest that was measured.
    """
    prefill, decode = curve.prefill, curve.decode
    assert prefill is not None
    assert decode is not None
    other = "output" if axis == "computed" else "computed"
    kept = max(getattr(mean, other) for mean in curve.means) if fixed is None else fixed

    def combine(x: float, read: Callable[[PhaseCurve, float, float], float]) -> tuple[float, ...]:
        """Read the parts of a turn: prefill and decode, or one of them."""
        computed, output = (x, kept) if axis == "computed" else (kept, x)
        found = read(prefill, 0, computed), read(decode, computed, output - 1)
        return {"prefill": found[:1], "decode": found[1:], "total": found}[part]

    def divide(x: float) -> float:
        return 1.0 if part != "total" else x if axis == "output" else float(kept)

    def predict(x: float, bend: bool) -> float:
        joules = combine(x, lambda *at: predict_phase(*at, bend=bend))
        return math.fsum(joules) / divide(x)

    def scatter(x: float) -> float:
        widths = combine(x, lambda phase, *at: phase.half_width(phase.joules(*at)))
        return math.hypot(*widths) / divide(x)

    lengths = sorted(float(getattr(mean, axis)) for mean in curve.means)
    low, high = lengths[0], max(lengths[-1], *CONTEXTS)
    xs = [low * (high / low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    line, widths = [predict(x, True) for x in xs], [scatter(x) for x in xs]
    least = [max(y - w, 1e-9) for y, w in zip(line, widths, strict=True)]
    panel.band(xs, least, [y + w for y, w in zip(line, widths, strict=True)], colour)
    panel.line(xs, line, colour, label=curve.role)
    linear = [predict(x, False) for x in xs]
    panel.line(xs, linear, colour, dashed=True, note="linear part alone")
    points = []
    for mean in curve.means:
        if getattr(mean, other) == kept:
            x = float(getattr(mean, axis))
            value, *ends = getattr(mean, part)
            bottom, top = (None if end is None else end / divide(x) for end in ends)
            points.append(Point(x, value / divide(x), y_ends=(bottom, top), colour=colour, size=3))
    panel.points(points)
    return lengths[-1]

"""Figures of a run: the same ones on its page, and as SVG and PDF for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etui import units
from etui.bench.config import RunConfig
from etui.bench.sample import Sample
from etui.bench.summary import Summary, drop_unpooled, summarise
from etui.bench.summary_text import ends, interval_text, joules_text, protocol
from etui.plots.figure import ARM_COLOURS, DECODE, PREFILL, SOFT, Figure, Point
from etui.text import sanitize

_LOG_FROM = 8.0
"""Ratio of the most expensive to the cheapest arm above which the joules axis is logarithmic."""
_MOST_STEPS = 160
_FEWEST_STEPS = 12


def write_figures(folder: Path, run: RunConfig, samples: Sequence[Sample]) -> list[Path]:
    """Write every figure for which the run has data.

    The figures are ``accuracy_joules`` (arms with both intervals, and the hull), ``subjects``
    (accuracy of each subject) and ``phases`` (joules per question in prefill and decode). OSError
    if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(samples, run)
    drawn = {
        "accuracy_joules": draw_accuracy_joules(summary),
        "subjects": draw_subjects(summary),
        "phases": draw_phases(summary),
    }
    return [
        path
        for name, figure in drawn.items()
        if figure is not None
        for path in figure.save(folder / name)
    ]


def draw_accuracy_joules(summary: Summary) -> Figure | None:
    """Draw accuracy against joules per question; None if an arm is unmeasured."""
    costs = {name: arm.energy for name, arm in summary.arms.items() if arm.energy is not None}
    if not costs or len(costs) < len(summary.arms):
        return None
    figure = Figure(4.6, 3.2)
    (panel,) = figure.panels
    points = {}
    for at, (name, cost) in enumerate(costs.items()):
        micro, joules = summary.arms[name].accuracy.micro, cost.per_question
        low, high = ends(micro)
        points[name] = Point(
            joules.value,
            100 * micro.value,
            x_ends=(joules.low, joules.high),
            y_ends=(100 * low, 100 * high),
            colour=ARM_COLOURS[at % len(ARM_COLOURS)],
            label=sanitize(name),
            angle=292 if name in summary.hull[:-1] else 45,
            note=f"{sanitize(name)}: {units.accuracy_text(micro.value)} ({interval_text(micro)}), "
            f"{units.marked(joules_text(joules, cost.kind))} per question",
        )
    shown = list(points.values())
    best = summary.oracle
    if best is not None and best.joules_per_question is not None:
        x, y = best.joules_per_question, 100 * best.accuracy
        note = "the cheapest correct arm for each question"
        shown.append(Point(x, y, colour=SOFT, label="oracle", shape="D", filled=False, note=note))
    widths = [point.x for point in shown]
    if min(widths) > 0 and max(widths) > _LOG_FROM * min(widths):
        panel.log()
    if len(summary.hull) > 1:
        panel.mix([(points[name].x, points[name].y) for name in summary.hull])
    if summary.chance:
        panel.guide(y=100 * summary.chance, text="chance")
    panel.points(shown)
    panel.name_axes(
        f"joules per question{_mark(summary)}", "accuracy, %", sanitize(protocol(summary))
    )
    panel.axes.margins(x=0.12)
    return figure


def draw_subjects(summary: Summary) -> Figure | None:
    """Draw the accuracy of each subject; None with fewer than two."""
    arms = summary.arms
    names = sorted({name for arm in arms.values() for name in arm.accuracy.subjects})
    if len(names) < 2:
        return None
    first = next(iter(arms.values())).accuracy.subjects
    names.sort(key=lambda name: -first[name].accuracy if name in first else 1)
    figure = Figure(5.2, 0.9 + 0.145 * len(names))
    (panel,) = figure.panels
    for at, (arm, found) in enumerate(arms.items()):
        colour = ARM_COLOURS[at % len(ARM_COLOURS)]
        shares = [(row, found.accuracy.subjects.get(name)) for row, name in enumerate(names)]
        points = [
            Point(
                100 * share.accuracy,
                row,
                x_ends=(100 * share.low, 100 * share.high) if at == 0 else (None, None),
                colour=colour,
                size=3.2,
            )
            for row, share in shares
            if share is not None
        ]
        panel.points(points, sanitize(arm))
    panel.name_rows([sanitize(name).replace("_", " ") for name in names], 6.5)
    panel.axes.set_xlim(-2, 102)
    if summary.chance:
        panel.guide(x=100 * summary.chance)
    panel.name_axes("accuracy, % (intervals at 95 % of the first arm)", "")
    if len(arms) > 1:
        panel.legend(loc="lower right", fontsize=7.5)
    return figure


def draw_phases(summary: Summary) -> Figure | None:
    """Draw joules per question in prefill and decode; None if a phase of an arm is unknown."""
    costs = {name: arm.energy for name, arm in summary.arms.items() if arm.energy is not None}
    if len(costs) < len(summary.arms) or any(one.prefill_joules is None for one in costs.values()):
        return None
    figure = Figure(4.6, 0.9 + 0.34 * len(costs))
    (panel,) = figure.panels
    parts = {
        "prefill": [(one.prefill_joules or 0.0) / one.questions for one in costs.values()],
        "decode": [(one.decode_joules or 0.0) / one.questions for one in costs.values()],
    }
    panel.bars([sanitize(name) for name in costs], parts, (PREFILL, DECODE))
    panel.name_axes(f"joules per question{_mark(summary)}", "")
    panel.legend()
    return figure


@dataclass(frozen=True, slots=True)
class PowerStep:
    """Mean power in watts over a part of an arm's working time, in seconds from its start."""

    start: float
    end: float
    watts: float


def compute_power_steps(samples: Sequence[Sample], shortest: float) -> list[PowerStep]:
    """Compute the power of samples in the order they were answered; short neighbours are merged.

    A step's watts are its joules over its seconds, so that the steps contain all measured energy.
    An unmeasured sample takes time and leaves a gap. A step has at least ``shortest`` seconds,
    unless it is before a gap or at the end.
    """
    steps: list[PowerStep] = []
    start = now = joules = 0.0
    for sample in samples:
        gap = sample.joules is None
        if not gap:
            now += sample.seconds
            joules += sample.joules or 0.0
        if now > start and (gap or now - start >= shortest):
            steps.append(PowerStep(start, now, joules / (now - start)))
            start, joules = now, 0.0
        if gap:
            now += sample.seconds
            start, joules = now, 0.0
    if now > start:
        steps.append(PowerStep(start, now, joules / (now - start)))
    return steps


def draw_power(summary: Summary, run: RunConfig, samples: Sequence[Sample]) -> Figure | None:
    """Draw the watts of each arm over its own working time; None if nothing was measured.

    The steps of all arms are of equal length, but at least about twelve for each arm.
    """
    series: dict[str, list[Sample]] = {name: [] for name in summary.arms}
    for sample in drop_unpooled(samples, run):
        series[run.contender(sample.arm)].append(sample)
    totals = {name: sum(sample.seconds for sample in inside) for name, inside in series.items()}
    common = max(totals.values(), default=0.0) / _MOST_STEPS
    steps = {
        name: compute_power_steps(inside, min(common, totals[name] / _FEWEST_STEPS))
        for name, inside in series.items()
    }
    if not any(steps.values()):
        return None
    unit, scale = ("minutes", 60.0) if max(totals.values()) > 240 else ("seconds", 1.0)
    figure = Figure(7.2, 2.6)
    (panel,) = figure.panels
    for at, (name, inside) in enumerate(steps.items()):
        xs, ys = _build_line(inside, scale)
        shown = sanitize(name)
        panel.line(xs, ys, ARM_COLOURS[at % len(ARM_COLOURS)], label=shown, note=shown, steps=True)
    suffix = ", watts are estimates" if units.ESTIMATE in summary.kinds else ""
    panel.name_axes(f"{unit} of each arm's working time{suffix}", "watts")
    panel.axes.set_ylim(bottom=0)
    if len(steps) > 1:
        panel.legend()
    return figure


def _build_line(steps: Sequence[PowerStep], scale: float) -> tuple[list[float], list[float]]:
    """Return times and watts of a line of steps, with a NaN in each gap."""
    xs: list[float] = []
    ys: list[float] = []
    for step in steps:
        if xs and step.start / scale > xs[-1]:
            ys[-1] = float("nan")
        elif xs:
            xs.pop()
            ys.pop()
        xs += [step.start / scale, step.end / scale]
        ys += [step.watts, step.watts]
    return xs, ys


def _mark(summary: Summary) -> str:
    return " (estimate)" if units.ESTIMATE in summary.kinds else ""

"""Chart of watts over time: each arm's power during its own working time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from etui import units
from etui.bench.report import svg
from etui.bench.report.layout import Size
from etui.bench.report.svg import Axis
from etui.bench.sample import Sample

WIDE = Size(960, 300, right=120)
NARROW = Size(400, 260, left=46, right=14, class_="narrow")

_MOST_STEPS = 160
_FEWEST_STEPS = 12


@dataclass(frozen=True, slots=True)
class PowerStep:
    """Mean power in watts over a part of an arm's working time, in seconds from its start."""

    start: float
    end: float
    watts: float


def compute_power_steps(samples: Sequence[Sample], shortest: float) -> list[PowerStep]:
    """Compute the power of samples in the order they were answered; short neighbours are merged.

    A step's watts are its joules over its seconds, so that the steps contain all measured energy.
    An unmeasured sample takes time and leaves a gap.

    Args:
        samples: Samples of one arm, in order.
        shortest: Minimum length of a step in seconds; steps before a gap or at the end may be
            shorter.
    """
    steps: list[PowerStep] = []
    start = now = joules = 0.0
    for sample in samples:
        if sample.joules is None:
            if now > start:
                steps.append(PowerStep(start, now, joules / (now - start)))
            now += sample.seconds
            start, joules = now, 0.0
            continue
        now += sample.seconds
        joules += sample.joules
        if now - start >= shortest and now > start:
            steps.append(PowerStep(start, now, joules / (now - start)))
            start, joules = now, 0.0
    if now > start:
        steps.append(PowerStep(start, now, joules / (now - start)))
    return steps


def compute_all_steps(series: Mapping[str, Sequence[Sample]]) -> dict[str, list[PowerStep]]:
    """Compute the steps of every arm: of equal length, but at least about twelve per arm."""
    totals = {name: sum(sample.seconds for sample in inside) for name, inside in series.items()}
    common = max(totals.values(), default=0.0) / _MOST_STEPS
    return {
        name: compute_power_steps(inside, min(common, totals[name] / _FEWEST_STEPS))
        for name, inside in series.items()
    }


def draw_power_chart(
    series: Mapping[str, Sequence[PowerStep]], size: Size, estimate: bool
) -> Markup | None:
    """Draw one line per arm over its own working time; None if nothing was measured.

    Args:
        series: Arm -> its steps; the position of an arm gives its colour.
    """
    steps = [step for inside in series.values() for step in inside]
    if not steps:
        return None
    seconds, watts = max(step.end for step in steps), max(step.watts for step in steps)
    unit, scale = ("minutes", 60.0) if seconds > 240 else ("seconds", 1.0)
    x = Axis(0.0, seconds / scale, size.left, size.width - size.right)
    y = Axis(0.0, watts * 1.12 or 1.0, size.height - size.bottom, size.top)
    tick_counts = (8, 4) if size.class_ == "wide" else (4, 4)
    parts = svg.frame(x, y, lambda v: f"{v:g}", lambda v: f"{v:g} W", tick_counts)
    middle = (size.left + size.width - size.right) / 2
    suffix = ", watts are estimates" if estimate else ""
    title = f"{unit} of each arm's working time{suffix}"
    parts.append(svg.label(middle, size.height - 10, title, "title", "middle"))
    ends: list[tuple[float, float, str, int]] = []
    for colour, (name, inside) in enumerate(series.items()):
        parts += [
            svg.group(f"arm-{colour % 8}", [svg.path(line, "power")], name)
            for line in _lines(inside, x, y, scale)
        ]
        if inside:
            last = inside[-1]
            ends.append((x.at(last.end / scale), y.at(last.watts), name, colour % 8))
    if size.class_ == "wide":
        parts += _names(ends, size)
    name = "Watts over time: " + ", ".join(
        f"{arm} {units.watts_text(inside[-1].watts)} at the end"
        for arm, inside in series.items()
        if inside
    )
    return svg.drawing(size.width, size.height, parts, name, size.class_)


def _lines(
    steps: Sequence[PowerStep], x: Axis, y: Axis, scale: float
) -> list[list[tuple[float, float]]]:
    """Return step lines, one for each part without a gap."""
    lines: list[list[tuple[float, float]]] = []
    before: PowerStep | None = None
    for step in steps:
        if before is None or step.start - before.end > 1e-9:
            lines.append([])
        at = y.at(step.watts)
        lines[-1] += [(x.at(step.start / scale), at), (x.at(step.end / scale), at)]
        before = step
    return lines


def _names(ends: Sequence[tuple[float, float, str, int]], size: Size) -> list[Markup]:
    """Draw the names at the ends of the lines, moved apart if they would overlap."""
    parts = []
    taken: list[tuple[float, float]] = []
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        at = y + 4
        for other_x, other in sorted(taken, key=lambda end: end[1]):
            if abs(at - other) < 16 and abs(x - other_x) < 140:
                at = other + 16
        taken.append((x, at))
        fits = x + 8 + len(name) * svg.CHARACTER_WIDTH < size.width
        parts.append(
            svg.label(x + 8, at, name, f"name arm-{colour}")
            if fits
            else svg.label(x, at - 16, name, f"name arm-{colour}", "end")
        )
    return parts

"""Charts of differences in per cent: effects of the axes, and the baseline against itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from etui import units
from etui.bench.report import svg
from etui.bench.report.layout import Size
from etui.bench.report.svg import Axis
from etui.sweep.blocks import Block, Visit
from etui.sweep.report.cells import difference_text
from etui.sweep.report.sentences import name_effect
from etui.sweep.report.verdict import JOULES, choose_floor, floor_text
from etui.sweep.result import Difference, SweepResult
from etui.text.tables import fit_cells

WIDE = Size(480, 0, left=14, right=14, top=8, bottom=46)
NARROW = Size(354, 0, left=2, right=2, top=8, bottom=46, class_="narrow")

_ROW = 46.0
_LINEAR_PERCENT = 30.0
"""Largest difference up to which per cent are on a linear scale; above it, ratios are."""

_RATIO_TICKS = (-90, -80, -60, -40, -20, -10, 0, 10, 20, 40, 60, 100, 200, 400, 900)
_LEAST_PERCENT = -95.0
_LEAST_GAP = 38.0
"""Least distance of two numbers on the scale."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Differences in per cent on a line; equal ratios are equally far apart on a long one."""

    axis: Axis
    by_ratio: bool

    def at(self, percent: float) -> float:
        return self.axis.at(_bend(percent) if self.by_ratio else percent)

    def ticks(self) -> list[float]:
        if not self.by_ratio:
            return self.axis.ticks(6)
        found: list[float] = []
        # From 0 outwards, so that 0 is always there.
        for percent in sorted(map(float, _RATIO_TICKS), key=abs):
            inside = self.axis.low <= _bend(percent) <= self.axis.high
            if inside and all(abs(self.at(percent) - self.at(o)) >= _LEAST_GAP for o in found):
                found.append(percent)
        return found


def draw_effects(result: SweepResult, what: str, size: Size) -> Markup | None:
    """Draw the effect of each axis on joules or time, with zero and the floor; None without any.

    Args:
        size: Width and margins; the height follows from the number of effects.
    """
    rows: list[tuple[str, Difference]] = []
    for effect in result.effects:
        difference = effect.joules if what == JOULES else effect.seconds
        if difference is not None and math.isfinite(difference.percent):
            rows.append((name_effect(effect), difference))
    if not rows:
        return None
    floor = choose_floor(result.floor, what)
    kind = result.kind if what == JOULES else None
    ends = [end for _, one in rows for end in (one.low, one.percent, one.high) if end is not None]
    scale = _scale(ends, floor, size)
    bottom = size.top + _ROW * len(rows) - 4
    strips = [(size.top + _ROW * at + 22, size.top + _ROW * at + 42) for at in range(len(rows))]
    parts = _background(scale, floor, strips)
    names = []
    for at, (name, one) in enumerate(rows):
        text = difference_text(one)
        y = size.top + _ROW * at
        room = int((size.width - size.left - size.right) / svg.CHARACTER_WIDTH) - len(text) - 2
        parts.append(svg.label(size.left, y + 16, fit_cells(name, max(8, room)), "row-label"))
        parts.append(svg.label(size.width - size.right, y + 16, text, "row-label", "end"))
        parts.append(_whisker(scale, one, y + 32, f"{name}: {text} {what}"))
        names.append(f"{name} {text}")
    parts.append(_title(f"change in {what}{_estimate(kind)}, %", size, bottom))
    label = f"Effect of each axis on {what}: {'; '.join(names)}"
    return svg.drawing(size.width, bottom + size.bottom, parts, label, f"effects {size.class_}")


def draw_equal_pair(
    result: SweepResult, blocks: Sequence[Block], what: str, size: Size
) -> Markup | None:
    """Draw the baseline against itself, one dot a block; None if there is no such block."""
    found = compare_equals(result.baseline, blocks, what)
    if not found:
        return None
    floor = choose_floor(result.floor, what)
    kind = result.kind if what == JOULES else None
    scale = _scale([percent for _, percent in found], floor, size)
    bottom = size.top + 44
    parts = _background(scale, floor, [(size.top, bottom)])
    for at, (number, percent) in enumerate(found):
        y = size.top + 10 + 6 * (at % 5)
        dot = svg.element("circle", cx=scale.at(percent), cy=y, r=4.5, class_="dot")
        title = f"block {number + 1}: {units.change_text(percent)}"
        parts.append(svg.group("role-baseline", [dot], title))
    parts.append(_title(f"difference in {what}{_estimate(kind)}, %", size, bottom))
    label = f"The baseline against itself, difference in {what} by block"
    return svg.drawing(size.width, bottom + size.bottom, parts, label, f"effects {size.class_}")


def compare_equals(baseline: str, blocks: Sequence[Block], what: str) -> list[tuple[int, float]]:
    """Return the block and the difference in per cent of both visits of the baseline."""
    found = []
    for block in blocks:
        both = {visit.copy: visit for visit in block.visits if visit.setting == baseline}
        if 0 not in both or 1 not in both:
            continue
        first, second = (_figure(both[copy], what) for copy in (0, 1))
        if first is not None and second is not None and first > 0:
            found.append((block.number, 100 * (second / first - 1)))
    return found


def _figure(visit: Visit, what: str) -> float | None:
    return visit.joules if what == JOULES else visit.seconds


def _scale(ends: Sequence[float], floor: float | None, size: Size) -> _Scale:
    # A floor far above all differences would make one spot of them: the band fills the figure.
    largest = max(1.0, *(abs(end) for end in ends))
    edge = min(floor or 0.0, 1.5 * largest)
    low = max(_LEAST_PERCENT, min(*ends, -edge, 0.0))
    high = max(*ends, edge, 0.0)
    by_ratio = max(-low, high) > _LINEAR_PERCENT
    if by_ratio:
        low, high = _bend(low), _bend(high)
    room = 0.06 * (high - low) or 1.0
    return _Scale(Axis(low - room, high + room, size.left, size.width - size.right), by_ratio)


def _bend(percent: float) -> float:
    return math.log1p(max(percent, _LEAST_PERCENT) / 100)


def _background(
    scale: _Scale, floor: float | None, strips: Sequence[tuple[float, float]]
) -> list[Markup]:
    """Draw the floor, zero and the grid in each strip, and the numbers below the last."""
    parts = []
    bottom = strips[-1][1]
    if floor:
        left, right = scale.at(-floor), scale.at(floor)
        bands = [
            svg.element(
                "rect", x=left, y=top, width=right - left, height=end - top, class_="floor-band"
            )
            for top, end in strips
        ]
        text = f"detection floor {floor_text(floor)}"
        parts.append(svg.group("floor", bands, text))
    for percent in scale.ticks():
        at = scale.at(percent)
        class_ = "zero" if percent == 0 else "grid"
        parts += [svg.line(at, top, at, end, class_) for top, end in strips]
        sign = "+" if percent > 0 else ""
        parts.append(svg.label(at, bottom + 18, f"{sign}{percent:g}", "tick", "middle"))
    return parts


def _whisker(scale: _Scale, one: Difference, y: float, title: str) -> Markup:
    parts = []
    if one.low is not None and one.high is not None:
        parts.append(svg.line(scale.at(one.low), y, scale.at(one.high), y, "whisker"))
    parts.append(svg.element("circle", cx=scale.at(one.percent), cy=y, r=6, class_="dot"))
    saves = "less" if one.percent < 0 else "more"
    return svg.group(saves if one.is_claimed else "unclaimed", parts, title)


def _title(text: str, size: Size, bottom: float) -> Markup:
    return svg.label(size.width / 2, bottom + 40, text, "title", "middle")


def _estimate(kind: str | None) -> str:
    return f" ({units.ESTIMATE})" if kind == units.ESTIMATE else ""

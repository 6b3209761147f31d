"""Chart of the race: the blocks in which each setting took part, until it was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from etui.bench.report import svg
from etui.bench.report.layout import Size
from etui.bench.report.svg import Axis
from etui.sweep.blocks import Block, Stage
from etui.sweep.report.names import list_varied_axes
from etui.sweep.report.roles import find_role, fit_values, list_names, list_value_texts
from etui.sweep.result import SettingResult, SweepResult
from etui.text.tables import fit_cells

WIDE = Size(960, 0, left=330, right=16, top=30, bottom=44)
NARROW = Size(400, 0, left=176, right=8, top=30, bottom=44, class_="narrow")

_ROW = 19.0
_STAGES: dict[Stage, str] = {"floor": "A/A", "race": "race", "confirm": "confirm"}


def draw_race(result: SweepResult, blocks: Sequence[Block], size: Size) -> Markup | None:
    """Draw one row for each setting and one column for each block; None without blocks."""
    if not blocks:
        return None
    names, values = list_names(result), list_value_texts(result)
    rows = sorted(result.settings, key=lambda one: _when_left(one, len(blocks)))
    cells = int((size.left - 14) / svg.CHARACTER_WIDTH)
    with_axes = all(len(name) <= cells for name in names.values())
    texts = {
        key: name if with_axes else fit_values(values[key], cells) for key, name in names.items()
    }
    longest = max(map(len, texts.values()), default=0)
    size = replace(size, left=min(size.left, max(70.0, 16 + longest * svg.CHARACTER_WIDTH)))
    bottom = size.top + _ROW * len(rows)
    x = Axis(0.0, float(len(blocks)), size.left, size.width - size.right)
    parts = _stages(blocks, x, size, bottom)
    if not with_axes:
        room = int((size.left - 12) / svg.CHARACTER_WIDTH)
        axes = fit_cells(" ".join(list_varied_axes(result.settings)), room)
        parts.append(svg.label(size.left - 10, size.top - 9, axes, "note", "end"))
    for at, one in enumerate(rows):
        y = size.top + _ROW * at
        role = f"role-{find_role(result, one)}"
        text = texts[one.setting]
        parts.append(svg.label(size.left - 10, y + 13.5, text, "row-label", "end"))
        title = _title(names[one.setting], one)
        parts.append(svg.group(role, _cells(one, blocks, x, y), title))
    step = max(1, round(len(blocks) / 12))
    for number in range(0, len(blocks), step):
        centre = (x.at(number) + x.at(number + 1)) / 2
        parts.append(svg.label(centre, bottom + 17, f"{number + 1}", "tick", "middle"))
    middle = (size.left + size.width - size.right) / 2
    parts.append(svg.label(middle, bottom + 38, "block", "title", "middle"))
    label = "Blocks in which each setting took part: " + "; ".join(
        _title(names[one.setting], one) for one in rows
    )
    return svg.drawing(size.width, bottom + size.bottom, parts, label, size.class_)


def _when_left(one: SettingResult, blocks: int) -> tuple[int, float]:
    """Sort the settings: those that stayed longest first, then by joules."""
    left = blocks if one.dropped_after is None else one.dropped_after
    if one.dropped_after is None and one.drop_reason:
        left = -1
    joules = one.joules.value if one.joules is not None else float("inf")
    return (-left, joules)


def _stages(blocks: Sequence[Block], x: Axis, size: Size, bottom: float) -> list[Markup]:
    parts: list[Markup] = []
    for stage, name in _STAGES.items():
        inside = [at for at, block in enumerate(blocks) if block.stage == stage]
        if not inside:
            continue
        start, end = x.at(inside[0]), x.at(inside[-1] + 1)
        parts.append(svg.line(start, size.top - 20, start, bottom + 4, "grid"))
        if (end - start) > len(name) * svg.CHARACTER_WIDTH:
            parts.append(svg.label((start + end) / 2, size.top - 9, name, "note", "middle"))
    parts.append(svg.line(x.end, size.top - 20, x.end, bottom + 4, "grid"))
    return parts


def _cells(one: SettingResult, blocks: Sequence[Block], x: Axis, y: float) -> list[Markup]:
    parts = []
    last = None
    for at, block in enumerate(blocks):
        if not any(visit.setting == one.setting for visit in block.visits):
            continue
        last = at
        width = x.at(at + 1) - x.at(at)
        gap = min(2.0, width / 4)
        parts.append(
            svg.element(
                "rect",
                x=x.at(at) + gap / 2,
                y=y + 4,
                width=width - gap,
                height=_ROW - 7,
                rx=2,
                class_="cell",
            )
        )
    if one.dropped_after is not None and last is not None:
        # Behind the last cell, or on it if there is no later block.
        aside = 7 if last + 1 < len(blocks) else -8
        parts.append(_cross(x.at(last + 1) + aside, y + _ROW / 2 + 0.5))
    if one.dropped_after is None and one.drop_reason:
        parts.append(svg.label(x.start + 4, y + 13.5, "could not run", "note"))
    return parts


def _cross(x: float, y: float) -> Markup:
    arm = 3.5
    return svg.group(
        "cross",
        [
            svg.line(x - arm, y - arm, x + arm, y + arm, "cross-line"),
            svg.line(x - arm, y + arm, x + arm, y - arm, "cross-line"),
        ],
    )


def _title(name: str, one: SettingResult) -> str:
    if one.dropped_after is not None:
        return f"{name} was dropped after block {one.dropped_after + 1}: {one.drop_reason}"
    if one.drop_reason:
        return f"{name} could not run: {one.drop_reason}"
    return f"{name} stayed to the end"

"""The power channels as rows: sparkline, watts of the limit, use, temperature, memory, users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from etui import units
from etui.energy.devices import ChannelState
from etui.energy.scopes import family
from etui.energy.types import Channel
from etui.plots.braille import NEAR_LIMIT_SHARE, sparkline
from etui.plots.power_history import PowerHistory
from etui.plots.terminal import scale_top
from etui.text import sanitize

Ink = Literal["name", "spark", "fact", "near", "missing"]
Run = tuple[str, Ink]

MOST_SPARK_CELLS = 24
LEAST_SPARK_CELLS = 3
LEAST_COLUMN_CELLS = 22
"""Narrowest column when the channels are folded into several."""

_NAMES = {
    "gpu": "GPU",
    "module": "GPU",
    "package": "CPU",
    "estimate": "CPU",
    "cpu": "CPU",
    "dram": "RAM",
    "psys": "machine",
    "battery": "battery",
}
_GPU_NAME = "GPU"
_FACTS = ("watts", "used", "own", "memory", "heat")
_DROPPED_FIRST = ("heat", "memory", "own", "used")
"""Facts to leave out where a row is too narrow, the least important first."""

_MISSING = "–"


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """What a row shows."""

    name: str  # Short name, as `GPU0`
    state: ChannelState  # Watts, device and idle baseline
    watts: tuple[float | None, ...] = ()
    """Recent watts for the sparkline, which covers all of them; the newest last."""


def name_channels(channels: Sequence[Channel]) -> dict[str, str]:
    """Return channel id -> short name, GPUs first and numbered, in the order to show them."""
    words = [_NAMES.get(family(c.scope), sanitize(family(c.scope))[:8]) for c in channels]
    ranked = sorted(
        zip(channels, words, strict=True),
        key=lambda pair: (pair[1] != _GPU_NAME, pair[1] != "CPU"),
    )
    seen: dict[str, int] = {}
    names = {}
    for channel, word in ranked:
        number = seen[word] = seen.get(word, -1) + 1
        several = word == _GPU_NAME or words.count(word) > 1
        names[channel.id] = f"{word}{number}" if several else word
    return names


def channel_rows(facts: Sequence[ChannelFacts], width: int, columns: int = 1) -> list[list[Run]]:
    """Lay out the channels as rows of runs, each ``width`` cells wide.

    Facts that no channel reports take no place; one that only some report is ``–`` at the others.

    Args:
        columns: Number of channels side by side, filled from top to bottom.
    """
    if not facts or width <= 0:
        return []
    columns = max(1, min(columns, len(facts), (width + 1) // (LEAST_COLUMN_CELLS + 1)))
    height = -(-len(facts) // columns)
    cell = (width - 2 * (columns - 1)) // columns
    cells = _cells(facts, cell)
    rows: list[list[Run]] = []
    for y in range(height):
        row: list[Run] = []
        for number in range(y, len(cells), height):
            row += [("  ", "fact"), *cells[number]] if row else cells[number]
        rows.append(row)
    return [_fit(row, width) for row in rows]


def watts_fact(state: ChannelState) -> str:
    """Return ``231/350 W``, or the watts alone if no limit is known; ``unmeasured``."""
    if state.power.watts is None:
        return units.UNMEASURED
    return units.of_limit_text(state.power.watts, state.limit_watts, state.kind)


def resample(values: Sequence[float | None], count: int) -> list[float | None]:
    """Return at most ``count`` means of neighbours that cover all values."""
    if len(values) <= count or count <= 0:
        return list(values)
    borders = [len(values) * number // count for number in range(count + 1)]
    means: list[float | None] = []
    for begin, end in pairwise(borders):
        known = [value for value in values[begin:end] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _cells(facts: Sequence[ChannelFacts], width: int) -> list[list[Run]]:
    texts = {name: [_SHOW[name](one.state) for one in facts] for name in _FACTS}
    shown = [name for name in _FACTS if any(text not in ("", _MISSING) for text in texts[name])]
    widths = {name: max(cell_len(text) for text in texts[name]) for name in shown}
    name_width = max(cell_len(one.name) + (not one.state.power.in_total) for one in facts)

    def left_over() -> int:
        return width - name_width - sum(1 + widths[name] for name in shown) - 1

    for dropped in _DROPPED_FIRST:
        if left_over() < LEAST_SPARK_CELLS and dropped in shown:
            shown.remove(dropped)
    spark = max(0, min(left_over(), MOST_SPARK_CELLS))
    rows = []
    for number, one in enumerate(facts):
        name = one.name if one.state.power.in_total else f"{one.name}*"
        row: list[Run] = [(set_cell_size(name, name_width), "name")]
        if spark >= LEAST_SPARK_CELLS:
            known = [watts for watts in one.watts if watts is not None]
            top = scale_top(one.state.limit_watts, max(known, default=0.0))
            values = resample(one.watts, 2 * spark)
            row.append((f" {sparkline(values, top, spark)}", "spark"))
        for fact in shown:
            text = texts[fact][number]
            ink: Ink = "fact"
            if text in (units.UNMEASURED, _MISSING):
                ink = "missing"
            elif fact == "watts" and _is_near_limit(one.state):
                ink = "near"
            row.append((f" {text:>{widths[fact]}}", ink))
        rows.append(_fit(row, width))
    return rows


def _fit(row: list[Run], width: int) -> list[Run]:
    """Cut or fill a row to a width."""
    fitted: list[Run] = []
    left = width
    for text, ink in row:
        text = text if cell_len(text) <= left else set_cell_size(text, left)
        fitted.append((text, ink))
        left -= cell_len(text)
    if left > 0:
        fitted.append((" " * left, "fact"))
    return fitted


def _is_near_limit(state: ChannelState) -> bool:
    watts, limit = state.power.watts, state.limit_watts
    return watts is not None and limit is not None and watts >= NEAR_LIMIT_SHARE * limit


def _has(state: ChannelState, *families: str) -> bool:
    return family(state.power.channel.scope) in families


def _used_fact(state: ChannelState) -> str:
    if state.device.utilisation is None:
        return _MISSING if _has(state, "gpu", "package") else ""
    return units.whole_percent_text(state.device.utilisation)


def _heat_fact(state: ChannelState) -> str:
    if state.device.temperature_celsius is None:
        return _MISSING if _has(state, "gpu", "package") else ""
    return units.celsius_text(state.device.temperature_celsius)


def _memory_fact(state: ChannelState) -> str:
    device = state.device
    if device.memory_used_bytes is None or not device.memory_total_bytes:
        return _MISSING if _has(state, "gpu") else ""
    return units.memory_text(device.memory_used_bytes, device.memory_total_bytes)


def _own_fact(state: ChannelState) -> str:
    """Return etui's watts where others use the device too; ``shared`` if its part is unknown."""
    if not state.device.shared:
        return ""
    if state.own_watts is None:
        return "shared"
    return f"etui {units.axis_text(state.own_watts)} W"


_SHOW: dict[str, Callable[[ChannelState], str]] = {
    "watts": watts_fact,
    "used": _used_fact,
    "own": _own_fact,
    "memory": _memory_fact,
    "heat": _heat_fact,
}


def list_channels(
    states: Sequence[ChannelState], history: PowerHistory, end_ns: int, seconds: float
) -> list[ChannelFacts]:
    """Return the rows of the channels, each with its watts of the last ``seconds``."""
    names = name_channels([state.power.channel for state in states])
    values = 2 * MOST_SPARK_CELLS
    by_id = {state.power.channel.id: state for state in states}
    return [
        ChannelFacts(
            name,
            by_id[channel],
            history.buckets(channel, end_ns, seconds / values, values).means,
        )
        for channel, name in names.items()
    ]


class ChannelTable(Widget):
    """The rows of all channels; ``*`` marks one that is not in the total."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "channel-table--name",
        "channel-table--spark",
        "channel-table--fact",
        "channel-table--near",
        "channel-table--missing",
    }

    def __init__(self, *, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._facts: tuple[ChannelFacts, ...] = ()
        self._columns = 1
        self._drawn: tuple[int, list[list[Run]]] | None = None

    @property
    def text(self) -> str:
        """The rows as text."""
        return "\n".join("".join(text for text, _ in row) for row in self._rows(self.size.width))

    def show(self, facts: Sequence[ChannelFacts], columns: int = 1) -> None:
        """Show these channels from now on, ``columns`` side by side."""
        rows_before = len(self._rows(self.size.width))
        self._facts, self._columns, self._drawn = tuple(facts), columns, None
        self.refresh(layout=len(self._rows(self.size.width)) != rows_before)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """Return one row for each channel, fewer if they are side by side."""
        return len(self._rows(width))

    def render_line(self, y: int) -> Strip:
        """Draw one row."""
        rows = self._rows(self.size.width)
        if y >= len(rows):
            return Strip.blank(self.size.width, self.rich_style)
        return Strip(
            [
                Segment(text, self.get_component_rich_style(f"channel-table--{ink}"))
                for text, ink in rows[y]
            ],
            self.size.width,
        )

    def _rows(self, width: int) -> list[list[Run]]:
        if self._drawn is None or self._drawn[0] != width:
            self._drawn = (width, channel_rows(self._facts, width, self._columns))
        return self._drawn[1]

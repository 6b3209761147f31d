"""Figures for pages and papers: matplotlib behind the few things that etui draws.

One figure serves a folder of a run (SVG and PDF on white) and a page (SVG inside of HTML, in the
colours of the page, with hover texts). Equal numbers give equal files.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import cos, hypot, pi, sin
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

ARM_COLOURS = (
    "#0f78b4", "#cf6a12", "#1d8a5c", "#b53a80", "#6f55c2", "#94730f", "#c43c2f", "#566579",
)  # fmt: skip
"""Colours that tell arms apart, also with colour blindness; the first is that of the first arm."""

INK, SOFT, RULE, PAPER = "#1c1f24", "#5b626c", "#e4dfd6", "#ffffff"
PREFILL, DECODE = "#4a9ac8", "#e0914a"

_VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    RULE: "rule",
    PAPER: "card",
    PREFILL: "prefill",
    DECODE: "decode",
    **{colour: f"arm-{at}" for at, colour in enumerate(ARM_COLOURS)},
}
"""Colour -> the variable of a page's style sheet that replaces it there."""

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # keeps text as text
    "svg.hashsalt": "etui",
}
_STYLE_SHEET = re.compile(
    r"\s*<defs>\s*<style.*?</style>\s*</defs>", re.S
)  # it is for a whole page
_FONT_FAMILY = re.compile(r"font-family: [^;\"]*; ?")  # a page has its own
NO_FIGURE = Markup(
    "<p class='note'>This figure needs matplotlib: <code>pip install 'etui[figures]'</code>, "
    "then write the report again.</p>"
)
"""What a page shows in place of a figure without the extra ``figures``."""

_LOG_TICKS = (1.0, 2.0, 5.0)
_LABEL_SIZE = 8.5
_LINE_FROM = 9.0
"""Distance in pixels between a point and its label from which a line joins them."""


@dataclass(frozen=True, slots=True)
class Point:
    """A mark with the ends of its intervals; an end that is not known is None."""

    x: float
    y: float
    x_ends: tuple[float | None, float | None] = (None, None)
    y_ends: tuple[float | None, float | None] = (None, None)
    colour: str = INK
    label: str = ""  # written beside it
    angle: float = 292.0  # where the label should be: 0 is to the right, 90 above
    note: str = ""  # hover text on a page
    shape: str = "o"  # of matplotlib: o, s, ^, D, *
    size: float = 5.0
    filled: bool = True


class Figure:
    """One or more panels of the same width, in inches, below each other."""

    def __init__(self, width: float, height: float, rows: int = 1) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas

        self._notes: dict[str, str] = {}
        with _styled():
            self._figure = Canvas(figsize=(width, height), layout="constrained")
            self._canvas: Any = FigureCanvasAgg(self._figure)  # measures the texts
            axes = self._figure.subplots(rows, 1, squeeze=False)
        numbers = count()
        self.panels = tuple(Panel(one, self._notes, numbers) for (one,) in axes)
        self._placed = False

    def save(self, path: Path) -> list[Path]:
        """Write the figure as SVG and PDF beside each other; ``path`` is without their suffix."""
        written = []
        for form, date in (("svg", "Date"), ("pdf", "CreationDate")):
            target = path.with_name(f"{path.name}.{form}")
            target.write_bytes(self._render(form, {date: None}))
            written.append(target)
        return written

    def document(self) -> str:
        """Return the figure as an SVG document of its own."""
        return self._render("svg", {"Date": None}).decode()

    def svg(self, name: str) -> Markup:
        """Return the figure for a page, whose style sheet may set its colours."""
        hidden = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = self._render("svg", hidden, transparent=True).decode()
        text = _STYLE_SHEET.sub("", text[text.index("<svg") :])
        text = _FONT_FAMILY.sub("", text)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, f"var(--{variable}, {colour})")
        used = set(re.findall(r"#([\w-]+)", text))
        for id_, note in self._notes.items():
            text = text.replace(f'<g id="{id_}">', f"<g><title>{escape(note)}</title>")
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
        head, rest = text.split(">", 1)
        view = re.search(r'viewBox="[^"]*"', head)
        assert view is not None
        joins = 'style="stroke-linejoin: round; stroke-linecap: butt"'
        named = f'class="chart" role="img" aria-label="{escape(name)}"'
        return Markup(f"<svg {named} {view[0]} {joins}>{rest}")

    def _render(
        self, form: str, metadata: Mapping[str, Any], *, transparent: bool = False
    ) -> bytes:
        target = io.BytesIO()
        with _styled():
            self._place_labels()
            self._figure.savefig(
                target, format=form, metadata=dict(metadata), transparent=transparent
            )
        return target.getvalue()

    def _place_labels(self) -> None:
        """Place the labels once: their places depend on the size that the layout gives the axes."""
        if self._placed:
            return
        self._figure.draw_without_rendering()
        self._figure.set_layout_engine("none")
        for panel in self.panels:
            panel.place_labels(self._canvas.get_renderer())
        self._placed = True


class Panel:
    """One pair of axes. ``axes`` are matplotlib's, for what has no method here."""

    def __init__(self, axes: Any, notes: dict[str, str], numbers: Iterator[int]) -> None:
        self.axes = axes
        self._notes = notes
        self._numbers = numbers
        self._labelled: list[Point] = []
        self._bars: list[tuple[float, float, float, float]] = []
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)

    def name_axes(self, x: str, y: str, title: str = "") -> None:
        """Name the axes and the panel."""
        self.axes.set_xlabel(x, parse_math=False)
        self.axes.set_ylabel(y, parse_math=False)
        if title:
            self.axes.set_title(title, loc="left", fontsize=9, parse_math=False)

    def name_rows(self, names: Sequence[str], size: float = 8.0) -> None:
        """Name the heights 0, 1, 2, … in place of numbers, the first name at the top."""
        rows = range(len(names))
        self.axes.set_yticks(rows, list(names), fontsize=size, parse_math=False)
        self.axes.set_ylim(len(names) - 0.4, -0.6)
        self.axes.grid(visible=False, axis="y")

    def points(self, points: Sequence[Point], label: str = "") -> None:
        """Draw marks with bars for their intervals; ``label`` is for the legend."""
        for point in points:
            self._draw(point, label if point is points[0] else "")

    def _draw(self, point: Point, label: str) -> None:
        errors = []
        for value, (low, high) in ((point.x, point.x_ends), (point.y, point.y_ends)):
            low, high = value if low is None else low, value if high is None else high
            errors.append([[max(0.0, value - low)], [max(0.0, high - value)]])
        drawn = self.axes.errorbar(
            [point.x],
            [point.y],
            xerr=errors[0] if any(errors[0][side][0] for side in (0, 1)) else None,
            yerr=errors[1] if any(errors[1][side][0] for side in (0, 1)) else None,
            fmt=point.shape,
            color=point.colour,
            markerfacecolor=point.colour if point.filled else PAPER,
            markersize=point.size,
            elinewidth=1,
            capsize=2,
            label=label or None,
        )
        self._note(drawn.lines[0], point.note)
        left, right = point.x - errors[0][0][0], point.x + errors[0][1][0]
        low, high = point.y - errors[1][0][0], point.y + errors[1][1][0]
        self._bars += [(left, point.y, right, point.y), (point.x, low, point.x, high)]
        if point.label:
            self._labelled.append(point)

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        colour: str = INK,
        *,
        label: str = "",
        note: str = "",
        dashed: bool = False,
        steps: bool = False,
    ) -> None:
        """Draw a line that labels keep away from; ``steps`` keeps each height up to the next x."""
        (drawn,) = self.axes.plot(
            xs,
            ys,
            color=colour,
            linewidth=0.9 if dashed else 1.4,
            linestyle=(0, (5, 3)) if dashed else "solid",
            drawstyle="steps-post" if steps else "default",
            label=label or None,
            zorder=1 if dashed else 1.5,
        )
        self._note(drawn, note)
        self._bars += [(x, y, x, y) for x, y in zip(xs, ys, strict=True)]

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
    ) -> None:
        """Shade a band between two lines."""
        self.axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)

    def mix(self, corners: Sequence[tuple[float, float]], label: str = "") -> None:
        """Draw the mixtures between neighbouring corners, straight in x on any axis."""
        import numpy as np

        xs, ys = zip(*corners, strict=True)
        dense = xs if min(xs) <= 0 else np.union1d(np.geomspace(xs[0], xs[-1], 200), xs).tolist()
        self.line(dense, np.interp(dense, xs, ys).tolist(), SOFT, label=label, dashed=True)

    def bars(
        self, names: Sequence[str], parts: Mapping[str, Sequence[float]], colours: Sequence[str]
    ) -> None:
        """Draw a horizontal bar for each name, of parts one after another."""
        self.name_rows(names)
        starts = [0.0] * len(names)
        for (label, widths), colour in zip(parts.items(), colours, strict=False):
            self.axes.barh(
                range(len(names)), widths, left=starts, height=0.6, color=colour, label=label
            )
            starts = [start + width for start, width in zip(starts, widths, strict=True)]

    def guide(self, x: float | None = None, y: float | None = None, text: str = "") -> None:
        """Draw a dotted line across the panel, named at its end."""
        style = {"color": SOFT, "linewidth": 0.8, "linestyle": ":", "zorder": 0}
        if x is not None:
            self.axes.axvline(x, **style)
        if y is not None:
            self.axes.axhline(y, **style)
            place, to = (1.0, y), self.axes.get_yaxis_transform()
            sides = {"ha": "right", "va": "bottom", "fontsize": 7.5, "color": SOFT}
            self.axes.text(*place, text, transform=to, parse_math=False, **sides)

    def span(self, start: float, end: float, colour: str, note: str = "") -> None:
        """Shade the panel between two x."""
        self._note(self.axes.axvspan(start, end, color=colour, alpha=0.15, linewidth=0), note)

    def log(self, axis: str = "x", *, many: bool = False) -> None:
        """Make an axis logarithmic; ``many`` if it has room for the powers of ten alone."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        getattr(self.axes, f"set_{axis}scale")("log")
        ticks = getattr(self.axes, f"{axis}axis")
        ticks.set_major_locator(LogLocator(subs=(1.0,) if many else _LOG_TICKS))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        ticks.set_minor_formatter(NullFormatter())

    def legend(self, **options: Any) -> None:
        """Draw the legend of what has a label, with further options of matplotlib."""
        drawn = self.axes.legend(**{"frameon": False, "fontsize": 8, "labelcolor": INK, **options})
        for text in drawn.get_texts():
            text.set_parse_math(False)

    def place_labels(self, renderer: Any) -> None:
        """Write the labels where they cover neither points nor bars, lines and each other."""
        to_pixels = self.axes.transData.transform
        frame = self.axes.get_window_extent(renderer)
        texts, labels = [], []
        for point in self._labelled:
            style = {"color": point.colour, "fontsize": _LABEL_SIZE, "zorder": 4}
            text = self.axes.text(0, 0, point.label, parse_math=False, va="bottom", **style)
            size = text.get_window_extent(renderer)
            x, y = to_pixels((point.x, point.y))
            labels.append(Label(x, y, size.width, size.height, point.angle))
            texts.append(text)
        obstacles = [Box(one.x, one.y, one.x, one.y).grow(6) for one in labels]
        for left, bottom, right, top in self._bars:
            (x0, y0), (x1, y1) = to_pixels((left, bottom)), to_pixels((right, top))
            obstacles.append(Box(x0, y0, x1, y1).grow(2))
        boxes = place_labels(labels, obstacles, Box(frame.x0, frame.y0, frame.x1, frame.y1))
        to_data = self.axes.transData.inverted().transform
        for point, text, label, box in zip(self._labelled, texts, labels, boxes, strict=True):
            text.set_position(to_data((box.left, box.bottom)))
            if find_distance(box, label.x, label.y) > _LINE_FROM:
                near = (
                    min(max(label.x, box.left), box.right),
                    min(max(label.y, box.bottom), box.top),
                )
                xs, ys = zip(to_data((label.x, label.y)), to_data(near), strict=True)
                self.axes.plot(xs, ys, color=point.colour, linewidth=0.5, alpha=0.5, zorder=1.5)

    def _note(self, artist: Any, note: str) -> None:
        if note:
            id_ = f"note-{next(self._numbers)}"
            self._notes[id_] = note
            artist.set_gid(id_)


@contextmanager
def _styled() -> Iterator[None]:
    """Apply etui's style; the global settings of matplotlib are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Names in other scripts are drawn by the reader's fonts, whatever matplotlib has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


_DIRECTIONS = 16
_RINGS = (8.0, 11.0, 16.0, 26.0, 38.0, 54.0, 74.0, 98.0, 126.0)
"""Gaps between a point and its label that are tried, in the unit of the boxes."""
_MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its sides along the axes, in pixels or another unit."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    def grow(self, margin: float) -> Box:
        """Return the box with a margin on each side."""
        return Box(self.left - margin, self.bottom - margin, self.right + margin, self.top + margin)


@dataclass(frozen=True, slots=True)
class Label:
    """A label to be placed: its point, its size, and the direction that it prefers."""

    x: float
    y: float
    width: float  # Of the text
    height: float
    angle: float = 270.0
    """Preferred direction from the point to the text, in degrees; 0 is to the right and 90 upwards.
    """


def place_labels(labels: Sequence[Label], obstacles: Sequence[Box], frame: Box) -> list[Box]:
    """Choose a box for each label, the first labels first.

    A label goes to the nearest free place around its point, in the preferred direction if several
    are as near. Without a free place it takes the one that covers the least.
    """
    taken = [*obstacles]
    found = []
    for label in labels:
        box = min(_list_places(label, frame), key=lambda place: _cover(place, taken, frame))
        found.append(box)
        taken.append(box.grow(_MARGIN))
    return found


def _list_places(label: Label, frame: Box) -> list[Box]:
    """List the boxes to try, best first: by their gap, then by the turn from the preference."""
    turns = sorted(range(_DIRECTIONS), key=lambda step: min(step, _DIRECTIONS - step))
    places = []
    for gap in _RINGS:
        for turn in turns:
            angle = (label.angle + 360 / _DIRECTIONS * turn) * pi / 180
            right, up = cos(angle), sin(angle)
            # The side of the text that faces the point keeps the gap; its middle slides along.
            x = label.x + gap * right + label.width / 2 * max(-1.0, min(1.0, 1.5 * right))
            y = label.y + gap * up + label.height / 2 * max(-1.0, min(1.0, 1.5 * up))
            places.append(_shift_inside(_center(x, y, label), frame))
    return places


def _center(x: float, y: float, label: Label) -> Box:
    half, up = label.width / 2, label.height / 2
    return Box(x - half, y - up, x + half, y + up)


def _shift_inside(box: Box, frame: Box) -> Box:
    """Move a box that crosses the frame inside it, as far as it fits."""
    x = max(frame.left - box.left, 0.0) or min(frame.right - box.right, 0.0)
    y = max(frame.bottom - box.bottom, 0.0) or min(frame.top - box.top, 0.0)
    return Box(box.left + x, box.bottom + y, box.right + x, box.top + y)


def _cover(box: Box, taken: Sequence[Box], frame: Box) -> float:
    area = (box.right - box.left) * (box.top - box.bottom)
    return sum(box.overlap(other) for other in taken) + area - box.overlap(frame)


def find_distance(box: Box, x: float, y: float) -> float:
    """Return the distance between a point and the nearest edge of a box; 0 inside it."""
    across = max(box.left - x, x - box.right, 0.0)
    up = max(box.bottom - y, y - box.top, 0.0)
    return hypot(across, up)

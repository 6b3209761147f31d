"""SVG elements of the charts, and axes with round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from etui.text import sanitize

CHARACTER_WIDTH = 7.3
"""Mean width of a character in a 13 px label; used to keep labels apart."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to positions in the drawing.

    Attributes:
        low, high: Values at the two ends, ``low`` below ``high``.
        start, end: Positions of the ends in user units.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value, clamped to the ends."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Return about ``count`` round values on the axis."""
        if self.logarithmic:
            return log_ticks(self.low, self.high)
        return linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten between both ends, about ``count``."""
    step = nice_step((high - low) / max(count, 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between both ends; only powers on a long axis."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = high / low > 2000
    values = [m * 10.0**e for e in exponents for m in ((1,) if wide else (1, 2, 5))]
    return [value for value in values if low * 0.9999 <= value <= high * 1.0001]


def nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def element(name: str, text: str | None = None, **attributes: object) -> Markup:
    """Build an element; in attribute names a final underscore is cut, others become hyphens."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    if text is None:
        return Markup("<{}{}/>").format(Markup(name), written)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, sanitize(text))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Draw a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def label(x: float, y: float, text: str, class_: str, anchor: str = "start") -> Markup:
    """Draw a text; ``anchor`` is start, middle or end."""
    return element("text", text, x=x, y=y, class_=class_, text_anchor=anchor)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Draw a line through points."""
    steps = " ".join(f"{'L' if at else 'M'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(points))
    return element("path", d=steps, class_=class_, fill="none")


def group(class_: str, parts: Sequence[Markup], title: str | None = None) -> Markup:
    """Group elements; ``title`` is their tooltip."""
    inner = ([element("title", title)] if title else []) + list(parts)
    return Markup('<g class="{}">{}</g>').format(class_, Markup("").join(inner))


def drawing(width: float, height: float, parts: Sequence[Markup], name: str, class_: str) -> Markup:
    """Build the whole drawing, with a name for screen readers."""
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(class_, width, height, sanitize(name), Markup("").join(parts))


def frame(
    x: Axis,
    y: Axis,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    tick_counts: tuple[int, int],
) -> list[Markup]:
    """Draw the grid lines and the numbers on both axes; ``y.start`` is the bottom."""
    parts: list[Markup] = []
    for value in y.ticks(tick_counts[1]):
        at = y.at(value)
        parts.append(line(x.start, at, x.end, at, "grid"))
        parts.append(label(x.start - 8, at + 4, y_text(value), "tick", "end"))
    for value in x.ticks(tick_counts[0]):
        at = x.at(value)
        parts.append(line(at, y.start, at, y.start + 5, "axis"))
        parts.append(label(at, y.start + 20, x_text(value), "tick", "middle"))
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    return parts


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value

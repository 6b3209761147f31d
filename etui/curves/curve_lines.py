"""An operating curve as lines to draw: joules over output tokens for a few prompt lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.curves.operating_curve import OperatingCurve

_STEPS = 96


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """Joules of a turn over its output tokens, for one prompt length."""

    computed: int  # Prompt tokens
    line: tuple[tuple[float, float], ...]  # (output tokens, joules) by the curve
    band: tuple[tuple[float, float], ...]
    """(output tokens, half width in joules at 95 %) along the line."""
    points: tuple[tuple[float, float], ...]
    """(output tokens, joules) measured with prompts of about this length."""


def compute_drawn_lines(curve: OperatingCurve) -> tuple[DrawnLine, ...]:
    """Compute up to three lines, for the shortest, the middle and the longest measured prompt.

    A point belongs to the line with the nearest prompt length; on a grid this is its own length. A
    point whose prompt length is more than 20 % off that of its nearest line is left out.
    """
    lengths = sorted({point.computed_tokens for point in curve.points})
    if not lengths:
        return ()
    shown = sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]})
    longest = max(point.output_tokens for point in curve.points)
    outputs = [1 + (longest - 1) * step / _STEPS for step in range(_STEPS + 1)]
    return tuple(_compute_line(curve, computed, outputs, shown) for computed in shown)


def _compute_line(
    curve: OperatingCurve, computed: int, outputs: Sequence[float], shown: Sequence[int]
) -> DrawnLine:
    predicted = [curve.joules(computed, 0, output) for output in outputs]
    points = tuple(
        (float(p.output_tokens), p.prefill_joules + p.decode_joules)
        for p in curve.points
        if _belongs(p.computed_tokens, computed, shown)
    )
    return DrawnLine(
        computed,
        tuple((output, joules.total) for output, joules in zip(outputs, predicted, strict=True)),
        tuple((output, joules.scatter) for output, joules in zip(outputs, predicted, strict=True)),
        points,
    )


def _belongs(length: int, computed: int, shown: Sequence[int]) -> bool:
    nearest = min(shown, key=lambda other: abs(other - length))
    return nearest == computed and abs(length - computed) <= 0.2 * computed

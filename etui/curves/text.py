"""Operating curves as text: the drawing, the fit, its error and its age."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from etui.curves.operating_curve import OperatingCurve, PhaseCurve
from etui.text import format_table
from etui.units import (
    count_text,
    energy_text,
    percent_text,
    seconds_text,
    speed_text,
    watts_text,
)

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
    near: dict[int, list[tuple[float, float]]]
    near = {each: [] for each in (lengths[0], lengths[len(lengths) // 2], lengths[-1])}
    for point in curve.points:
        length = point.computed_tokens
        computed = min(near, key=lambda each: abs(each - length))
        if abs(length - computed) <= 0.2 * computed:
            joules = point.prefill_joules + point.decode_joules
            near[computed].append((float(point.output_tokens), joules))
    longest = max(point.output_tokens for point in curve.points)
    outputs = [1 + (longest - 1) * step / _STEPS for step in range(_STEPS + 1)]
    lines = []
    for computed, points in near.items():
        predicted = [(output, curve.joules(computed, 0, output)) for output in outputs]
        line = tuple((output, found.total) for output, found in predicted)
        band = tuple((output, found.scatter) for output, found in predicted)
        lines.append(DrawnLine(computed, line, band, tuple(points)))
    return tuple(lines)


_MARKS = (("·", "o"), ("-", "x"), ("=", "+"))
_RECENT_S = 60
_GOOD_R2 = 0.9
_GOOD_MAPE = 0.15


def draw_curve(curve: OperatingCurve, width: int = 64, height: int = 15) -> list[str]:
    """Draw joules over output tokens in characters; empty without points.

    Each prompt length has a line of its own.
    """
    from etui.plots.terminal import Series, plot

    series = [
        Series(f"{line.computed} prompt tokens", line.line, line.points, *marks)
        for line, marks in zip(compute_drawn_lines(curve), _MARKS, strict=False)
    ]
    if not series:
        return []
    unit = "joules (estimate)" if curve.kind == "estimate" else "joules"
    return plot(series, "output tokens", unit, width=width, height=height)


def fit_lines(curve: OperatingCurve) -> Iterator[str]:
    """Format the fit of a curve as a table, followed by its error, speed and kind."""
    rows = [
        _format_row("prefill", curve.prefill, "prompt", curve.kind),
        _format_row("decode", curve.decode, "output", curve.kind),
    ]
    head = ("phase", "constant", "per token", "+ per 1,000 tokens of context", "R²", "n", "95 %")
    yield from format_table(rows, header=head)
    if curve.held_out_mape is not None:
        yield f"turns off the grid: {percent_text(curve.held_out_mape)} mean error"
    speed = curve.speed
    if speed.prefill_tokens_per_second and speed.decode_tokens_per_second:
        yield (
            f"prefill {speed_text(speed.prefill_tokens_per_second)} at "
            f"{watts_text(speed.prefill_watts, curve.kind)}, decode "
            f"{speed_text(speed.decode_tokens_per_second)} at "
            f"{watts_text(speed.decode_watts, curve.kind)}"
        )
    yield kind_line(curve)


def doubt_text(curve: OperatingCurve) -> str:
    """Return what to do about a fit that explains little; empty for a good one."""
    known = [r2 for r2 in (curve.prefill.r2, curve.decode.r2) if r2 is not None]
    off = curve.held_out_mape or 0.0
    if min(known, default=1.0) >= _GOOD_R2 and off <= _GOOD_MAPE:
        return ""
    if curve.source == "log":
        return f"the turns scatter: run a calibration with etui calibrate {curve.model}"
    return "the points scatter: stop other programs and measure again (more --repeats help)"


def kind_line(curve: OperatingCurve) -> str:
    """Describe how the energy of a curve was determined."""
    idle = "" if curve.idle_watts is None else f", idle {watts_text(curve.idle_watts, curve.kind)}"
    if curve.kind == "estimate":
        return (
            f"gross joules, an estimate (±{percent_text(curve.meter_share)} in addition to the "
            f"fit): no power channel of this machine can be read{idle}"
        )
    return f"gross joules, kind {curve.kind}{idle}"


def age_text(created_at: str, now: datetime | None = None) -> str:
    """Format the age of a curve: ``3 d 4 h ago``; ``just now`` within a minute."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(created_at)).total_seconds()
    except (ValueError, TypeError):
        return "unknown"
    return "just now" if seconds < _RECENT_S else f"{seconds_text(seconds)} ago"


def r2_text(r2: float | None) -> str:
    """Format R² with three decimals; ``-`` where it is not known."""
    return "-" if r2 is None else f"{r2:.3f}"


def points_text(curve: OperatingCurve) -> str:
    """Format the number of fitted points: ``12 points``, or ``12 turns of the log``."""
    nouns = ("turn of the log", "turns of the log") if curve.source == "log" else ("point", None)
    return count_text(curve.n, *nouns)


def _format_row(name: str, phase: PhaseCurve, tokens: str, kind: str | None) -> tuple[str, ...]:
    shown = kind if kind == "estimate" else None
    band = percent_text(phase.band) if phase.proportional else energy_text(phase.band, kind=shown)
    return (
        name,
        energy_text(phase.e0, kind=shown),
        f"{energy_text(phase.slope, kind=shown)} ({tokens})",
        energy_text(1000 * phase.bend, kind=shown) if phase.bend else "0 J",
        r2_text(phase.r2),
        str(phase.n),
        f"±{band}",
    )

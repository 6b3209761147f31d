"""Accuracies, differences and ratios with their intervals as text."""

from __future__ import annotations

from etui.units.rounding import exponent, is_known, plain, significant

UNKNOWN = "unknown"
"""Any unknown quantity that is no energy and no power."""


def accuracy_text(share: float | None) -> str:
    """Format an accuracy with one decimal: ``61.2 %``; None is unknown."""
    return f"{share * 100:.1f} %" if is_known(share) else UNKNOWN


def points_text(low: float, high: float) -> str:
    """Format an interval of accuracies in per cent, without the sign: ``58.9-63.5``."""
    return f"{low * 100:.1f}-{high * 100:.1f}"


def margin_text(points: float) -> str:
    """Format a half width in percentage points: ``±3 points``, ``±0.5 points``."""
    return f"±{points:.3g} points"


def difference_text(difference: float) -> str:
    """Format a difference of accuracies in percentage points: ``+1.2``, ``-0.4``, ``0.0``."""
    text = f"{difference * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def change_text(
    percent: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    signed: bool = True,
) -> str:
    """Format a relative difference with its interval: ``-18 % [-20, -16]``, ``+0.4 % [-0.2, 1.0]``.

    The interval decides the digits: half of it keeps one significant digit, and an end that is not
    0 is not rounded to 0. Without an interval the difference keeps one decimal below 10 %.

    Args:
        percent: Difference in per cent; None or not finite is unknown.
        low: Lower end in per cent; the interval is omitted unless both ends are known.
        high: Upper end in per cent.
        signed: Whether a positive difference gets a plus sign.
    """
    if not is_known(percent):
        return UNKNOWN
    sign = "+" if signed and percent > 0 else ""
    if not is_known(low) or not is_known(high):
        size = abs(percent)
        decimals = 0 if size >= 9.95 else 1 if size >= 0.095 or size == 0 else -exponent(size, 1)
        return f"{_sign_of(sign, _short(percent, decimals))} %"
    decimals = _interval_decimals(low, high)
    figure, *ends = (plain(value, decimals) for value in (percent, low, high))
    zeros = "." + "0" * decimals
    if decimals and all(end.endswith(zeros) for end in ends):
        figure, *ends = (plain(value, 0) for value in (percent, low, high))
    return f"{_sign_of(sign, figure)} % [{', '.join(ends)}]"


def points_change_text(
    points: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    signed: bool = True,
) -> str:
    """Format a difference of accuracies with its interval: ``-2.1 points [-3.4, -0.8]``.

    Args:
        points: Difference in percentage points; None or not finite is unknown.
        low: Lower end; the interval is omitted unless both ends are known.
        high: Upper end.
    """
    if not is_known(points):
        return UNKNOWN
    text = _sign_of("+" if signed and points > 0 else "", plain(points, 1))
    if not is_known(low) or not is_known(high):
        return f"{text} points"
    return f"{text} points [{plain(low, 1)}, {plain(high, 1)}]"


def multiple_text(
    multiple: float | None, low: float | None = None, high: float | None = None
) -> str:
    """Format a ratio with its interval: ``6.1x [5.2, 7.3]``, ``0.42x [0.37, 0.48]``.

    Args:
        multiple: The ratio, at least 0; None or not finite is unknown.
        low: Lower end; the interval is omitted unless both ends are known.
        high: Upper end.
    """
    if not is_known(multiple):
        return UNKNOWN
    decimals = 1 if multiple == 0 else max(0, 1 - exponent(multiple, 2))
    text = f"{plain(multiple, decimals)}x"
    if not is_known(low) or not is_known(high):
        return text
    if high - low > 0:  # a narrow interval keeps both ends apart
        decimals = max(decimals, min(3, -exponent((high - low) / 2, 1)))
        text = f"{plain(multiple, decimals)}x"
    return f"{text} [{plain(low, decimals)}, {plain(high, decimals)}]"


def p_value_text(p: float | None) -> str:
    """Format a p-value: ``p = 0.031``, ``p < 0.001``; None is ``not tested``."""
    if not is_known(p):
        return "not tested"
    return "p < 0.001" if p < 0.0005 else f"p = {significant(p, 2) if p < 0.0995 else f'{p:.2f}'}"


def _interval_decimals(low: float, high: float) -> int:
    """Return the decimals of an interval's ends: at most 2, and no end but 0 becomes 0."""
    half = abs(high - low) / 2
    decimals = 0 if half == 0 else max(0, min(2, -exponent(half, 1)))
    while decimals < 2 and any(
        abs(end) >= 0.005 and round(end, decimals) == 0 for end in (low, high)
    ):
        decimals += 1
    return decimals


def _short(value: float, decimals: int) -> str:
    """Round to ``decimals`` without the zeros behind the point of a whole number."""
    return plain(value, decimals).removesuffix("." + "0" * decimals)


def _sign_of(sign: str, text: str) -> str:
    """Put a plus sign before a number unless it was rounded to 0."""
    return f"{sign}{text}" if text.strip("0.,") else text

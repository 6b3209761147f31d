"""Round numbers to digits and decimals, and choose the prefix of a unit."""

from __future__ import annotations

import math
from typing import TypeGuard

_PREFIXES = ((1e-3, "m"), (1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))
_MILLI_BELOW = 0.0995
"""Values below a tenth of the unit (rounded to three digits) use the milli-unit."""
KILO_FROM = 9999.5
"""Up to four digits before the point keep the unit, so that 4,321 J and 987 J compare easily."""


def significant(value: float, digits: int) -> str:
    """Format ``value`` with ``digits`` significant digits: ``0.0123``, ``1,230``.

    The exponent form is never used, and all digits before the point are kept: 12,345 stays 12,345
    with three digits.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, digits - 1 - exponent(value, digits))
    return plain(value, decimals)


def with_uncertainty(value: float, uncertainty: float) -> str:
    """Format ``value ± uncertainty`` without a unit: ``12.3 ± 0.4``, ``12,350 ± 120``.

    Args:
        uncertainty: Half width, finite and above 0, in the unit of ``value``.
    """
    decimals = 1 - exponent(uncertainty, 2)
    rounded = f"{round(uncertainty, decimals):.{max(decimals, 0)}f}"
    if decimals > 0 and rounded.endswith("0"):
        decimals -= 1
    return f"{plain(value, decimals)} ± {plain(uncertainty, decimals)}"


def is_known(value: float | None) -> TypeGuard[float]:
    """Check whether a value is there, and finite."""
    return value is not None and math.isfinite(value)


def is_spread(uncertainty: float | None) -> TypeGuard[float]:
    """Check whether an uncertainty is there, finite and above 0."""
    return uncertainty is not None and math.isfinite(uncertainty) and uncertainty > 0


def prefix_of(size: float) -> tuple[float, str]:
    """Choose the factor and the letter of the SI prefix that suits a size."""
    if size == 0 or _MILLI_BELOW <= size < KILO_FROM:
        return 1.0, ""
    if size < _MILLI_BELOW:
        return _PREFIXES[0]
    fitting = [pair for pair in _PREFIXES[2:] if size >= pair[0] * 0.9995]
    return fitting[-1]


def exponent(value: float, digits: int) -> int:
    """Return the power of ten of the first digit of ``value`` rounded to ``digits`` digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def plain(value: float, decimals: int) -> str:
    """Round at ``decimals`` (negative: before the point) and add thousands separators."""
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text

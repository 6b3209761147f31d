"""Normalize the numbers in answers, so that equal numbers are equal texts."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_SPACES = "\u00a0\u202f\u2009"
_DIGITS = rf"\d{{1,3}}(?:[{_SPACES} '’_]\d{{3}})+(?!\d)|\d+(?:,\d+)*(?:\.\d+)*|\.\d+"
NUMBER = re.compile(
    rf"(?<![\w.])[-+−–]?[$€£]?\s?(?:\d+\s?/\s?\d+|"
    rf"(?:{_DIGITS})(?:,\d+)?(?:[eE][-+−]?\d{{1,3}})?)\s?%?"
)
"""A number in running text: sign, currency, digits with separators, fraction, exponent, percent."""

_LARGEST_EXPONENT = 99
"""Limit for numbers: longer runs of digits are noise, and writing them out takes memory."""
_GROUPS = re.compile(r"\d{1,3}([.,])\d{3}(?:\1\d{3})*")


def normal_number(text: str) -> str | None:
    """Normalize a number: ``1,234.50`` -> ``1234.5``, ``1 000`` -> ``1000``, ``50 %`` -> ``50%``.

    A fraction is kept (``3/4``): it may not be meant as a quotient. Commas or points are
    thousands separators if three digits follow each of them and there are at least two (for commas,
    one is enough); in all other cases the last one is the decimal sign.

    Returns:
        The number in its normal form; None if it is not a number, or one of more than a hundred
        digits.
    """
    bare = re.sub(rf"[\s{_SPACES}'’_$€£]", "", text).replace("−", "-").replace("–", "-")
    bare = bare.removeprefix("+")
    percent = "%" if bare.endswith("%") else ""
    bare = bare.removesuffix("%")
    if fraction := re.fullmatch(r"(-?)(\d+)/(\d+)", bare):
        sign, over, under = fraction.groups()
        return f"{sign}{over.lstrip('0') or '0'}/{under.lstrip('0') or '0'}{percent}"
    mantissa, e, exponent = bare.lower().partition("e")
    try:
        number = Decimal(_point_decimal(mantissa) + e + exponent)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > _LARGEST_EXPONENT:
        return None
    if number == 0:
        return f"0{percent}"
    written = f"{number:f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written) + percent


def _point_decimal(digits: str) -> str:
    """Remove thousands separators and write the decimal sign as a point."""
    sign = "-" if digits.startswith("-") else ""
    digits = digits.removeprefix("-")
    comma, point = digits.rfind(","), digits.rfind(".")
    if comma >= 0 and point >= 0:
        decimal, thousands = (",", ".") if comma > point else (".", ",")
        return sign + digits.replace(thousands, "").replace(decimal, ".")
    groups = _GROUPS.fullmatch(digits)
    if groups and (groups[1] == "," or digits.count(".") > 1):
        return sign + digits.replace(groups[1], "")
    return sign + digits.replace(",", ".")

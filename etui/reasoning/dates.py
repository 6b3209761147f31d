"""Dates and times of day in answers, as keys that are equal for equal ones."""

from __future__ import annotations

import re
from datetime import date

_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_GERMAN = (
    *("januar", "februar", "märz", "april", "mai", "juni", "juli", "august", "september"),
    *("oktober", "november", "dezember"),
)
_NUMBERS = {
    **{name: number for number, name in enumerate(_GERMAN, 1)},
    **{name[:3]: number for number, name in enumerate(_MONTHS, 1)},
    **{name: number for number, name in enumerate(_MONTHS, 1)},
    "sept": 9,
}
_MONTH = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_YEAR = (
    r"(?P<year>[12]\d{3}|\d{1,4}(?=\s*(?:BCE?|AD|CE|v\. ?Chr)))(?P<era>\s*(?:BCE?|v\. ?Chr\.?))?"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|\.)?"
_PATTERNS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"\b(?P<year>\d{4})-(?P<number>\d{1,2})-(?P<day>\d{1,2})\b",
        r"\b(?P<day>\d{1,2})\.\s?(?P<number>\d{1,2})\.\s?(?P<year>\d{4})\b",
        rf"\b{_DAY}\s+(?:of\s+)?(?P<month>{_MONTH})\b\.?,?\s+(?:of\s+|in\s+)?{_YEAR}",
        rf"\b(?P<month>{_MONTH})\b\.?\s+{_DAY}(?:,\s*|\s+)(?:of\s+|in\s+)?{_YEAR}",
        rf"\b(?P<month>{_MONTH})\b\.?,?\s+(?:of\s+|in\s+)?{_YEAR}",
        rf"\b{_DAY}\s+(?:of\s+)?(?P<month>{_MONTH})\b",
        rf"\b(?P<month>{_MONTH})\b\.?\s+{_DAY}\b(?!\d)",
        rf"(?<![\d.,$€£]){_YEAR}\b(?![.,]\d|\s*%|s\b)",
    )
)
_LONGEST = 2000
"""Characters of an answer that are read."""
_SLASHED = re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b")
_TIME = re.compile(
    r"(?<![\d.,])(?P<hour>\d{1,2})(?:[:.](?P<minute>\d{2}))?\s*"
    r"(?P<half>a\.?m\b\.?|p\.?m\b\.?|o['’]clock|uhr\b)?",
    re.I,
)
_ASKS_FOR_DATE = re.compile(
    r"^\s*(?:when|wann)\b|\b(?:what|which|welche[mnrs]?)\s+(?:year|date|day|month|jahr|datum|tag)\b"
    r"|\bon what (?:date|day)\b",
    re.I,
)
_ASKS_FOR_YEAR = re.compile(r"\b(?:what|which|welche[mnrs]?)\s+(?:year|jahr)\b", re.I)
_ASKS_FOR_TIME = re.compile(r"\bwhat time\b|\bum wie ?viel uhr\b|\bwie spät\b", re.I)


def asks_for_date(question: str) -> bool:
    """Return whether a date is expected."""
    return _ASKS_FOR_DATE.search(question) is not None


def asks_for_time(question: str) -> bool:
    """Return whether a time of day is expected."""
    return _ASKS_FOR_TIME.search(question) is not None


def date_key(text: str, question: str) -> str | None:
    """Return the key of the first date in a text: ``1776-07-04``, ``1776-07`` or ``1776``.

    The most exact date counts, and only its year if a year is asked for. A date such as 3/4/2020
    could be March or April, so it is kept as it is written; 25/12/2020 is in December.

    Returns:
        The key; None without a date. Years before Christ are negative.
    """
    text = text[:_LONGEST]
    aside = re.sub(r",\s*[a-z][^,]*,", " ", text)  # ", which began in 1939,"
    return _first_date(aside, question) or _first_date(text, question)


def _first_date(text: str, question: str) -> str | None:
    slashed = _SLASHED.search(text)
    if slashed:
        return _slashed_key(slashed, year_only=_ASKS_FOR_YEAR.search(question) is not None)
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            key = _key(match.groupdict(), year_only=_ASKS_FOR_YEAR.search(question) is not None)
            if key is not None:
                return key
    return None


def time_key(text: str) -> str | None:
    """Return the key of the first time of day in a text, None without one: 3 pm is ``15:00``."""
    for match in _TIME.finditer(text):
        half = (match["half"] or "").lower().replace(".", "")
        if not half and match["minute"] is None:
            continue
        hour, minute = int(match["hour"]), int(match["minute"] or 0)
        if half in ("am", "pm"):
            if not 1 <= hour <= 12:
                continue
            hour = hour % 12 + (12 if half == "pm" else 0)
        if hour <= 24 and minute < 60:
            return f"{hour % 24:02}:{minute:02}"
    return None


def _slashed_key(match: re.Match[str], *, year_only: bool) -> str:
    first, second, year = (int(group) for group in match.groups())
    if year_only:
        return str(year)
    if first == second or max(first, second) > 12 >= min(first, second):
        month, day = (first, second) if second > 12 else (second, first)
        return _valid(year, month, day) or match[0]
    return f"{first}/{second}/{year}"


def _key(found: dict[str, str | None], *, year_only: bool) -> str | None:
    stated = found.get("year")
    year = int(stated) if stated else None
    if year is not None and (found.get("era") or "").strip():
        year = -year
    name = found.get("month")
    month = int(found.get("number") or 0) or (_NUMBERS[name.lower()] if name else None)
    day = int(found.get("day") or 0) or None
    if year_only and year is not None:
        return str(year)
    if month is None:
        return None if year is None else str(year)
    if day is not None:
        return _valid(year, month, day)
    return None if year is None else f"{year}-{month:02}"


def _valid(year: int | None, month: int, day: int) -> str | None:
    try:
        date(2000 if year is None or year < 1 else year, month, day)
    except ValueError:
        return None
    return f"{'-' if year is None else year}-{month:02}-{day:02}"

"""Prices by weekday and time, as ``tariff`` of ``config.yaml`` states them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

DAYS = ("mo", "tu", "we", "th", "fr", "sa", "su")
SLOTS_PER_DAY = 96
"""Quarter hours of a day, the steps of every tariff."""
_TIMES = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")
_WEEKDAY = "|".join(DAYS)
_WEEKDAYS = re.compile(rf"({_WEEKDAY})(-({_WEEKDAY}))?")


def parse_week(times: Mapping[str, float]) -> tuple[float | None, ...]:
    """Parse ``mo-fr 22:00-06:00: 0.18`` and the like into the prices of a week.

    A range that ends no later than it begins runs into the next day, and belongs to the day on
    which it begins. ValueError with the key that cannot be read, or states a price again, and why.
    """
    week: list[float | None] = [None] * (7 * SLOTS_PER_DAY)
    stated: dict[int, str] = {}
    for key, price in times.items():
        for slot in _list_slots(key):
            if slot in stated:
                day, quarter = divmod(slot, SLOTS_PER_DAY)
                at = f"{DAYS[day]} {quarter // 4:02}:{quarter % 4 * 15:02}"
                raise ValueError(key, f"{stated[slot]!r} states a price for {at} already")
            stated[slot] = key
            week[slot] = price
    return tuple(week)


def _list_slots(key: str) -> Iterator[int]:
    days, _, times = key.strip().lower().partition(" ")
    if not times and days[:1].isdigit():
        days, times = "mo-su", days
    first, last = 0, SLOTS_PER_DAY
    if times:
        found = _TIMES.fullmatch(times.strip())
        if found is None:
            raise ValueError(key, f"{times.strip()!r} is not a time range such as 22:00-06:00")
        first, last = (_parse_time(key, *found.group(at, at + 1)) for at in (1, 3))
        if first in (SLOTS_PER_DAY, last):
            raise ValueError(key, "the range is empty; for whole days leave the times out")
    for day in sorted(_list_days(key, days)):
        for slot in range(first, last if last > first else last + SLOTS_PER_DAY):
            yield (day * SLOTS_PER_DAY + slot) % (7 * SLOTS_PER_DAY)


def _parse_time(key: str, hour: str, minute: str) -> int:
    slot, rest = divmod(60 * int(hour) + int(minute), 15)
    if int(minute) > 59 or slot > SLOTS_PER_DAY:
        raise ValueError(key, f"{hour}:{minute} is not a time of a day")
    if rest:
        raise ValueError(
            key, f"{hour}:{minute} is not a quarter of an hour: use :00, :15, :30, :45"
        )
    return slot


def _list_days(key: str, text: str) -> set[int]:
    days: set[int] = set()
    for part in text.split(","):
        found = _WEEKDAYS.fullmatch(part)
        if found is None:
            raise ValueError(key, f"{part!r} is not a weekday or a range: mo, mo-fr, sa,su")
        first = DAYS.index(found[1])
        last = DAYS.index(found[3] or found[1])
        days |= {(first + step) % 7 for step in range((last - first) % 7 + 1)}
    return days

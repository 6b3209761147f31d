"""What a kilowatt-hour costs and emits at each time, and what joules cost by it.

A rate holds for a quarter hour of UTC, so summer time needs no rule of its own: the local time of
each quarter hour says which price holds. What has no known price is counted as such, never as 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import accumulate
from typing import Any, Literal

from etui.config.week_prices import SLOTS_PER_DAY
from etui.units import cost_text, number_text

SLOT_S = 900
"""Seconds of the time in which a rate does not change."""
JOULES_PER_KWH = 3_600_000.0
Goal = Literal["cheap", "clean"]


def slot_start(second: float) -> int:
    """Return when the quarter hour of a time begins."""
    return int(second // SLOT_S) * SLOT_S


@dataclass(frozen=True, slots=True)
class Rate:
    """Price and emissions of a kilowatt-hour; None where they are not known."""

    price: float | None = None  # In `currency`; negative where using electricity is paid for
    carbon: float | None = None  # Grams of CO2 equivalent
    currency: str = ""

    def of(self, joules: float, *, wall: bool = False) -> Cost:
        """Return the cost of joules that are spent while this rate holds."""
        kwh = joules / JOULES_PER_KWH
        return Cost(
            kilowatt_hours=kwh,
            price=None if self.price is None else kwh * self.price,
            grams_co2e=None if self.carbon is None else kwh * self.carbon,
            currency="" if self.price is None else self.currency,
            unpriced_kwh=kwh if self.price is None else 0.0,
            uncounted_kwh=kwh if self.carbon is None else 0.0,
            wall=wall,
        )

    def value(self, goal: Goal) -> float | None:
        """Return what ``cheap`` or ``clean`` makes as small as possible."""
        return self.price if goal == "cheap" else self.carbon

    def text(self, goal: Goal) -> str:
        """Format that value: ``0.18 EUR/kWh``, ``120 g/kWh``."""
        value = self.value(goal)
        if value is None:
            return "not known"
        unit = "g/kWh" if goal == "clean" else f"{self.currency}/kWh" if self.currency else ""
        return f"{number_text(float(f'{value:.3g}'))} {unit or 'per kWh'}"


RateAt = Callable[[int], Rate]
"""The start of a quarter hour in seconds since 1970 -> its rate."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an energy costs; sums of them are exact, and keep what has no known price apart."""

    kilowatt_hours: float = 0.0
    price: float | None = None  # Of the part with a known price; None if there is none
    grams_co2e: float | None = None  # The same for emissions
    currency: str = ""
    unpriced_kwh: float = 0.0  # Without a known price, or with one in another currency
    uncounted_kwh: float = 0.0  # Without known emissions
    wall: bool | None = None
    """Whether the joules are those at the wall; None if only some of them are."""

    def __add__(self, other: Cost) -> Cost:
        if not other.kilowatt_hours and other.price is None and other.grams_co2e is None:
            return self
        if not self.kilowatt_hours and self.price is None and self.grams_co2e is None:
            return other
        price, unpriced = other.price, self.unpriced_kwh + other.unpriced_kwh
        if None not in (self.price, price) and self.currency != other.currency:
            price, unpriced = None, unpriced + other.kilowatt_hours - other.unpriced_kwh
        return Cost(
            self.kilowatt_hours + other.kilowatt_hours,
            _add(self.price, price),
            _add(self.grams_co2e, other.grams_co2e),
            self.currency or other.currency,
            unpriced,
            self.uncounted_kwh + other.uncounted_kwh,
            self.wall if self.wall is other.wall else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Build the document; what follows from no known price or emissions is left out."""
        found: dict[str, Any] = {"kilowatt_hours": self.kilowatt_hours}
        if self.grams_co2e is not None:
            found["grams_co2e"] = self.grams_co2e
        if self.price is not None:
            found |= {"price": self.price, "currency": self.currency}
            if self.unpriced_kwh:
                found["unpriced_kilowatt_hours"] = self.unpriced_kwh
        if self.wall is not False:
            found["joules_of"] = "wall" if self.wall else "wall and inner channels"
        return found

    def text(self, *, fine: bool = False, about: bool = False) -> str:
        """Format emissions and price: ``1.2 g CO2e, 0.03 EUR``; empty if neither is known.

        ``fine`` shows the price of one answer, which is far below a cent, with two digits;
        ``about`` marks both, where the joules are only estimated.
        """
        text = cost_text(self.grams_co2e, self.price, self.currency, fine=fine, about=about)
        parts = [text] if text else []
        if self.price is not None and self.unpriced_kwh:
            share = self.unpriced_kwh / self.kilowatt_hours
            parts.append(f"no price known for {100 * share:.2g} % of it")
        if parts and self.wall is not False:
            parts.append("at the wall" if self.wall else "partly at the wall")
        return ", ".join(parts)


def _add(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other


def compute_cost(
    joules: float, start_s: float, end_s: float, rate_at: RateAt, *, wall: bool = False
) -> Cost:
    """Compute the cost of joules that were spent evenly from one time to another."""
    parts = (rate_at(slot).of(joules * share, wall=wall) for slot, share in _split(start_s, end_s))
    return sum(parts, Cost())


def price_energy(energy: Any, start_s: float, end_s: float, rate_at: RateAt) -> Cost | None:
    """Compute the cost of an energy: of its joules at the wall, where they are known.

    None if it was not measured.
    """
    wall = energy.wall
    joules = energy.joules if wall is None else wall.joules
    if joules is None:
        return None
    return compute_cost(joules, start_s, end_s, rate_at, wall=wall is not None)


def _split(start_s: float, end_s: float) -> Iterator[tuple[int, float]]:
    """Yield the quarter hours of a time, each with its share of it."""
    slot = slot_start(start_s)
    if end_s <= slot + SLOT_S or end_s <= start_s:
        yield slot, 1.0
        return
    while slot < end_s:
        yield slot, (min(end_s, slot + SLOT_S) - max(start_s, slot)) / (end_s - start_s)
        slot += SLOT_S


@dataclass(frozen=True, slots=True)
class Series:
    """Values with the times for which they hold, ascending and apart; between them none is known.

    Times are in seconds since 1970; an end is no longer in it.
    """

    starts: Sequence[int]
    ends: Sequence[int]
    values: Sequence[float]

    def at(self, second: int) -> float | None:
        """Return the value at a time; None if it is not known."""
        found = bisect_right(self.starts, second) - 1
        return self.values[found] if found >= 0 and second < self.ends[found] else None


@dataclass(frozen=True, slots=True)
class Tariff:
    """The user's prices and emissions by time."""

    flat: Rate  # What holds where nothing below does
    zone: tzinfo | None = None  # Of `week`; None is that of the machine
    week: Sequence[float | None] = ()
    """Prices of the quarter hours of a week, from Monday 00:00; empty without any."""
    prices: Series | None = None
    carbon: Series | None = None

    def rate(self, second: int) -> Rate:
        """Return the rate of the quarter hour that begins at a time."""
        price, carbon = self.flat.price, self.flat.carbon
        if self.prices is not None:
            price = self.prices.at(second)
        elif self.week:
            local = datetime.fromtimestamp(second, self.zone)
            at = local.weekday() * SLOTS_PER_DAY + local.hour * 4 + local.minute // 15
            stated = self.week[at]
            price = price if stated is None else stated
        if self.carbon is not None:
            carbon = self.carbon.at(second)
        return Rate(price, carbon, self.flat.currency)

    def known_rates(self, start_s: float, seconds: float) -> Iterator[tuple[int, Rate]]:
        """Yield the begin and the rate of each quarter hour of which something is known."""
        for slot in range(slot_start(start_s), int(start_s + seconds) + 1, SLOT_S):
            rate = self.rate(slot)
            if (rate.price, rate.carbon) != (None, None):
                yield slot, rate

    def known_until(self, goal: Goal, now_s: float) -> float | None:
        """Return until when values are known; None if the same one holds at all times."""
        series = self.prices if goal == "cheap" else self.carbon
        if series is not None:
            return float(series.ends[-1]) if series.ends else now_s
        return now_s + 7 * 24 * 3600 if goal == "cheap" and self.week else None


@dataclass(frozen=True, slots=True)
class Window:
    """A time to run in."""

    start_s: float
    end_s: float
    rate: Rate  # Mean over it
    now: Rate  # Mean over a time as long that begins now; not known where a part of it is not

    def saved(self, goal: Goal, joules: float) -> float | None:
        """Return what a run of so many joules saves in it against a start now; None if unknown."""
        then, now = self.rate.value(goal), self.now.value(goal)
        return None if then is None or now is None else (now - then) * joules / JOULES_PER_KWH


def find_window(
    rate_at: RateAt, goal: Goal, seconds: float, now_s: float, until_s: float
) -> Window | None:
    """Find the earliest of the cheapest (cleanest) times long enough that end by ``until_s``.

    Times of which a part has no known value are left out; None if nothing else is left. The mean of
    values that hold piece by piece is least where a time begins or ends with a piece.
    """
    first = slot_start(now_s)
    slots = range(first, int(max(until_s, now_s + seconds)) + 2 * SLOT_S, SLOT_S)
    values = [rate_at(slot).value(goal) for slot in slots]
    sums = [0.0, *accumulate(value or 0.0 for value in values)]
    gaps = [0, *accumulate(int(value is None) for value in values)]

    def integrate(moment_s: float) -> float:
        at, rest = divmod(moment_s - first, SLOT_S)
        return sums[int(at)] + (values[int(at)] or 0.0) * rest / SLOT_S

    def mean(start_s: float) -> float | None:
        end_s = start_s + max(seconds, 1.0)
        begin, end = int((start_s - first) // SLOT_S), -int(-(end_s - first) // SLOT_S)
        if gaps[end] - gaps[begin]:
            return None
        return (integrate(end_s) - integrate(start_s)) * SLOT_S / (end_s - start_s)

    edges = [slot - shift for slot in slots for shift in (0.0, seconds)]
    starts = sorted({now_s, *(edge for edge in edges if edge > now_s)})
    found = [(mean(at), at) for at in starts if at + seconds <= until_s]
    known = [(round(value, 12), at) for value, at in found if value is not None]
    if not known:
        return None
    value, start_s = min(known)
    currency = rate_at(first).currency

    def rate(value: float | None) -> Rate:
        cheap = goal == "cheap"
        return Rate(value if cheap else None, None if cheap else value, currency)

    return Window(start_s, start_s + seconds, rate(value), rate(mean(now_s)))

"""What the joules of the log cost, each at the price of its time.

The log notes the rate of every quarter hour in which it stores something, once. A cost uses the
noted rate, so a tariff that is changed later changes no cost of before; the tariff of today prices
only what has no noted rate: turns from before there was one, and hours whose price became known
later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import TYPE_CHECKING

from etui.energy.tariff import Cost, Rate, Tariff, compute_cost, price_energy, slot_start
from etui.energy.tariff_files import read_tariff
from etui.errors import InvalidFile, LogUnavailable
from etui.log.daily_energy import SPANS_SQL, day_start
from etui.log.filters import TurnFilter, build_clause
from etui.log.queries import LogReader
from etui.log.records import ReadRow
from etui.log.totals import spans_sql
from etui.text import format_utc
from etui.units import ESTIMATE

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.turn.record import TurnRecord


@dataclass(frozen=True, slots=True)
class Prices:
    """The rate of each quarter hour: as noted in the log, else by the tariff of today."""

    tariff: Tariff = field(default_factory=lambda: Tariff(Rate()))
    noted: Mapping[int, Rate] = field(default_factory=dict)
    problem: str = ""  # Why the tariff cannot be read, with what to do; empty if it can

    @property
    def has_prices(self) -> bool:
        """Whether a price may be known of any time; otherwise only emissions are."""
        tariff = self.tariff
        stated = tariff.flat.price is not None or bool(tariff.week) or tariff.prices is not None
        return stated or any(rate.price is not None for rate in self.noted.values())

    def rate(self, second: int) -> Rate:
        """Return the rate of the quarter hour that begins at a time."""
        noted = self.noted.get(second)
        if noted is not None and None not in (noted.price, noted.carbon):
            return noted
        now = self.tariff.rate(second)
        if noted is None:
            return now
        if noted.price is None:
            return Rate(now.price, noted.carbon, now.currency)
        return Rate(noted.price, now.carbon, noted.currency)

    def of_turn(self, turn: TurnRecord) -> Cost | None:
        """Return the cost of a turn, without loads; None if it was not measured."""
        start_s = datetime.fromisoformat(turn.created_at).timestamp()
        return price_energy(turn.energy, start_s, start_s + turn.seconds.total, self.rate)

    def facts(self, turn: TurnRecord) -> list[tuple[str, str]]:
        """Return the cost of a turn as pairs of name and text, none where nothing is known."""
        cost = self.of_turn(turn)
        if self.problem:
            return [("cost", self.problem)]
        if cost is None or (cost.price is None and cost.grams_co2e is None and not self.has_prices):
            return []
        text = cost.text(fine=True, about=turn.energy.kind == ESTIMATE)
        priced = cost.kilowatt_hours - cost.unpriced_kwh
        if cost.price is None and self.has_prices:
            text = f"{text}, no price known" if text else "no price known for this time"
        elif cost.price is not None and priced > 0:
            text += f" ({Rate(cost.price / priced, None, cost.currency).text('cheap')})"
        start_s = datetime.fromisoformat(turn.created_at).timestamp()
        is_noted = slot_start(start_s) in self.noted
        return [("cost", text if is_noted else f"{text}, by the tariff of today")]


def read_prices(log: LogReader, config: Config, *, strict: bool = True) -> Prices | None:
    """Read the prices; None if there is no tariff, and was none.

    Raises:
        InvalidFile: A file of the tariff cannot be read; without ``strict`` it is a `problem`.
    """
    try:
        tariff = read_tariff(config)
    except InvalidFile as error:
        if strict:
            raise
        return Prices(problem=f"{error.what}; {error.fix}")
    rows = log.select("SELECT start_s, price, carbon, currency FROM rates")
    if tariff is None and not rows:
        return None
    noted = {row[0]: Rate(*row[1:]) for row in rows}
    return Prices(noted=noted) if tariff is None else Prices(tariff, noted)


def read_cost_facts(config: Config, turn: TurnRecord) -> list[tuple[str, str]]:
    """Read what a turn of the log cost, as :meth:`Prices.facts`; none if it cannot be read."""
    with suppress(LogUnavailable), LogReader(config) as log:
        prices = read_prices(log, config, strict=False)
        return [] if prices is None else prices.facts(turn)
    return []


def sum_costs(
    log: LogReader, prices: Prices, by: str = "all", turn_filter: TurnFilter | None = None
) -> dict[tuple[str, bool], Cost]:
    """Sum the costs of turns per group of :data:`etui.log.totals.GROUPS`.

    The keys are the group, and whether the joules are only estimated.
    """
    sums: dict[tuple[str, bool], Cost] = {}
    for row in log.select(*spans_sql(by, build_clause(turn_filter or TurnFilter()))):
        key = (row["key"] or "", bool(row["estimated"]))
        sums[key] = sums.get(key, Cost()) + _price_span(row, prices)
    return sums


def sum_daily_costs(
    log: LogReader, prices: Prices, first: date, last: date, zone: tzinfo | None = None
) -> dict[date, Cost]:
    """Sum the costs of all that etui spent from one local day to another, see `daily_energy`."""
    days = [first + timedelta(days=n) for n in range((last - first).days + 2)]
    spans = list(pairwise(format_utc(day_start(day, zone)) for day in days))
    sums: dict[date, Cost] = {}
    for row in log.select(SPANS_SQL, (json.dumps(spans),)):
        day = days[int(row["day"])]
        sums[day] = sums.get(day, Cost()) + _price_span(row, prices)
    return sums


def _price_span(row: ReadRow, prices: Prices) -> Cost:
    """Price the joules of one time, or of many short ones within one quarter hour."""
    start_s, joules, wall = row["start_s"], row["joules"], bool(row["wall"])
    return compute_cost(joules, start_s, start_s + row["seconds"], prices.rate, wall=wall)

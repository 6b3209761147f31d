"""Costs of the log: each turn at the price of its time, and history that no new tariff changes."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etui.config.config import load_config
from etui.energy.tariff import SLOT_S, Rate, Tariff
from etui.energy.types import WallEnergy
from etui.errors import InvalidFile
from etui.log.daily_energy import read_daily_energy, sum_by_day
from etui.log.filters import TurnFilter
from etui.log.prices import (
    Prices,
    read_cost_facts,
    read_prices,
    sum_costs,
    sum_daily_costs,
)
from etui.log.queries import LogReader
from etui.log.records import AuditRecord
from etui.log.text import format_totals
from etui.log.writer import TurnWriter
from etui.text import format_utc
from etui.turn.record import LoadRecord
from tests.fixtures.turns import TURN
from tests.log.test_daily_energy import hop

NOON = datetime(2026, 11, 24, 11, 58, tzinfo=UTC)
DAY_AND_NIGHT = """price_per_kwh: 0.3
currency: EUR
tariff:
  zone: UTC
  times: {12:00-18:00: 0.1}
"""


def turn(
    number: int,
    when: datetime,
    joules: float | None,
    seconds: float = 10.0,
    wall: float | None = None,
    **changes,
):
    energy = replace(
        TURN.energy,
        joules=joules,
        kind=None if joules is None else "counter",
        wall=None if wall is None else WallEnergy(wall, 1.0, "c1"),
    )
    return replace(
        TURN,
        turn_id=f"t{number}",
        chat_id=None,
        created_at=format_utc(when),
        energy=energy,
        seconds=replace(TURN.seconds, total=seconds),
        **changes,
    )


def state(home, text: str):
    (home / "config.yaml").write_text(text)
    return load_config(os.environ)


def save(config, *records) -> None:
    with TurnWriter(config) as writer:
        for record in records:
            writer.save(record)


def test_a_turn_across_the_hour_has_both_prices(etui_home):
    config = state(etui_home, DAY_AND_NIGHT)
    whole = turn(1, NOON, 3.6e6, 240)  # two minutes on each side of noon
    save(config, whole)
    with LogReader(config) as log:
        prices = read_prices(log, config)
        assert prices is not None
        cost = prices.of_turn(whole)
        assert cost is not None
        assert cost.price == pytest.approx(0.2)
        assert prices.facts(whole) == [("cost", "0.20 EUR (0.2 EUR/kWh)")]
        assert read_cost_facts(config, whole) == prices.facts(whole)
        assert sum_costs(log, prices)["all", False].price == pytest.approx(0.2)
        assert prices.of_turn(turn(2, NOON, None)) is None


def test_a_changed_tariff_changes_no_cost_of_before(etui_home):
    config = state(etui_home, DAY_AND_NIGHT)
    before = turn(1, NOON, 3.6e6, 240)
    save(config, before)
    for text in ("price_per_kwh: 9\ncurrency: EUR\n", "currency: SEK\nprice_per_kwh: 1\n", ""):
        config = state(etui_home, text)
        with LogReader(config) as log:
            prices = read_prices(log, config)
            assert prices is not None
            assert prices.facts(before) == [("cost", "0.20 EUR (0.2 EUR/kWh)")]
            assert sum_costs(log, prices)["all", False].price == pytest.approx(0.2)
    save(config := state(etui_home, "price_per_kwh: 9\ncurrency: EUR\n"), before)
    with LogReader(config) as log:
        prices = read_prices(log, config)
        assert prices is not None
        assert prices.facts(before)[0][1].startswith("0.20 EUR"), "noted once, however often saved"


def test_the_cost_of_an_estimate_is_marked_as_one(etui_home):
    config = state(etui_home, "price_per_kwh: 0.25\ncarbon_g_per_kwh: 100\ncurrency: EUR\n")
    one = turn(1, NOON, 3.6e6)
    one = replace(one, energy=replace(one.energy, kind="estimate"))
    save(config, one)
    with LogReader(config) as log:
        prices = read_prices(log, config)
        assert prices is not None
        assert prices.facts(one) == [("cost", "≈100 g CO2e, ≈0.25 EUR (0.25 EUR/kWh)")]
        [total] = log.totals()
        assert "≈100 g CO2e, ≈0.25 EUR" in format_totals("all", [total], sum_costs(log, prices))[1]


def test_turns_from_before_any_tariff_are_priced_by_that_of_today_and_it_is_said(etui_home):
    config = state(etui_home, "")
    old = turn(1, NOON, 3.6e6)
    save(config, old)
    with LogReader(config) as log:
        assert read_prices(log, config) is None
        config = state(etui_home, "price_per_kwh: 0.25\ncurrency: EUR\n")
        prices = read_prices(log, config)
        assert prices is not None
        assert prices.facts(old) == [("cost", "0.25 EUR (0.25 EUR/kWh), by the tariff of today")]


def test_a_price_that_becomes_known_later_is_used_and_then_stays(etui_home):
    rows = "start,end,price EUR/kWh\n2026-11-24T11Z,2026-11-24T12Z,{}\n"
    config = state(etui_home, "carbon_g_per_kwh: 100\ntariff: {prices: p.csv}\n")
    (etui_home / "p.csv").write_text(rows.replace("T1", "T2").format(9))  # another time
    one = turn(1, NOON, 3.6e6, 60)
    save(config, one)

    def shown() -> str:
        with LogReader(config) as log:
            prices = read_prices(log, config)
            assert prices is not None
            return prices.facts(one)[0][1]

    assert shown() == "100 g CO2e, no price known"
    (etui_home / "p.csv").write_text(rows.format(0.5))
    assert "0.50 EUR" in shown()
    save(config, one)
    (etui_home / "p.csv").write_text(rows.format(0.7))
    assert "0.50 EUR" in shown()


def test_a_broken_file_of_prices_loses_no_turn_and_is_reported(etui_home):
    config = state(etui_home, "tariff: {prices: p.csv}\n")
    save(config, turn(1, NOON, 1.0))
    with LogReader(config) as log:
        assert log.count_turns() == 1
        with pytest.raises(InvalidFile, match=r"p.csv: cannot be read"):
            read_prices(log, config)
        prices = read_prices(log, config, strict=False)
        assert prices is not None
        [(name, text)] = prices.facts(log.get_turn("t1"))
        assert name == "cost"
        assert "cannot be read" in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3 * 86_400),
            st.one_of(st.none(), st.floats(0, 1e6)),
            st.floats(0, 5000),
            st.sampled_from(["a", "b"]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_totals_are_the_sums_of_their_turns(fill, tmp_path_factory, found):
    start = datetime(2026, 10, 24, tzinfo=ZoneInfo("Europe/Berlin"))  # 25 hours on the next day
    week = tuple(float(at % 7) - 1 if at % 11 else None for at in range(672))
    prices = Prices(Tariff(Rate(None, None, "EUR"), ZoneInfo("Europe/Berlin"), week))
    turns = [
        turn(
            n,
            start + timedelta(seconds=at),
            joules,
            seconds,
            wall=1.25 * joules if at_wall and joules is not None else None,
            model=model,
            hops=(hop("c", 1.0), hop(model, 2.0)) if has_hops and joules is not None else (),
        )
        for n, (at, joules, seconds, model, has_hops, at_wall) in enumerate(found)
    ]
    home = tmp_path_factory.mktemp("home")
    config = replace(load_config(os.environ), home=home)
    save(config, *turns)
    own = [cost for each in turns if (cost := prices.of_turn(each)) is not None]
    with LogReader(config) as log:
        whole = sum_costs(log, prices)
        expected = sum(cost.price or 0.0 for cost in own)
        got = sum(cost.price or 0.0 for cost in whole.values())
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-6)
        kwh = sum(cost.kilowatt_hours for cost in own)
        assert sum(cost.kilowatt_hours for cost in whole.values()) == pytest.approx(kwh)
        unpriced = sum(cost.unpriced_kwh for cost in whole.values())
        assert unpriced == pytest.approx(sum(c.unpriced_kwh for c in own), rel=1e-3, abs=1e-9)
        for by in ("model", "day", "key", "chat"):
            sums = sum_costs(log, prices, by)
            assert {key for key, _ in sums} <= {total.key for total in log.totals(by)}
        since = start + timedelta(days=1)
        later = [cost for each, cost in zip([t for t in turns if t.energy.joules is not None], own,
                 strict=True) if each.created_at >= format_utc(since)]  # fmt: skip
        some = sum_costs(log, prices, "all", TurnFilter(since=since))
        assert sum(c.kilowatt_hours for c in some.values()) == pytest.approx(
            sum(c.kilowatt_hours for c in later)
        )
        first = date(2026, 10, 24)
        last, zone = first + timedelta(days=4), ZoneInfo("Europe/Berlin")
        daily = sum_daily_costs(log, prices, first, last, zone)
        assert sum(c.kilowatt_hours for c in daily.values()) == pytest.approx(kwh)
        assert sum(c.price or 0.0 for c in daily.values()) == pytest.approx(
            expected, rel=1e-3, abs=1e-6
        )


def test_joules_at_the_wall_are_priced_where_they_are_known(etui_home):
    config = state(etui_home, "price_per_kwh: 1\ncurrency: EUR\n")
    cascade = turn(1, NOON, 3.6e6, wall=7.2e6, model="a", hops=(hop("c", 0.9e6), hop("a", 2.7e6)))
    save(config, cascade, turn(2, NOON, 3.6e6, model="b"))
    with LogReader(config) as log:
        prices = read_prices(log, config)
        assert prices is not None
        assert prices.facts(cascade) == [("cost", "2.0 EUR, at the wall (1 EUR/kWh)")]
        costs = sum_costs(log, prices, "model")
        shown = {name: (cost.price, cost.wall) for (name, _), cost in costs.items()}
        assert shown == {"a": (1.5, True), "c": (0.5, True), "b": (1.0, False)}
        for by in ("all", "key", "day"):
            [cost] = sum_costs(log, prices, by).values()
            assert (cost.price, cost.wall) == (pytest.approx(3.0), None)
        assert cost.text() == "3.00 EUR, partly at the wall"
        assert cost.to_json()["joules_of"] == "wall and inner channels"
        daily = sum_daily_costs(log, prices, NOON.date(), NOON.date(), UTC)
        assert daily[NOON.date()].price == pytest.approx(3.0)


def test_days_price_loads_and_audits_as_well(etui_home):
    config = state(etui_home, DAY_AND_NIGHT)
    load = LoadRecord(
        *("l1", format_utc(NOON), "small", None, None), 10.0, 3.6e5, None, "counter", 0, 1
    )
    audit = AuditRecord(
        *("a1", "t1", format_utc(NOON + timedelta(hours=1)), "p", "arm", "m", None, "arm", "m"),
        *("complete", "4", True, "", 1, 1.0, 3.6e5, None, "counter", 3.6e5),
    )
    save(config, turn(1, NOON, 3.6e5), load, audit)
    with LogReader(config) as log:
        prices = read_prices(log, config)
        assert prices is not None
        costs = sum_daily_costs(log, prices, NOON.date(), NOON.date(), UTC)
        assert costs[NOON.date()].price == pytest.approx(0.1 * (0.3 + 0.3 + 2 * 0.1))
        [(_, spent)] = sum_by_day(read_daily_energy(log, NOON.date(), NOON.date(), UTC), 1)
        assert costs[NOON.date()].kilowatt_hours == pytest.approx((spent.joules or 0.0) / 3.6e6)


def test_rates_are_noted_for_every_quarter_hour_of_a_long_turn():
    tariff = Tariff(Rate(1.0, None, "EUR"))
    found = [slot for slot, _ in tariff.known_rates(NOON.timestamp(), 3600)]
    assert [slot % SLOT_S for slot in found] == [0] * 5
    assert found[0] <= NOON.timestamp() < found[1]
    assert list(Tariff(Rate()).known_rates(NOON.timestamp(), 60)) == []

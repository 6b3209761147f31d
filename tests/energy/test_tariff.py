"""What joules cost by time: sums, summer time, gaps, negative prices, and the cheapest time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.week_prices import parse_week
from etui.energy.tariff import (
    SLOT_S,
    Cost,
    Rate,
    Series,
    Tariff,
    compute_cost,
    find_window,
)

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
START_S = 1_774_000_000 // SLOT_S * SLOT_S
prices = st.one_of(st.none(), st.floats(-1, 1))
days = st.lists(prices, min_size=96, max_size=96)
seconds = st.floats(0, 80_000)


def day_tariff(values: list[float | None], start_s: int = START_S) -> Tariff:
    known = [(start_s + at * SLOT_S, value) for at, value in enumerate(values) if value is not None]
    starts = [start for start, _ in known]
    series = Series(starts, [start + SLOT_S for start in starts], [value for _, value in known])
    return Tariff(Rate(currency="EUR"), prices=series, carbon=series)


def price_of(cost: Cost) -> float:
    return cost.price or 0.0


@given(days, seconds, seconds, st.floats(0, 1), st.floats(0, 1e9))
def test_the_parts_of_a_time_cost_what_the_whole_costs(values, begin, length, share, joules):
    rate_at = day_tariff(values).rate
    start, end = START_S + begin, START_S + begin + length
    middle = start + share * length
    whole = compute_cost(joules, start, end, rate_at)
    share = (middle - start) / (end - start) if end > start else share
    parts = compute_cost(joules * share, start, middle, rate_at)
    parts += compute_cost(joules * (1 - share), middle, end, rate_at)
    near = pytest.approx
    scale = joules / 3.6e6
    assert parts.kilowatt_hours == near(whole.kilowatt_hours)
    assert whole.kilowatt_hours == near(scale)
    if length > 1:
        assert price_of(parts) == near(price_of(whole), abs=1e-6 * scale + 1e-12)
        assert parts.unpriced_kwh == near(whole.unpriced_kwh, abs=1e-6 * scale + 1e-12)
    assert whole.unpriced_kwh <= whole.kilowatt_hours * (1 + 1e-9)
    if None not in values:
        assert whole.unpriced_kwh == 0 or end > START_S + 96 * SLOT_S


@pytest.mark.parametrize("zone", ZONES)
@given(st.dates(datetime(2025, 1, 1).date(), datetime(2027, 12, 30).date()))
def test_a_day_of_any_length_has_each_hour_at_its_price(zone, day):
    """A kilowatt for a day is 23 to 25 kWh, the hours of the night at their own price."""
    times = {"22:00-06:00": 0.1}
    where = ZoneInfo(zone)
    tariff = Tariff(Rate(0.3, None, "EUR"), where, parse_week(times))
    start = datetime.combine(day, datetime.min.time(), where).timestamp()
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), where).timestamp()
    cost = compute_cost(1000 * (end - start), start, end, tariff.rate)
    night = sum(
        not 6 <= datetime.fromtimestamp(at, where).hour < 22
        for at in range(int(start), int(end), SLOT_S)
    )
    hours = (end - start) / 3600
    assert hours in (23, 23.5, 24, 24.5, 25)
    assert cost.price == pytest.approx(0.1 * night / 4 + 0.3 * (hours - night / 4))
    assert cost.unpriced_kwh == 0


def test_the_hour_that_comes_twice_costs_twice_and_the_missing_one_nothing():
    berlin = ZoneInfo("Europe/Berlin")
    tariff = Tariff(Rate(0.0, None, "EUR"), berlin, parse_week({"02:00-03:00": 1.0}))
    for day, expected in (("2026-03-29", 0.0), ("2026-03-30", 1.0), ("2026-10-25", 2.0)):
        start = datetime.fromisoformat(day).replace(tzinfo=berlin)
        end = start + timedelta(days=1)  # of the calendar
        seconds = end.timestamp() - start.timestamp()
        cost = compute_cost(1000 * seconds, start.timestamp(), end.timestamp(), tariff.rate)
        assert cost.price == pytest.approx(expected), day


def test_a_range_across_midnight_belongs_to_the_day_on_which_it_begins():
    week = parse_week({"fr 22:00-06:00": 0.1, "su 23:00-01:00": 0.2})
    tariff = Tariff(Rate(0.3), ZoneInfo("UTC"), week)

    def at(text: str) -> float | None:
        return tariff.rate(int(datetime.fromisoformat(text).timestamp())).price

    assert at("2026-11-27T21:45+00:00") == 0.3  # a Friday
    assert at("2026-11-27T22:00+00:00") == at("2026-11-28T05:45+00:00") == 0.1
    assert at("2026-11-28T06:00+00:00") == at("2026-11-28T22:00+00:00") == 0.3
    assert at("2026-11-29T23:30+00:00") == at("2026-11-30T00:45+00:00") == 0.2  # into Monday
    assert at("2026-11-30T01:00+00:00") == 0.3


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"mo-fr 22-06": 1}, "not a time range"),
        ({"mo-xx 22:00-06:00": 1}, "not a weekday"),
        ({"mo 25:00-26:00": 1}, "not a time of a day"),
        ({"mo 22:10-23:00": 1}, "not a quarter of an hour"),
        ({"mo 22:00-22:00": 1}, "is empty"),
        ({"mo 24:00-06:00": 1}, "is empty"),
        ({"": 1}, "not a weekday"),
        ({"mo-fr 22:00-06:00": 1, "sa 05:00-07:00": 2}, "'mo-fr 22:00-06:00' states a price for"),
    ],
)
def test_times_that_cannot_be_read_say_why(times, why):
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        parse_week(times)
    assert caught.value.args[0] in times


def test_weekdays_wrap_and_join_and_whole_days_need_no_times():
    assert list(parse_week({"sa-mo": 1.0})[::96]) == [
        1,
        None,
        None,
        None,
        None,
        1,
        1,
    ]
    assert list(parse_week({"tu,th": 1.0})[::96]) == [None, 1, None, 1] + [None] * 3
    assert set(parse_week({"00:00-24:00": 1.0})) == {1.0}


def test_an_unknown_price_is_never_zero_and_is_said():
    tariff = day_tariff([0.2, None, -0.1, *[None] * 93])
    cost = compute_cost(3.6e6, START_S, START_S + 2 * SLOT_S, tariff.rate)
    assert cost.price == pytest.approx(0.1)
    assert cost.unpriced_kwh == pytest.approx(0.5)
    assert "no price known for 50 % of it" in cost.text()
    unknown = compute_cost(3.6e6, START_S + SLOT_S, START_S + SLOT_S + 60, tariff.rate)
    assert unknown.price is None
    assert "price" not in unknown.to_json()
    paid = compute_cost(3.6e6, START_S + 2 * SLOT_S, START_S + 3 * SLOT_S, tariff.rate)
    assert paid.price == pytest.approx(-0.1)
    assert "-0.10 EUR" in paid.text()


def test_prices_in_two_currencies_are_not_added():
    both = Rate(1.0, None, "EUR").of(3.6e6) + Rate(10.0, None, "SEK").of(3.6e6)
    assert (both.price, both.currency, both.unpriced_kwh) == (1.0, "EUR", 1.0)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1e7)), max_size=6), st.randoms())
def test_costs_add_up_in_any_order(parts, rng):
    costs = [Rate(price, None, "EUR").of(joules) for price, joules in parts]
    shuffled = rng.sample(costs, len(costs))
    one, other = sum(costs, Cost()), sum(shuffled, Cost())
    assert price_of(one) == pytest.approx(price_of(other), abs=1e-9)
    assert one.kilowatt_hours == pytest.approx(other.kilowatt_hours)


@given(days, st.integers(1, 96 * SLOT_S), st.integers(0, 40_000), st.data())
def test_no_other_time_is_cheaper(values, length, begin, data):
    tariff, now, until = day_tariff(values), START_S + begin, START_S + 96 * SLOT_S
    found = find_window(tariff.rate, "cheap", length, now, until)
    latest = until - length
    start = data.draw(st.integers(now, latest)) if latest >= now else None

    def mean(at: float) -> float | None:
        cost = compute_cost(3.6e6, at, at + length, tariff.rate)
        return None if cost.unpriced_kwh > 1e-12 else cost.price

    if found is None:
        assert start is None or mean(start) is None
        return
    assert now <= found.start_s <= latest
    assert found.rate.price == pytest.approx(mean(found.start_s), abs=1e-9)
    if start is not None and (other := mean(start)) is not None:
        assert found.rate.price <= other + 1e-9
    if (at_once := mean(now)) is not None:
        assert found.now.price == pytest.approx(at_once, abs=1e-9)
        assert found.saved("cheap", 3.6e6) >= -1e-9


def test_of_equal_times_the_first_is_chosen():
    tariff = day_tariff([0.2] * 96)
    found = find_window(tariff.rate, "clean", 3600, START_S + 100, START_S + 96 * SLOT_S)
    assert found is not None
    assert found.start_s == START_S + 100
    assert found.rate.carbon == pytest.approx(0.2)

"""CSV files of prices and of carbon: the exports of the platforms, and hostile ones."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import load_config
from etui.config.schema import SeriesEntry, TariffEntry
from etui.energy.tariff import Series
from etui.energy.tariff_files import parse_series, read_tariff
from etui.errors import EtuiError, InvalidFile

BERLIN = ZoneInfo("Europe/Berlin")


def second(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def parse(text: str, what: str = "price", zone=None, **spec) -> tuple[Series, str]:
    return parse_series("prices.csv", text, SeriesEntry(file="prices.csv", **spec), zone, what)


ENTSOE_OLD = """"MTU (CET/CEST)","Day-ahead Price [EUR/MWh]","Currency","BZN|DE-LU"
"01.01.2026 00:00 - 01.01.2026 01:00","29.02","EUR",""
"01.01.2026 01:00 - 01.01.2026 02:00","-3.5","EUR",""
"01.01.2026 02:00 - 01.01.2026 03:00","n/e","EUR",""
"""
ENTSOE = """"MTU (UTC)","Area","Sequence","Day-ahead Price (EUR/MWh)","Intraday Period (UTC)","Intraday Price (EUR/MWh)"
"01/01/2026 00:00:00 - 01/01/2026 00:15:00","BZN|DE-LU","Sequence 1","29.02","",""
"01/01/2026 00:00:00 - 01/01/2026 00:15:00","BZN|DE-LU","Sequence 2","31","",""
"01/01/2026 00:15:00 - 01/01/2026 00:30:00","BZN|DE-LU","Sequence 1","-3.5","",""
"""  # noqa: E501
SMARD = """Datum von;Datum bis;Deutschland/Luxemburg [€/MWh] Originalauflösungen
01.01.2026 00:00;01.01.2026 00:15;1.029,02
01.01.2026 00:15;01.01.2026 00:30;-
01.01.2026 00:30;01.01.2026 00:45;-3,5
"""
AWATTAR = """start_timestamp,end_timestamp,marketprice,unit
1767225600000,1767229200000,29.02,Eur/MWh
1767229200000,1767232800000,-3.5,Eur/MWh
"""
OCTOPUS = """valid_from,valid_to,value_exc_vat,value_inc_vat,payment_method
2026-01-01T00:30:00Z,2026-01-01T01:00:00Z,20,21,None
2026-01-01T00:00:00Z,2026-01-01T00:30:00Z,-1,-1.05,None
"""
MAPS = """Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),\
Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%),Data estimated
2026-01-01 00:00:00,Germany,Germany,DE,300.5,380,40,false
2026-01-01 01:00:00,Germany,Germany,DE,,,40,false
2026-01-01 02:00:00,Germany,Germany,DE,290,370,40,false
2026-01-01 03:00:00,Germany,Germany,DE,280,360,40,false
"""


def test_exports_of_entsoe_are_read_in_both_forms():
    series, currency = parse(ENTSOE_OLD)
    assert currency == "EUR"
    assert series.at(second("2026-01-01T00:59+01:00")) == pytest.approx(0.02902)
    assert series.at(second("2026-01-01T01:00+01:00")) == pytest.approx(-0.0035)
    assert series.at(second("2026-01-01T02:00+01:00")) is None
    assert series.at(second("2025-12-31T23:59+01:00")) is None
    series, _ = parse(ENTSOE)
    assert series.values == pytest.approx([0.02902, -0.0035])
    assert series.at(second("2026-01-01T00:15+00:00")) == pytest.approx(-0.0035)
    assert series.at(second("2026-01-01T00:30+00:00")) is None


def test_decimal_commas_and_euro_signs_of_smard_are_read():
    series, currency = parse(SMARD, zone=BERLIN)
    assert currency == "EUR"
    assert series.values == pytest.approx([1.02902, -0.0035])
    assert series.at(second("2026-01-01T00:15+01:00")) is None


def test_epochs_of_awattar_and_pence_of_octopus_are_read():
    series, currency = parse(AWATTAR)
    assert (currency, series.starts[0]) == ("EUR", second("2026-01-01T00:00+00:00"))
    assert series.values == pytest.approx([0.02902, -0.0035])
    with pytest.raises(InvalidFile, match="several columns fit"):
        parse(OCTOPUS)
    series, currency = parse(OCTOPUS, column="value_inc_vat", surcharge=0.01)
    assert currency == "GBP"
    assert series.values == pytest.approx([-0.0005, 0.22])  # newest first in the file


def test_carbon_of_electricity_maps_needs_the_choice_of_a_column():
    with pytest.raises(InvalidFile, match="several columns fit") as caught:
        parse(MAPS, "carbon")
    assert "column: .." in caught.value.fix
    series, _ = parse(MAPS, "carbon", column="Carbon intensity gCO₂eq/kWh (direct)")
    assert series.values == [300.5, 290, 280]
    assert series.at(second("2026-01-01T01:30+00:00")) is None, "a gap is not its neighbour"
    assert series.at(second("2026-01-01T03:59+00:00")) == 280


@pytest.mark.parametrize(
    ("unit", "factor", "currency"),
    [
        ("EUR/MWh", 0.001, "EUR"),
        ("€/kWh", 1, "EUR"),
        ("ct/kWh", 0.01, ""),
        ("p/kWh", 0.01, "GBP"),
        ("SEK per kWh", 1, "SEK"),
    ],
)
def test_units_of_prices(unit, factor, currency):
    series, found = parse("start,end,price\n2026-01-01T00Z,2026-01-01T01Z,200\n", unit=unit)
    assert series.values == [pytest.approx(200 * factor)]
    assert found == currency


@pytest.mark.parametrize(("unit", "factor"), [("g/kWh", 1), ("kg CO2e/MWh", 1), ("lb/MWh", 0.454)])
def test_units_of_carbon(unit, factor):
    series, _ = parse("start,end,co2 intensity\n2026-01-01T00Z,2026-01-01T01Z,200\n", "carbon",
                      unit=unit)  # fmt: skip
    assert series.values == [pytest.approx(200 * factor, rel=0.01)]


def local_rows(zone: ZoneInfo, first: datetime, hours: int, step: int) -> list[str]:
    starts = [first.astimezone(UTC) + timedelta(minutes=n) for n in range(0, 60 * hours, step)]
    return [f"{at.astimezone(zone):%Y-%m-%d %H:%M},{n}" for n, at in enumerate(starts)]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Europe/Lisbon"])
@pytest.mark.parametrize("step", [15, 30, 60])
def test_local_times_of_days_with_23_and_25_hours(zone, step):
    where = ZoneInfo(zone)
    for day in (*range(305, 310), *range(65, 70), *range(85, 90), 296, 297, 298):
        first = datetime(2026, 1, 1, tzinfo=where) + timedelta(days=day - 1)
        rows = local_rows(where, first, 50, step)
        for written in (rows, rows[::-1]):
            series, _ = parse("\n".join(["time,price EUR/kWh", *written]), zone=where)
            begin = int(first.timestamp())
            assert series.starts == [begin + n * 60 * step for n in range(len(rows))], day
            assert series.ends[-1] == begin + 50 * 3600
            assert series.values == [float(n) for n in range(len(rows))]


def test_the_hour_that_comes_twice_is_told_apart_by_its_zone_too():
    text = "\n".join(
        ['"MTU (CET/CEST)","Price (EUR/kWh)"']
        + [f'"25/10/2026 {a} - 25/10/2026 {b}",{n}' for n, (a, b) in enumerate([
            ("01:00:00", "02:00:00 (CEST)"), ("02:00:00 (CEST)", "02:00:00 (CET)"),
            ("02:00:00 (CET)", "03:00:00"), ("03:00:00", "04:00:00")])]
    )  # fmt: skip
    series, _ = parse(text)
    assert [end - start for start, end in zip(series.starts, series.ends, strict=True)] == [
        3600
    ] * 4
    assert series.starts[0] == second("2026-10-25T01:00+02:00")


def test_the_hour_that_is_missing_is_refused_only_with_a_value():
    rows = ["time,price EUR/kWh", "2026-03-29 01:00,1", "2026-03-29 02:00,{}", "2026-03-29 03:00,3"]
    series, _ = parse("\n".join(rows).format(""), zone=BERLIN)
    assert series.starts == [second("2026-03-29T00:00Z"), second("2026-03-29T01:00Z")]
    with pytest.raises(InvalidFile, match=r"prices.csv:3:1: .* does not exist") as caught:
        parse("\n".join(rows).format("2"), zone=BERLIN)
    assert "zone" in caught.value.fix


HEAD = "start,end,price EUR/kWh\n"
ROW = "2026-01-01T00Z,2026-01-01T01Z,{}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:0: no header"),
        (HEAD, "1:0: no header with rows"),
        ("a,b\n1,2\n", "1:1: no column with times"),
        ("start,b\n1,2\n", "1:1: no column with the price"),
        ("start,price\n2026-01-01T00Z,2\n", "1:2: the unit is not known"),
        ("start,price [x/parsec]\n2026-01-01T00Z,2\n", "1:2: the unit is not known"),
        (HEAD + ROW.format("abc"), "2:3: not a number: 'abc'"),
        (HEAD + ROW.format("nan") + ROW.format("1e999"), "3:3: not a number"),
        (HEAD + ROW.format("1,5"), "2:4: 4 cells below a header of 3"),
        (HEAD + ROW.format("1") + ROW.format("2"), "3:1: another line has a value"),
        (HEAD + "yesterday,2026-01-01T01Z,1\n", "2:1: not a time: 'yesterday'"),
        (
            HEAD + "2026-01-01T00:07Z,2026-01-01T01Z,1\n",
            "2:1: '2026-01-01T00:07Z' is not a quarter",
        ),
        (HEAD + "2026-01-01T01Z,2026-01-01T01Z,1\n", "2:2: '2026-01-01T01Z' is not after"),
        (HEAD + "2026-01-01T01Z,2027-01-01T01Z,1\n", "2:2: '2027-01-01T01Z' is not after"),
        (HEAD + "0001-01-01 00:00,2027-01-01T01Z,1\n", "2:1: not a time"),
        (HEAD + ROW.format("-"), "1:0: no row has a price"),
        (HEAD + '"2026-01-01T00Z,1', "not CSV"),
        (HEAD + "2026\x00-01-01T00Z,2026-01-01T01Z,1\n", "not"),
        ("time,price EUR/kWh\n2026-01-01T00Z,2\n", "2:1: how long the value holds"),
        ("time,price EUR/kWh\n2026-01-01T00Z,2\n2026-01-02T00Z,2\n", "how long the value holds"),
    ],
)
def test_what_is_wrong_is_said_with_line_column_and_a_fix(text, said):
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    assert said in caught.value.what
    assert caught.value.what.startswith("prices.csv:")
    assert caught.value.fix


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_text_is_read_or_refused(text):
    for body in (text, HEAD + text, HEAD + ROW.format(text)):
        with suppress(InvalidFile):
            series, _ = parse(body)
            pairs = list(zip(series.starts, series.ends, strict=True))
            assert all(start < end for start, end in pairs)
            assert pairs == sorted(pairs)


@given(
    st.lists(st.integers(0, 95), min_size=2, max_size=30, unique=True),
    st.sampled_from(["%Y-%m-%dT%H:%M+00:00", "%Y-%m-%d %H:%M:%SZ", "%d/%m/%Y %H:%M"]),
)
def test_a_value_holds_only_for_its_own_time(quarters, form):
    day = datetime(2026, 6, 1, tzinfo=UTC)
    starts = {n: day + timedelta(minutes=15 * n) for n in quarters}
    rows = [f"{at:{form}},{at + timedelta(minutes=15):{form}},{n}" for n, at in starts.items()]
    series, _ = parse("\n".join(["start (UTC),end,price EUR/kWh", *sorted(rows)]))
    for n in range(96):
        expected = float(n) if n in starts else None
        assert series.at(int(day.timestamp()) + 900 * n + 899) == expected


@pytest.fixture
def config(etui_home: Path):
    return load_config(os.environ)


def test_a_changed_file_is_read_again_and_a_missing_one_is_named(config):
    config = replace(config, tariff=TariffEntry(prices="prices.csv"))
    with pytest.raises(InvalidFile, match=r"prices.csv: cannot be read: No such file"):
        read_tariff(config)
    path = config.home / "prices.csv"
    for price in ("1", "22"):
        path.write_text(HEAD + ROW.format(price))
        tariff = read_tariff(config)
        assert tariff is not None
        assert tariff.rate(second("2026-01-01T00:30Z")).price == float(price)
        assert tariff.rate(second("2026-01-01T00:30Z")).currency == "EUR"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidFile, match=r"cannot be read"):
        read_tariff(config)
    path.write_text(HEAD + ROW.format(1))
    with pytest.raises(InvalidFile, match="prices in EUR, but config"):
        read_tariff(replace(config, currency="SEK"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tariff: {times: {'mo-fr 22-06': 0.18}}", "config.yaml:1:33: 'mo-fr 22-06': '22-06' is"),
        ("tariff: {zone: Mars/Base, times: {mo: 1}}", "'Mars/Base' is no time zone"),
        ("tariff: {times: {mo: 1}, prices: p.csv}", "either times or a file of prices"),
        ("price_per_kwh: 0.3\ntariff: {prices: p.csv}", "price_per_kwh has no effect beside"),
        ("tariff: {carbon: {file: c.csv, surcharge: 1}}", "a surcharge is added to prices"),
        ("tariff: {times: {mo: .nan}}", "mo"),
        ("tariff: {prices: {fil: p.csv}}", "fil"),
    ],
)
def test_mistakes_in_the_settings_have_their_place(etui_home, text, said):
    (etui_home / "config.yaml").write_text(text + "\n")
    with pytest.raises(EtuiError) as caught:
        load_config(os.environ)
    assert said in caught.value.what


def test_flat_prices_stay_valid_and_times_go_before_them(etui_home):
    (etui_home / "config.yaml").write_text(
        "price_per_kwh: 0.3\ncurrency: EUR\ncarbon_g_per_kwh: 400\n"
        "tariff:\n  zone: Europe/Berlin\n  times:\n    mo-fr 22:00-06:00: 0.18\n    su: -0.02\n"
    )
    tariff = read_tariff(load_config(os.environ))
    assert tariff is not None
    rate = tariff.rate(second("2026-11-27T23:00+01:00"))
    assert (rate.price, rate.carbon, rate.currency) == (0.18, 400, "EUR")
    assert tariff.rate(second("2026-11-27T12:00+01:00")).price == 0.3
    assert tariff.rate(second("2026-11-29T12:00+01:00")).price == -0.02

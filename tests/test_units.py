"""Quantities as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui import units
from etui.energy.types import Kind

joules = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)
widths = st.floats(min_value=1e-9, max_value=1e9)
kinds = st.sampled_from([*Kind, None])
anything = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
STEPS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def as_joules(number: str, unit: str) -> float:
    return float(number.replace(",", "").lstrip("≈")) * STEPS[unit.removesuffix("J")]


@given(anything, anything, kinds)
def test_net_joules_are_never_written_below_zero(value, width, kind):
    text = units.net_text(value, width, kind)
    assert "-" not in text
    if value is None or not math.isfinite(value):
        assert text == units.UNMEASURED
    elif value <= 0:
        assert text == "not above idle"
    else:
        assert text == units.energy_text(value, width, kind)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((12.34, 0.4, Kind.COUNTER), "12.3 ± 0.4 J (counter)"),
        ((12.304, 0.38, "counter"), "12.30 ± 0.38 J (counter)"),
        ((12345.6, 123.0, "integrated"), "12.35 ± 0.12 kJ (integrated)"),
        ((4321.0, 120.0, "counter"), "4,320 ± 120 J (counter)"),
        ((987.0, None, "counter"), "987 J (counter)"),
        ((9.99e-3, 0.996e-3, "counter"), "10 ± 1 mJ (counter)"),
        ((12.3, 4.0, Kind.ESTIMATE), "≈12 J (estimate)"),
        ((123.4, 4.0, "estimate"), "≈120 J (estimate)"),
        ((0.0, 0.0, "counter"), "0 J (counter)"),
        ((-3.21, 0.5, "counter"), "-3.2 ± 0.5 J (counter)"),
        ((-0.001, 0.5, "counter"), "0.0 ± 0.5 J (counter)"),
        ((0.8412, 0.4902, None), "0.84 ± 0.49 J"),
        ((7.82, 80.2, None), "8 ± 80 J"),
        ((None, 0.5, "counter"), "unmeasured"),
        ((math.nan, 0.5, "counter"), "unmeasured"),
        ((1.5, math.inf, None), "1.50 J"),
    ],
)
def test_energy_text(args, text):
    assert units.energy_text(*args) == text


def test_a_lopsided_energy_has_both_ends():
    assert units.energy_range_text(580.4, 371.0, 1415.0) == "580 J, 370-1,400"
    assert units.energy_range_text(0.58, 0.31, 1.4, "estimate") == "≈0.58 J, 0.31-1.4 (estimate)"
    assert units.energy_range_text(8e3, 6e3, 15e3, "counter") == "8.00 kJ, 6.0-15 (counter)"


def test_accuracies_have_one_decimal():
    assert units.accuracy_text(0.6123) == "61.2 %"
    assert units.accuracy_text(None) == "unknown"
    assert units.points_text(0.589, 0.635) == "58.9-63.5"
    assert [units.difference_text(d) for d in (0.0121, -0.004, -0.0001)] == ["+1.2", "-0.4", "0.0"]


def test_the_spread_of_an_estimate_is_written_when_asked():
    assert units.energy_text(12.3, 6.0, "estimate", spread=True) == "≈12 ± 6 J (estimate)"
    assert units.energy_text(12.3, 0.4, "counter", spread=False) == "12.3 J (counter)"


@given(joules, widths)
def test_digits_end_where_the_uncertainty_ends(value, width):
    number, _, rest = units.energy_text(value, width, None).partition(" ± ")
    spread, unit = rest.split(" ")
    assert abs(as_joules(spread, unit) - width) <= 0.0501 * width
    decimals = {len(part.partition(".")[2]) for part in (number, spread)}
    assert len(decimals) == 1
    assert abs(as_joules(number, unit) - value) <= 0.51 * width + 1e-9 * abs(value)
    assert len(spread.replace(",", "").replace(".", "").strip("0")) <= 2


@given(joules, st.one_of(st.none(), widths), kinds)
def test_an_estimate_is_always_labelled(value, width, kind):
    in_full = (
        units.energy_text(value, width, kind),
        units.energy_text(value, width, kind, spread=True),
        units.per_token_text(value, kind),
        units.watts_text(value, kind, width),
    )
    for text in (
        *in_full,
        units.watt_hours_text(value, kind),
        units.total_text(value, width, kind),
    ):
        assert text.startswith("≈") == (kind is Kind.ESTIMATE)
    for text in in_full:
        assert text.endswith("(estimate)") == (kind is Kind.ESTIMATE)


@pytest.mark.parametrize(
    ("value", "kind", "joules", "per_token", "watts"),
    [
        (42.31, "estimate", "≈42 J", "42 J/tok", "≈42 W"),
        (0.6612, "counter", "0.661 J", "0.661 J/tok", "0.661 W"),
        (0.0, None, "0 J", "0 J/tok", "0 W"),
        (None, "estimate", "unmeasured", "unmeasured", "unmeasured"),
    ],
)
def test_a_short_quantity_marks_an_estimate_and_names_no_kind(
    value, kind, joules, per_token, watts
):
    assert units.short_energy_text(value, kind) == joules
    assert units.short_per_token_text(value, kind) == per_token
    assert units.short_watts_text(value, kind) == watts


@given(anything, anything, kinds)
def test_what_is_not_measured_is_never_a_number(value, width, kind):
    missing = value is None or not math.isfinite(value)
    assert (units.energy_text(value, width, kind) == "unmeasured") == missing
    assert (units.watts_text(value, kind, width) == "unmeasured") == missing
    assert (units.per_token_text(value, kind, width) == "unmeasured") == missing
    assert (units.total_text(value, width, kind) == "unmeasured") == missing


@given(st.floats(min_value=1e-9, max_value=1e12), st.integers(min_value=1, max_value=6))
def test_significant_digits(value, digits):
    text = units.significant(value, digits).replace(",", "")
    assert "e" not in text
    assert abs(float(text) - value) <= max(0.51 * 10 ** (1 - digits) * value, 0)
    if "." in text:
        assert len(text.replace(".", "").lstrip("0")) == digits


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_quantity_is_written_with_an_exponent_or_a_bare_sign(value):
    if math.isfinite(value) and abs(value) > 1e12:
        return
    for text in (
        units.seconds_text(value),
        units.bytes_text(value),
        units.percent_text(value),
        units.speed_text(value),
    ):
        assert "e+" not in text
        assert "e-" not in text
        assert "nan" not in text
        assert "inf" not in text
        assert not text.startswith("-0 ")


def test_energy_per_token_and_power():
    assert units.per_token_text(0.5612) == "0.561 J/token"
    assert units.per_token_text(0.01234, "counter") == "12.3 mJ/token"
    assert units.per_token_text(0.5612, "estimate") == "≈0.56 J/token (estimate)"
    assert units.watts_text(118.04, "counter") == "118 W"
    assert units.watts_text(None) == "unmeasured"


def test_totals_are_in_joules_and_watt_hours():
    assert units.total_text(12300.0, None, "counter") == "12.3 kJ (counter), 3.42 Wh"
    assert units.total_text(12300.0, 500.0, "estimate") == "≈12 kJ, ≈3.4 Wh"
    assert units.watt_hours_text(3.6e6 * 12) == "12.0 kWh"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0.0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.2134, "0.21 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
        (3 * 86400.0, "3 d 0 h"),
    ],
)
def test_seconds_text(seconds, text):
    assert units.seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "half", "text"),
    [
        (4.2, 0.04, "4.20 ± 0.04 s"),
        (0.84, 0.49, "0.84 ± 0.49 s"),
        (0.0042, 0.0003, "4.2 ± 0.3 ms"),
        (2.0, 0.0, "2.00 s"),
        (2.0, None, "2.00 s"),
        (185.0, 12.0, "3 min 05 s ± 12.0 s"),
        (0.84, 80.0, "0.84 s ± 1 min 20 s"),
        (-25_200.0, 0.00021, "-7 h 00 min ± 0.21 ms"),
    ],
)
def test_the_half_width_of_a_duration(seconds, half, text):
    assert units.seconds_text(seconds, half) == text


def test_rates_counts_sizes_and_shares():
    assert units.speed_text(units.decode_speed(413, 10.8)) == "38.1 tok/s"
    assert units.speed_text(units.decode_speed(413, 0)) == "unknown"
    assert units.decode_speed(1, 2.0) is None, "its only token came with the prompt"
    assert units.decode_speed(12, 2.0, answers=2) == 5.0
    assert units.decode_speed(9, None) is None
    assert units.tokens_text(1) == "1 token"
    assert units.tokens_text(12345) == "12,345 tokens"
    assert units.tokens_text(None) == "unknown"
    assert units.count_text(2, "reply", "replies") == "2 replies"
    assert units.bytes_text(512) == "512 B"
    assert units.bytes_text(94_123_000) == "94.1 MB"
    assert units.bytes_text(999_960) == "1.00 MB"
    assert units.bytes_text(None) == "unknown"
    assert units.percent_text(0.384) == "38 %"
    assert units.percent_text(0.004) == "0.4 %"
    assert units.percent_text(0.9999) == ">99.9 %"
    assert units.percent_text(1.0) == "100 %"
    assert units.percent_text(0.0) == "0 %"
    assert units.percent_text(0.512, 0.032) == "51.2 ± 3.2 %"


def test_carbon_and_price_by_the_users_factors():
    assert units.cost_text(1.234, 0.000912, "EUR") == "1.23 g CO2e, < 0.01 EUR"
    assert units.cost_text(None, 2.0) == "2.00"
    assert units.price_text(0.0000369, "EUR") == "< 0.01 EUR"
    assert units.price_text(0.009, "EUR") == "0.01 EUR"
    assert units.price_text(1234.5, "EUR") == "1,234.50 EUR"
    assert units.price_text(0.0, "EUR") == "0 EUR"
    assert units.price_text(-1.5, "EUR") == "-1.50 EUR"
    assert units.price_text(-0.001, "EUR") == "> -0.01 EUR"
    assert units.cost_text(1234.5, None, "EUR") == "1,234 g CO2e"
    assert units.cost_text(None, None) == ""


@pytest.mark.parametrize(
    ("values", "unit", "kind", "text"),
    [
        ((3.1, 4.24, 5.07), "J", "counter", "3.10, 4.24, 5.07 J"),
        ((0.0198, 0.0293, 0.0333), "s", None, "19.8, 29.3, 33.3 ms"),
        ((12.0, 15.4, 19.2), "J", "estimate", "≈12, 15, 19 J (estimate)"),
        ((0.0, 0.0, 0.0), "J", None, "0, 0, 0 J"),
    ],
)
def test_several_values_share_a_prefix(values, unit, kind, text):
    assert units.several_text(values, unit, kind) == text


def test_multiples_keep_the_digits_of_their_interval():
    assert units.multiple_text(6.13, 5.2, 7.31) == "6.1x [5.2, 7.3]"
    assert units.multiple_text(0.4212, 0.371, 0.479) == "0.42x [0.37, 0.48]"
    assert units.multiple_text(127.3, 110, 151.2) == "127x [110, 151]"
    assert units.multiple_text(1.0, 0.998, 1.003) == "1.000x [0.998, 1.003]"
    assert units.multiple_text(2, 2, 2) == "2.0x [2.0, 2.0]"
    assert units.multiple_text(36.2) == "36x"
    assert units.multiple_text(6.1, 5.2, None) == "6.1x"
    assert units.multiple_text(0.0, 0.0, 0.0) == "0.0x [0.0, 0.0]"
    assert units.multiple_text(None) == "unknown"


def test_a_change_above_300_percent_is_a_multiple():
    assert units.change_text(1937.2, 1862.0, 2016.3) == "20.4x [19.6, 21.2]"
    assert units.size_text(1937.2, 1862.0, 2016.3) == "20.4x [19.6, 21.2]"
    assert units.change_text(400.0) == "5.0x"
    assert units.change_text(300.0, 290.0, 310.0) == "+300 % [290, 310]"
    assert units.size_text(300.0, 290.0, 310.0) == "300 % [290, 310]"
    assert units.size_text(-18.2, -20.1, -16.4) == "18 % [16, 20]"
    assert units.size_text(-18.2) == "18 %"
    assert units.change_text(450.0, signed=False) == "450 %", "a floor is no multiple"


def test_p_values_are_never_zero():
    assert units.p_value_text(0.0312) == "p = 0.031"
    assert units.p_value_text(0.5) == "p = 0.50"
    assert units.p_value_text(1.0) == "p = 1.00"
    assert units.p_value_text(1e-9) == "p < 0.001"
    assert units.p_value_text(None) == "not tested"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (2.5, "2.5"), (5.0, "5"), (9.97, "10"), (18.0, "18"), (350.0, "350"),
     (1200.0, "1.2k"), (2000.0, "2k"), (12_345.0, "12k")],
)  # fmt: skip
def test_a_number_of_an_axis_is_short(value, text):
    assert units.axis_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "age", "span"),
    [(30.0, "30s", "30 s"), (120.0, "120s", "2 min"), (210.0, "3.5min", "4 min"),
     (600.0, "10min", "10 min"), (3600.0, "60min", "1 h"), (9000.0, "2.5h", "2 h")],
)  # fmt: skip
def test_ages_and_spans_of_a_graph_are_short(seconds, age, span):
    assert units.age_text(seconds) == age
    assert units.span_text(seconds) == span


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (1234, "1.2k"),
        (9949, "9.9k"),
        (51_200, "51k"),
        (999_600, "1.0M"),
        (1_500_000, "1.5M"),
    ],
)
def test_a_large_count_takes_few_characters(count, text):
    assert units.short_count_text(count) == text


def test_tokens_that_no_tokenizer_counted_are_marked():
    assert units.short_tokens_text(1) == "1 token"
    assert units.short_tokens_text(1234, exact=False) == "≈1.2k tokens"

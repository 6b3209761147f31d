"""Rows, bars and layout of the power screen: what is shown at which width, and missing values."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.devices import ChannelState, DeviceVitals
from etui.energy.tariff import Rate
from etui.energy.types import Channel, ChannelPower, Kind
from etui.log.daily_energy import DailyEnergy, EnergySum, ModelDay
from etui.plots.power_history import Buckets
from etui.text import count_cells
from etui.tui.power.channel_rows import (
    MISSING,
    build_rows,
    header_text,
    long_name,
    name_channels,
    own_text,
    row_lines,
    spark_width,
    stack_runs,
)
from etui.tui.power.screen import _HINTS, _TITLES, PARTS, choose_layout
from etui.tui.power.spent_text import (
    NO_PRICE,
    NO_TURN,
    Spent,
    day_lines,
    list_money,
    model_lines,
    money_lines,
)

TODAY = date(2026, 11, 26)


def state(
    scope: str,
    watts: float | None = 100.0,
    limit: float | None = 350.0,
    idle: float | None = 20.0,
    own: float | None = 0.75,
    **device: float | int | None,
) -> ChannelState:
    channel = Channel(scope, scope, Kind.COUNTER, limit_watts=limit, label="NVIDIA L40S")
    vitals = DeviceVitals(scope, own_share=own, **device)  # type: ignore[arg-type]
    return ChannelState(ChannelPower(channel, 0, watts, None, True), vitals, idle)


EIGHT = [
    *(state(f"gpu:{n}", utilisation=0.5, temperature_celsius=61, clock_mhz=1980) for n in range(8)),
    state("package:0", 62.0, 150.0),
    state("dram:0", 9.0, None, None, None),
]
FLAT = Buckets(1.0, (100.0,) * 400, (100.0,) * 400)


def text(states: list[ChannelState], at: int, width: int) -> str:
    rows = build_rows(states)
    return "".join(part for part, _ in row_lines(rows[at], FLAT, rows, width, 1)[0])


def test_channels_have_short_names() -> None:
    assert name_channels(EIGHT) == [*(f"GPU{n}" for n in range(8)), "CPU", "RAM"]
    two = [state("package:0"), state("package:1"), state("gpu:x"), state("battery")]
    assert name_channels(two) == ["CPU0", "CPU1", "GPU0", "battery"]


def test_one_channel_is_its_own_total() -> None:
    assert [row.name for row in build_rows([state("estimate:cpu")])] == ["CPU"]
    assert build_rows([]) == ()


def test_at_120_columns_a_row_has_watts_limit_use_temperature_clock_and_own_watts() -> None:
    line = text(EIGHT, 1, 120)
    assert "100/350 W" in line
    assert "50 %" in line
    assert "61 °C" in line
    assert "1.98 GHz" in line
    assert "etui 60.0 W" in line
    dram = text(EIGHT, 10, 120)
    assert dram.count(MISSING) == 4  # use, temperature, clock, whose
    assert "9.00 W" in dram


def test_beside_the_chat_a_row_has_watts_use_temperature_and_memory() -> None:
    gpu = state("gpu:0", 231.0, utilisation=0.87, temperature_celsius=61,
                memory_used_bytes=40_000_000_000, memory_total_bytes=48_000_000_000)  # fmt: skip
    line = text([gpu], 0, 43)
    assert line.startswith("GPU0 ")
    assert line.rstrip().endswith("231/350 W 87 % 61 °C 40/48 GB")
    assert "°C" not in text([gpu], 0, 34)
    assert "GB" not in text([gpu], 0, 25)
    assert "231/350 W" in text([gpu], 0, 18)
    cpu = state("package:0", 62.0, 150.0, own=None)
    assert text([cpu], 0, 40).split()[-2:] == ["62/150", "W"], "what nobody reports takes no place"
    line = text([gpu, cpu], 2, 60)
    assert line.count(MISSING) == 3, "what only others have is a dash, and never 0"


def test_a_shared_device_has_etuis_watts_above_idle() -> None:
    assert "etui 82 W" in text([state("gpu:0", 130.0, shared=True)], 0, 60)
    assert "shared" in text([state("gpu:0", 130.0, own=None, shared=True)], 0, 60)


def test_what_is_not_in_the_total_has_a_star() -> None:
    psys = Channel("psys", "psys", Kind.COUNTER)
    one = ChannelState(ChannelPower(psys, 0, 80.0, None, False), DeviceVitals("psys"), None)
    assert text([one], 0, 40).startswith("machine* ")


def test_watts_that_are_unknown_are_never_zero() -> None:
    line = text([state("gpu:0", None, utilisation=None)], 0, 120)
    assert "unmeasured" in line
    assert " 0 W" not in line
    assert "0 %" not in line


def test_the_total_says_that_etui_may_have_more() -> None:
    total = build_rows(EIGHT)[0]
    assert total.watts == 871.0
    assert total.limit_watts is None  # that of the memory is unknown
    assert total.idle_watts is None
    assert own_text(total, 40) == "etui ≥512 W, others 170 W"
    assert own_text(total, 12) == "etui ≥512 W"


@given(st.integers(20, 240), st.integers(1, 4))
def test_a_row_is_as_wide_as_the_screen(width: int, height: int) -> None:
    rows = build_rows(EIGHT)
    assert count_cells(header_text(rows, width, "10 min")) <= max(width, 1)
    for row in rows:
        lines = row_lines(row, FLAT, rows, width, height)
        assert len(lines) == height
        if spark_width(rows, width) > 3:
            assert all(count_cells("".join(t for t, _ in line)) <= width for line in lines)


@given(
    st.none() | st.floats(0, 1000),
    st.none() | st.floats(0, 1000),
    st.none() | st.floats(0, 1),
    st.floats(1, 1000),
)
def test_a_stack_fills_its_cells_and_is_no_longer(
    watts: float | None, idle: float | None, own: float | None, top: float
) -> None:
    (row,) = build_rows([state("gpu:0", watts, None, idle, own)])
    assert sum(len(part) for part, _ in stack_runs(row, top, 12)) == 12


def test_a_stack_has_own_others_and_idle_watts_in_proportion() -> None:
    (row,) = build_rows([state("gpu:0", 120.0, 120.0, 40.0, 0.75)])
    assert [(len(part), ink) for part, ink in stack_runs(row, 120.0, 12)] == [
        (6, "own"),
        (2, "others"),
        (4, "idle"),
        (0, "text"),
    ]
    (unknown,) = build_rows([state("gpu:0", 120.0, 120.0, 40.0, None)])
    assert [ink for part, ink in stack_runs(unknown, 120.0, 12) if part] == ["muted", "idle"]


@given(st.integers(20, 250), st.integers(6, 90), st.integers(0, 14), st.sampled_from(PARTS))
def test_every_size_fits(width: int, height: int, rows: int, focused: str) -> None:
    layout = choose_layout(width, height, rows, focused, "days")  # type: ignore[arg-type]
    headings = 1 if layout.spent_height else 0
    columns = 1 if layout.channels_height else 0
    used = layout.graph_height + layout.channels_height + layout.spent_height + headings + columns
    assert used + 2 <= max(height, 4)
    if width >= 60 and height >= 16:
        assert layout.graph_height >= 5
        assert layout.spent_height >= 5
        assert len(layout.parts) == (3 if width >= 112 else 2)


def test_eleven_rows_are_all_seen_at_120_by_36() -> None:
    layout = choose_layout(120, 36, 11, "channels", "days")
    assert (layout.channels_height, layout.row_height) == (11, 1)
    assert layout.graph_height >= 8
    assert choose_layout(200, 60, 11, "channels", "days").row_height >= 2
    assert choose_layout(40, 10, 11, "channels", "days").graph_height == 0


def spent(rate: Rate | None = None) -> Spent:
    days = tuple(TODAY - timedelta(days=n) for n in reversed(range(40)))
    parts = (
        ModelDay(TODAY, "qwen3-4b", EnergySum(2, 3000.0, False, 0, 231.0)),
        ModelDay(TODAY, "small", EnergySum(5, 600.0, True)),
        ModelDay(TODAY - timedelta(days=2), "small", EnergySum(1, None, False, 1)),
        ModelDay(days[0], "old", EnergySum(1, 9e6)),
    )
    if rate is None:
        return Spent(DailyEnergy(days, parts), TODAY)
    costs = {TODAY: rate.of(3600.0), days[0]: rate.of(9e6)}
    return Spent(DailyEnergy(days, parts), TODAY, costs, "")


def test_bars_by_model_are_those_of_the_days_that_are_shown() -> None:
    lines = model_lines(spent(), 60)
    assert lines[0].startswith("qwen3-4b ")
    assert "3,000 J  2 answers" in lines[0]
    assert "≈600 J" in lines[1]
    assert len(lines) == 2  # the old model answered before


def test_bars_by_day_have_the_peak_and_no_zero_for_the_unknown() -> None:
    lines = day_lines(spent(), 60)
    assert lines[0].startswith("today")
    assert "≈3,600 J  ≈230 W" in lines[0]
    assert lines[1].split()[-1] == "–", "a day without anything, between two with something"
    assert "unmeasured" in lines[2]
    assert " 0 J" not in "\n".join(lines)
    assert len(lines) == 3, "days before the first are left out"


def test_money_needs_a_price_and_says_where_to_set_it() -> None:
    assert NO_PRICE in money_lines(spent(), 50)
    rate = Rate(0.36, None, "EUR")
    lines = money_lines(spent(rate), 50)
    assert NO_PRICE not in lines
    assert lines[0].split() == ["J", "Wh", "answers", "cost"]
    assert lines[1].split() == ["today", "≈3,600", "≈1.0", "7", "<", "0.01", "EUR"]
    assert lines[2].split() == ["answers", "≈3,600", "≈1.0", "7"]
    assert "1 unmeasured" in lines[6]
    assert money_lines(spent(rate), 34)[1].split() == ["today", "≈3,600", "<", "0.01", "EUR"]
    prices = {period: cost and cost.price for period, _, cost in list_money(spent(rate))}
    assert prices["day"] == pytest.approx(0.00036)
    assert prices["year"] == pytest.approx(0.90036)


def test_what_has_no_known_price_and_a_broken_tariff_are_said() -> None:
    some = spent(Rate(0.36, None, "EUR"))
    assert some.costs is not None
    part = replace(some, costs={**some.costs, TODAY - timedelta(days=1): Rate().of(9e6)})
    assert "no price known for 50 % of the year" in money_lines(part, 60)
    broken = replace(spent(), no_price="prices.csv:3:2: not a number; write one")
    assert money_lines(broken, 60)[-1] == "prices.csv:3:2: not a number; write one"


def test_an_empty_or_broken_log_says_what_to_do() -> None:
    empty = Spent(DailyEnergy((TODAY,)), TODAY)
    assert model_lines(empty, 60) == day_lines(empty, 60) == [NO_TURN]
    assert money_lines(empty, 60)[1].split() == ["today", "–", "–", "–"]
    broken = Spent(DailyEnergy(), TODAY, problem="the log is damaged; move it away")
    for lines in (model_lines(broken, 60), day_lines(broken, 60), money_lines(broken, 60)):
        assert lines == ["the log is damaged; move it away"]


def test_the_load_of_a_model_is_spent_before_any_answer() -> None:
    loaded = (ModelDay(TODAY, "small", EnergySum(0, 8.8, True), "loads"),)
    opened = Spent(DailyEnergy((TODAY,), loaded), TODAY)
    assert money_lines(opened, 50)[1].split() == ["today", "≈8.8", "≈0.0024", "–"]
    assert money_lines(opened, 50)[2].split() == ["loads", "≈8.8", "≈0.0024", "–"]
    assert model_lines(opened, 60)[0].endswith("≈8.8 J  only loaded")


def test_names_that_end_otherwise_stay_apart_where_they_are_cut() -> None:
    names = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
    parts = tuple(ModelDay(TODAY, name, EnergySum(1, 9.0)) for name in names)
    lines = model_lines(Spent(DailyEnergy((TODAY,), parts), TODAY), 30)
    assert len({line.split()[0] for line in lines}) == 2
    assert all(len(line) <= 30 for line in lines)


def test_an_estimate_is_named_once() -> None:
    channel = Channel("estimate:cpu", "estimate:cpu", Kind.ESTIMATE, label="CPU, estimated 5-18 W")
    power = ChannelPower(channel, 0, 9.0, None, True)
    vitals = DeviceVitals("estimate:cpu", own_share=0.5, shared=True)
    (row,) = build_rows([ChannelState(power, vitals, 5.0)])
    assert long_name(row) == "CPU, estimated 5-18 W"
    line = "".join(text for text, _ in row_lines(row, FLAT, [row], 60, 1)[0])
    assert "etui ≈2 W" in line
    assert "⣿" not in line, "the graph above has it"


@given(st.integers(10, 200))
def test_lines_fit_their_part(width: int) -> None:
    for lines in (model_lines(spent(), width), day_lines(spent(), width)):
        assert all(count_cells(line) <= max(width, 30) for line in lines)


def test_a_label_that_begins_with_the_name_is_enough() -> None:
    channel = Channel("package:0", "package:0", Kind.COUNTER, label="CPU package 0")
    one = ChannelState(ChannelPower(channel, 0, 9.0, None, True), DeviceVitals("package:0"), None)
    rows = build_rows([one])
    line = "".join(text for text, _ in row_lines(rows[0], FLAT, rows, 200, 1)[0])
    assert line.startswith("CPU package 0 ")


def test_the_titles_of_two_parts_fit_beside_each_other_at_80_columns() -> None:
    assert all(len(_TITLES[part] + _HINTS[part]) <= 38 for part in ("models", "days"))

"""Joules by local day and model: sums over days, hops, loads, changes of the clocks."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from etui.log import daily_energy
from etui.log.daily_energy import (
    DailyEnergy,
    EnergySum,
    ModelDay,
    day_start,
    first_day_shown,
    period_start,
    read_daily_energy,
    read_day,
    sum_by_day,
    sum_by_model,
    sum_by_period,
    sum_parts,
)
from etui.log.queries import LogReader
from etui.log.records import AuditRecord
from etui.log.writer import TurnWriter
from etui.text import format_utc
from etui.turn.record import (
    NAMES,
    HopRecord,
    LoadRecord,
    Tokens,
    TurnRecord,
    UnloadRecord,
)
from tests.fixtures.turns import TURN

BERLIN = ZoneInfo("Europe/Berlin")
FIRST, LAST = date(2026, 1, 1), date(2026, 12, 31)


def turn(
    number: int,
    when: datetime,
    joules: float | None = 10.0,
    model: str = "small",
    peak_watts: float | None = None,
    kind: str = "counter",
    hops: tuple[HopRecord, ...] = (),
) -> TurnRecord:
    energy = replace(
        TURN.energy, joules=joules, kind=None if joules is None else kind, peak_watts=peak_watts
    )
    return replace(
        TURN,
        turn_id=f"t{number}",
        chat_id=None,
        created_at=format_utc(when),
        model=model,
        energy=energy,
        hops=hops,
    )


def hop(model: str, joules: float | None) -> HopRecord:
    return HopRecord(
        *("quick", model, None, "direct", "4", "complete", None, None, None, False, False),
        Tokens(1, 0, 1, 0, 1), joules, None, 0.0, 1.0, "",
    )  # fmt: skip


def test_a_day_is_one_of_the_local_calendar(fill):
    log = fill(
        turn(1, datetime(2026, 6, 1, 21, 59, tzinfo=UTC), 1.0, peak_watts=120.0),  # 23:59 there
        turn(2, datetime(2026, 6, 1, 22, 1, tzinfo=UTC), 2.0),
    )
    days = sum_by_day(read_daily_energy(log, date(2026, 6, 1), date(2026, 6, 3), BERLIN), 3)
    assert [spent.joules for _, spent in days] == [1.0, 2.0, None]
    assert [spent.peak_watts for _, spent in days] == [120.0, None, None]
    assert days[2][1] == EnergySum()
    turns = daily_energy._TURNS_SQL.format("NOT IN")
    plan = log.select(f"EXPLAIN QUERY PLAN {turns}", ("[]", "[]"))
    assert any("COVERING INDEX turns_energy" in row["detail"] for row in plan)


@given(
    day=st.dates(date(1990, 1, 1), date(2035, 1, 1)),
    zone=st.sampled_from(
        [BERLIN, ZoneInfo("Pacific/Apia"), ZoneInfo("Asia/Beirut"), ZoneInfo("Asia/Kathmandu")]
    ),
)
def test_days_follow_on_each_other_without_a_gap(day, zone):
    start, end = day_start(day, zone), day_start(day + timedelta(days=1), zone)
    assert start <= end  # equal on a day that a country left out
    if start < end:
        assert (end - timedelta(microseconds=1)).astimezone(zone).date() == day
        assert start.astimezone(zone).date() == day


Entry = tuple[datetime, float | None, str]
ENTRIES = st.lists(
    st.tuples(
        st.datetimes(datetime(2026, 3, 20), datetime(2026, 11, 5)).map(
            lambda moment: moment.replace(tzinfo=UTC)
        ),
        st.none() | st.floats(0, 1e6),
        st.sampled_from(["small", "large", "huge"]),
    ),
    max_size=12,
)


@given(entries=ENTRIES, zone=st.sampled_from([BERLIN, ZoneInfo("America/St_Johns"), UTC]))
def test_the_sums_over_days_and_over_models_are_the_total(config, entries, zone):
    config.database.unlink(missing_ok=True)
    with TurnWriter(config) as writer:
        for number, (when, joules, model) in enumerate(entries):
            writer.save_turn(turn(number, when, joules, model))
    with LogReader(config) as log:
        daily = read_daily_energy(log, FIRST, LAST, zone)
    for path in config.database.parent.glob("etui.db*"):
        path.unlink()
    known = [joules for _, joules, _ in entries if joules is not None]
    total = sum_parts(daily.parts)
    assert total.turns == len(entries)
    assert total.unmeasured == len(entries) - len(known)
    assert (total.joules is None) == (not known)
    for sums in (sum_by_day(daily, len(daily.days)), sum_by_model(daily)):
        joules = [spent.joules for _, spent in sums if spent.joules is not None]
        assert math.isclose(sum(joules), sum(known), abs_tol=1e-6)
        assert sum(spent.turns for _, spent in sums) == len(entries)


SUMS = st.builds(
    EnergySum,
    st.integers(0, 9),
    st.none() | st.floats(0, 1e9),
    st.booleans(),
    st.integers(0, 9),
    st.none() | st.floats(0, 1e4),
)


@given(SUMS, SUMS)
def test_what_is_missing_never_counts_as_zero(left, right):
    both = left + right
    assert (both.joules is None) == (left.joules is None and right.joules is None)
    assert (both.peak_watts is None) == (left.peak_watts is None and right.peak_watts is None)
    assert both == right + left
    assert left + EnergySum() == left


@given(
    st.lists(
        st.tuples(st.dates(date(2025, 12, 1), date(2027, 1, 31)), st.floats(0, 1e6)), max_size=30
    ),
    st.dates(date(2026, 1, 1), date(2026, 12, 31)),
)
def test_a_longer_period_never_has_fewer_joules(spent, today):
    parts = tuple(ModelDay(day, "m", EnergySum(1, joules)) for day, joules in spent)
    sums = sum_by_period(DailyEnergy((), parts), today)
    assert sums["day"].turns <= sums["week"].turns
    assert sums["day"].turns <= sums["month"].turns <= sums["year"].turns
    assert sums["year"].turns == sum(
        1 for day, _ in spent if day.year == today.year and day <= today
    )


def test_a_week_begins_on_monday():
    assert period_start(date(2026, 11, 26), "week") == date(2026, 11, 23)
    assert period_start(date(2026, 11, 26), "month") == date(2026, 11, 1)
    assert first_day_shown(date(2027, 1, 2), 14) == date(2026, 12, 20)
    assert first_day_shown(date(2026, 1, 2), 1) == date(2025, 12, 29)  # its week began last year


def test_each_model_of_a_cascade_is_charged_its_hops(fill):
    noon = datetime(2026, 6, 1, 10, tzinfo=UTC)
    log = fill(
        turn(1, noon, 12.0, "large", 90.0, hops=(hop("small", 2.0), hop("large", 10.0))),
        turn(2, noon, 5.0, "small", 40.0),
        turn(3, noon, 7.0, "large", hops=(hop("small", None), hop("large", 7.0))),
    )
    daily = read_daily_energy(log, FIRST, LAST, BERLIN)
    by_model = dict(sum_by_model(daily))
    assert by_model["small"] == EnergySum(3, 7.0, False, 1, 90.0)
    assert by_model["large"] == EnergySum(2, 17.0, False, 0, 90.0)


def test_loads_count_as_they_do_for_budgets(config):
    when = format_utc(datetime(2026, 6, 1, 10, tzinfo=UTC))
    load = LoadRecord("l1", when, "small", None, None, 1.0, 30.0, 1.0, "estimate", 0, 100)
    with TurnWriter(config) as writer:
        writer.save_turn(turn(1, datetime(2026, 6, 1, 11, tzinfo=UTC), 12.0))
        writer.save_load(load)
        writer.save_load(replace(load, load_id="l2", joules=None, kind=None))
    with LogReader(config) as log:
        spent = sum_parts(read_daily_energy(log, FIRST, LAST, BERLIN).parts)
    assert spent.joules == 42.0
    assert (spent.turns, spent.unmeasured, spent.kind) == (1, 1, "estimate")


NOON = datetime(2026, 6, 1, 10, tzinfo=UTC)


def unload(number: int, when: datetime, before: float | None, cold: float | None) -> UnloadRecord:
    return UnloadRecord(
        f"u{number}", format_utc(when), "small", None, None, "room", 0.1, 1.0, 0.1, "counter", 9,
        before, 0.1, None, None, cold, 0.1,
    )  # fmt: skip


def audit(number: int, joules: float | None, load_joules: float | None) -> AuditRecord:
    return AuditRecord(
        f"a{number}", "t1", format_utc(NOON), "balanced", "large", "large", None, "quick", "small",
        "complete", "4", True, "", 3, 1.0, joules, None, "counter", load_joules,
    )  # fmt: skip


def test_a_day_is_the_sum_of_its_parts(config):
    title = replace(turn(2, NOON, 59.0), rule=None, settings={NAMES: "chat-1"})
    load = LoadRecord("l1", format_utc(NOON), "small", None, None, 1.0, 30.0, 1.0, "counter", 0, 9)
    half_an_hour = NOON + timedelta(minutes=30)
    with TurnWriter(config) as writer:
        for record in (
            turn(1, NOON, 12.0), title, turn(3, NOON, None), load, audit(1, 40.0, 5.0),
            audit(2, 7.0, None), audit(3, None, None), unload(1, half_an_hour, 9.0, 5.0),
            unload(2, half_an_hour, None, 5.0),
        ):  # fmt: skip
            writer.save(record)
    busy = 2 * TURN.seconds.total + TURN.seconds.total  # three turns in this half hour
    with LogReader(config) as log:
        day, parts = read_day(log, NOON.astimezone().date())
    assert list(parts) == ["answers", "titles", "loads", "audits", "idle"]
    assert parts["answers"] == EnergySum(2, 12.0, False, 1)
    assert parts["titles"] == EnergySum(0, 59.0), "a title is no answer"
    assert parts["loads"].joules == 30.0
    assert (parts["audits"].joules, parts["audits"].unmeasured) == (52.0, 2)
    assert math.isclose(parts["idle"].joules or 0.0, 4.0 * (1800 - busy), rel_tol=1e-4)
    assert parts["idle"].kind == "estimate"
    assert day.joules == sum(each.joules or 0.0 for each in parts.values())
    assert (day.turns, day.unmeasured) == (2, 3)


def test_idling_costs_nothing_below_the_idle_power(config):
    load = LoadRecord("l1", format_utc(NOON), "small", None, None, 1.0, 30.0, 1.0, "counter", 0, 9)
    with TurnWriter(config) as writer:
        writer.save(load)
        writer.save(unload(1, NOON + timedelta(minutes=1), 4.0, 5.0))
    with LogReader(config) as log:
        assert read_day(log, NOON.astimezone().date())[1]["idle"].joules == 0.0

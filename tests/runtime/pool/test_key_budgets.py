"""Joules of a key within an hour: counted as turns end, from the log at the start, and freed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.errors import BudgetSpent, EnergyBudgetSpent
from etui.log.writer import TurnWriter
from etui.runtime.energy_books import HOUR_SECONDS, KeyBudgets, find_wait
from etui.text import format_utc
from etui.turn.record import ClientRecord
from tests.fixtures.turns import TURN
from tests.runtime.pool.pool_stage import Stage

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_key_is_refused_until_the_window_has_moved(config: Config, clock: Clock) -> None:
    budgets = KeyBudgets({"editor": 100.0}, config, clock)
    budgets.add("editor", 60.0)
    clock.now += 600
    budgets.check("editor")
    budgets.add("editor", 50.0)
    with pytest.raises(EnergyBudgetSpent, match="hourly budget of key 'editor' is spent") as caught:
        budgets.check("editor")
    assert isinstance(caught.value, BudgetSpent)
    assert caught.value.retry_seconds == pytest.approx(HOUR_SECONDS - 600)
    assert "110 J" in caught.value.what
    clock.now += caught.value.retry_seconds + 1
    budgets.check("editor")


def test_other_keys_and_unmeasured_turns_are_not_limited(config: Config, clock: Clock) -> None:
    budgets = KeyBudgets({"editor": 100.0}, config, clock)
    budgets.add("agent", 1e9)
    budgets.add("editor", None)
    for key in ("agent", "editor", ""):
        budgets.check(key)


def test_turns_before_the_start_count_if_they_are_of_the_key_and_the_hour(
    config: Config, clock: Clock
) -> None:
    with TurnWriter(config) as writer:
        for number, (key, minutes, joules) in enumerate(
            [("editor", 30, 70.0), ("editor", 70, 500.0), ("agent", 5, 500.0), ("editor", 10, 20.0)]
        ):
            writer.save_turn(
                replace(
                    TURN,
                    turn_id=f"id{number:010}",
                    created_at=format_utc(datetime.fromtimestamp(NOON - 60 * minutes, UTC)),
                    energy=replace(TURN.energy, joules=joules),
                    client=ClientRecord("/v1/chat/completions", key),
                )
            )
    budgets = KeyBudgets({"editor": 100.0}, config, clock)
    budgets.check("editor")
    budgets.add("editor", 10.0)
    with pytest.raises(EnergyBudgetSpent) as caught:
        budgets.check("editor")
    seconds = 1800 + TURN.seconds.total  # the 70 J end half an hour ago
    assert caught.value.retry_seconds == pytest.approx(seconds, abs=1)


def test_a_damaged_log_does_not_prevent_the_start(config: Config, clock: Clock) -> None:
    config.database.write_bytes(b"not a database, but long enough to be one " * 50)
    KeyBudgets({"editor": 1.0}, config, clock).check("editor")


spendings = st.lists(
    st.tuples(st.floats(0, HOUR_SECONDS - 1), st.floats(0, 1000)), min_size=1, max_size=30
)


@given(spent=spendings, limit=st.floats(0.1, 2000))
def test_after_the_wait_less_than_the_limit_is_left_and_not_much_earlier(
    spent: list[tuple[float, float]], limit: float
) -> None:
    spent = sorted(spent)
    now = HOUR_SECONDS - 1

    def left(at: float) -> float:
        return sum(joules for began, joules in spent if began + HOUR_SECONDS > at)

    if left(now) < limit:
        return
    wait = find_wait(spent, limit, now)
    assert 0 <= wait <= HOUR_SECONDS
    assert left(now + wait + 1e-6) < limit + 1e-6
    if wait > 1:
        assert left(now + wait - 1) >= limit - 1e-6


def test_memory_does_not_grow_with_the_number_of_turns(config: Config, clock: Clock) -> None:
    budgets = KeyBudgets({"editor": 1e12}, config, clock)
    for _ in range(20_000):
        clock.now += 0.9
        budgets.add("editor", 1.0)
    assert len(budgets._spent["editor"]) <= HOUR_SECONDS


def test_a_pool_refuses_the_key_and_answers_others(here: Config) -> None:
    with closing(Stage(here, joules_per_hour={"editor": 30.0})) as stage:
        stage.host.gate = False
        first, _ = stage.submit("first", key="editor")
        stage.host.wait_until(lambda: stage.host.running == 1)
        second, _ = stage.submit("second", key="editor")
        third, _ = stage.submit("third", key="editor")
        stage.host.open_gate()
        assert (first.record.energy.joules or 0) > 30
        for refused in (second, third):  # they waited already
            assert isinstance(refused.error, EnergyBudgetSpent)
        with pytest.raises(EnergyBudgetSpent) as caught:
            stage.submit("fourth", key="editor")
        assert 3000 < caught.value.retry_seconds <= HOUR_SECONDS
        assert stage.ask("other", key="agent").status == "complete"
        assert stage.host.asked == ["first", "other"]

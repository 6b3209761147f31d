"""What chats, days and budgets have cost, in words; and joules a token of the last moments."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.log.daily_energy import EnergySum
from etui.plots.power_history import PHASES
from etui.tui.chat.progress import finished_thinking_title
from etui.tui.power.energy_text import (
    RecentTokens,
    budget_bar,
    budget_text,
    sum_chat,
    sum_lines,
    tightest_budget,
)
from etui.tui.power.feed import Stage, mark_stage
from etui.tui.services import BudgetState
from etui.turn.record import TurnRecord
from tests.tui.fakes import turn_record

SECOND = 1_000_000_000


def rows(*records: TurnRecord, net: bool = False) -> list[list[str]]:
    table = sum_lines("SPENT", [("chat", sum_chat(records, net=net), "")], 43)
    return [line.split() for line in table]


def test_a_chat_is_a_row_of_joules_watt_hours_and_answers() -> None:
    two = (turn_record(0), turn_record(1))
    assert rows(*two) == [["SPENT", "J", "Wh", "answers"], ["chat", "25.0", "0.00694", "2"]]
    assert rows(*two, net=True)[1] == ["chat", "20.0", "0.00556", "2"]
    assert rows()[1] == ["chat", "–", "–", "–"]


def test_what_is_unmeasured_is_counted_apart_and_never_zero() -> None:
    none = replace(turn_record(0).energy, joules=None, net_joules=None, kind=None)
    unmeasured = turn_record(1, energy=none)
    assert rows(unmeasured)[1] == ["chat", "–", "–", "1"]
    assert rows(turn_record(0), unmeasured)[1] == ["chat", "12.5", "0.00347", "2"]
    assert sum_chat([unmeasured], net=False).unmeasured == 1


def test_net_is_never_shown_below_zero() -> None:
    below = turn_record(0, energy=replace(turn_record(0).energy, net_joules=-1.4))
    assert rows(below, net=True)[1] == ["chat", "≤", "idle", "–", "1"]
    assert rows(below, turn_record(1), net=True)[1][1] == "8.60"


def test_every_estimate_is_marked() -> None:
    estimated = turn_record(1, energy=replace(turn_record(0).energy, kind="estimate"))
    assert rows(estimated)[1] == ["chat", "≈12", "≈0.0035", "1"]
    guess = BudgetState("hour", 20_000.0, 5_000.0, estimated=True)
    assert "≈25 %" in budget_bar(guess, 34)
    assert "≈5,000 J, ≈1.4 Wh spent" in budget_text(guess)


@given(
    st.lists(st.tuples(st.none() | st.floats(0.001, 1e9), st.booleans(), st.integers(1, 10**6))),
    st.integers(20, 100),
)
def test_the_columns_stand_below_each_other_and_fit(
    found: list[tuple[float | None, bool, int]], width: int
) -> None:
    sums = [("today", EnergySum(count, joules, guess), "") for joules, guess, count in found]
    lines = sum_lines("SPENT", sums, width)
    assert len({cell_len(line) for line in lines}) == 1
    assert cell_len(lines[0]) <= width
    if width >= 50:
        assert lines[0].split() == ["SPENT", "J", "Wh", "answers"]


def test_a_budget_tells_its_limit_and_what_was_spent_of_it() -> None:
    assert budget_text(BudgetState("hour", 20_000.0, 12_300.0)) == (
        "20.0 kJ, 5.56 Wh · 12.3 kJ, 3.42 Wh spent · 62 %"
    )
    assert budget_text(BudgetState("turn", 400.0, None)) == "at most 400 J, 0.111 Wh"
    assert "spent unmeasured" in budget_text(BudgetState("day", 400.0, None))


def test_joules_per_token_now_are_those_of_the_last_two_seconds() -> None:
    recent = RecentTokens()
    assert recent.since(0, 0) is None
    assert recent.since(1 * SECOND, 10) is None
    assert recent.since(2 * SECOND, 30) == (0, 30)
    assert recent.since(3 * SECOND, 60) == (1 * SECOND, 50)
    assert recent.since(9 * SECOND, 60) is None or recent.looks[0][0] >= 3 * SECOND


def test_another_answer_begins_anew() -> None:
    recent = RecentTokens()
    recent.since(0, 100)
    assert recent.since(5 * SECOND, 3) is None


def test_every_phase_has_a_letter() -> None:
    assert mark_stage(Stage.DONE) == " "
    for stage in (Stage.LOADING, Stage.PREFILL, Stage.THINKING, Stage.ANSWERING):
        assert mark_stage(stage) in PHASES.strip()


def test_a_budget_has_a_bar_as_long_as_what_is_spent() -> None:
    spent = BudgetState("hour", 20_000.0, 5_000.0)
    assert budget_bar(spent, 34) == "hour ███░░░░░░░░░░ 25 % of 20.0 kJ"
    assert len(budget_bar(spent, 34)) <= 34
    assert budget_bar(spent, 10) == "hour 25 % of 20.0 kJ"
    assert budget_bar(BudgetState("day", 400.0, 800.0), 30).count("░") == 0
    assert "200 %" in budget_bar(BudgetState("day", 400.0, 800.0), 30)
    assert budget_bar(BudgetState("day", 400.0, None), 30) == "day unmeasured of 400 J"
    assert budget_bar(BudgetState("turn", 400.0, None), 30) == ""


def test_the_tightest_budget_is_the_one_with_the_largest_share() -> None:
    hour, day = BudgetState("hour", 100.0, 10.0), BudgetState("day", 1000.0, 900.0)
    assert tightest_budget([BudgetState("turn", 1.0, None), hour, day]) is day
    assert tightest_budget([BudgetState("hour", 100.0, None)]) is None


def test_a_thought_has_its_share_of_tokens_and_joules() -> None:
    record = turn_record(0, thinking="hm", tokens=replace(turn_record(0).tokens, thinking=10))
    record = replace(record, energy=replace(record.energy, thinking_joules=5.0))
    assert finished_thinking_title(record) == (
        "thinking · 10 tokens (40 %) · 5.00 J, 40 % of the joules"
    )

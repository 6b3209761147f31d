"""What chats, days and budgets have cost, in words; and joules a token of the last moments."""

from __future__ import annotations

from dataclasses import replace

from etui.log.totals import Total
from etui.tui.chat.progress import finished_thinking_title
from etui.tui.power.energy_text import (
    NO_BASELINE,
    RecentTokens,
    budget_bar,
    budget_text,
    chat_text,
    spent_joules,
    tightest_budget,
    today_text,
)
from etui.tui.power.feed import LEGEND, Stage, mark_stage
from etui.tui.services import BudgetState
from tests.tui.fakes import turn_record

SECOND = 1_000_000_000
TODAY = Total("all", 45, 12_300.0, 10.0, "counter", None, 0, 9_000, 1.3, 100.0)


def test_a_chat_is_told_in_joules_and_watt_hours_gross_or_net() -> None:
    records = [turn_record(0), turn_record(1)]
    assert chat_text(records, net=False) == "25.0 J, 6.94 mWh · 2 answers"
    assert chat_text(records, net=True) == "20.0 J, 5.56 mWh · 2 answers"


def test_what_is_unmeasured_is_counted_apart_and_never_zero() -> None:
    none = replace(turn_record(0).energy, joules=None, net_joules=None, kind=None)
    unmeasured = turn_record(1, energy=none)
    assert chat_text([unmeasured], net=False) == "unmeasured · 1 answer"
    mixed = chat_text([turn_record(0), unmeasured], net=False)
    assert mixed == "12.5 J, 3.47 mWh · 2 answers · 1 of them unmeasured"


def test_net_without_a_baseline_says_so() -> None:
    energy = replace(turn_record(0).energy, net_joules=None)
    assert chat_text([turn_record(0, energy=energy)], net=True) == f"{NO_BASELINE} · 1 answer"


def test_net_is_never_shown_below_zero() -> None:
    below = turn_record(0, energy=replace(turn_record(0).energy, net_joules=-1.4))
    assert chat_text([below], net=True) == "not above idle · 1 answer"
    assert chat_text([below, turn_record(1)], net=True).startswith("8.60 J")


def test_an_estimate_makes_the_sum_one() -> None:
    estimated = turn_record(1, energy=replace(turn_record(0).energy, kind="estimate"))
    assert chat_text([estimated], net=False) == "≈12 J, ≈3.5 mWh · 1 answer"


def test_a_day_tells_readings_and_estimates_apart() -> None:
    assert today_text(None) == "nothing yet"
    assert today_text(TODAY) == "12.3 kJ, 3.42 Wh · 45 answers"
    both = replace(TODAY, estimated_joules=3600.0, unmeasured_turns=2)
    assert today_text(both) == (
        "12.3 kJ, 3.42 Wh · ≈3,600 J, ≈1.0 Wh · 45 answers · 2 of them unmeasured"
    )
    assert today_text(replace(TODAY, joules=None)) == "unmeasured · 45 answers"


def test_a_budget_tells_its_limit_and_what_was_spent_of_it() -> None:
    assert budget_text(BudgetState("hour", 20_000.0, 12_300.0)) == (
        "20.0 kJ, 5.56 Wh · 12.3 kJ, 3.42 Wh spent · 62 %"
    )
    assert budget_text(BudgetState("turn", 400.0, None)) == "at most 400 J, 0.111 Wh"
    assert "spent unmeasured" in budget_text(BudgetState("day", 400.0, None))


def test_a_budget_counts_readings_and_estimates_together() -> None:
    assert spent_joules(None) == 0.0
    assert spent_joules(replace(TODAY, estimated_joules=700.0)) == 13_000.0
    assert spent_joules(replace(TODAY, joules=None)) is None


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
        assert mark_stage(stage) in LEGEND


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

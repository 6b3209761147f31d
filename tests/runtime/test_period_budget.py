"""Budgets of an hour and a day, against a log of one's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from etui.chat import Query
from etui.errors import BudgetSpent, ExitCode
from etui.log.queries import LogReader
from etui.log.totals import Spending, sum_joules_since
from etui.log.writer import TurnWriter
from etui.routing.decision import PeriodBudget
from etui.runtime.decide import Overrides, choose, compute_period_start, find_overruns
from etui.runtime.runtime import open_runtime
from etui.turn.record import LoadRecord
from tests.turn.stage import QUICK, Part, Stage, decided, play

POLICY = """
version: 1
arms:
  think: {model: smollm2-135m, reasoning: cot}
  quick: {model: smollm2-135m, reasoning: direct}
rules: [{name: all, use: think}]
budgets: {hour: {joules: 100, when_exceeded: WAY}, DEGRADE}
"""


@pytest.fixture
def spent(config):
    """Log turns by (minutes ago, joules, kind), and ask what the policy then says."""
    config.policies_dir.mkdir(parents=True)
    config.models_dir.mkdir(parents=True, exist_ok=True)
    (config.models_dir / "smollm2-135m.gguf").touch()

    def log(*turns, load=None):
        with TurnWriter(config) as writer:
            for minutes, joules, kind in turns:
                record = play(Stage({"quick": Part()}), decided(QUICK)).record
                energy = replace(record.energy, joules=joules, kind=kind)
                at = datetime.now(UTC) - timedelta(minutes=minutes)
                stamp = at.isoformat(timespec="milliseconds")
                writer.save_turn(replace(record, created_at=stamp, energy=energy))
                if load is not None:
                    writer.save_load(
                        LoadRecord("l1", stamp, "m", None, None, 1.0, load, 0.0, "counter", 0, 1)
                    )

    return log


def ask(config, way="degrade", degrade="degrade_to: quick", confirm=None, **overrides):
    budgets = POLICY.replace("WAY", way).replace(", DEGRADE", f", {degrade}" if degrade else "")
    (config.policies_dir / "mine.yaml").write_text(budgets)
    overrides = Overrides(policy="mine", **overrides)
    return choose(Query("Why?"), overrides, open_runtime(config), confirm=confirm).decision


def test_within_the_budget_the_policy_decides(spent, config):
    spent((30, 99.0, "counter"), (90, 5000.0, "counter"))
    decision = ask(config)
    assert (decision.arm.name, decision.notices) == ("think", ())


def test_a_spent_hour_degrades_to_the_cheapest_and_says_so(spent, config):
    spent((30, 60.0, "counter"), (5, 41.0, "counter"))
    decision = ask(config)
    assert (decision.arm.name, decision.rule) == ("quick", "all")
    (notice,) = decision.notices
    assert notice == (
        "the last hour took 101 J, but the policy allows 100 J: the cheapest arm, quick, answers"
    )
    assert decision.why.startswith("a budget is spent, so quick answers instead of think")


def test_loads_and_estimates_count_and_unmeasured_turns_are_named(spent, config):
    spent((30, 60.0, "estimate"), (5, None, None), load=41.0)
    (notice,) = ask(config).notices
    assert notice.startswith("the last hour took ≈100 J (estimate), but the policy allows 100 J")
    assert "(1 turn unmeasured and not counted)" in notice


def test_a_named_arm_is_kept_with_a_notice(spent, config):
    spent((5, 500.0, "counter"))
    decision = ask(config, arm="think")
    assert decision.arm.name == "think"
    assert decision.notices[0].endswith("think answers anyway, as it was named")


def test_refuse_refuses_whatever_is_said(spent, config):
    spent((5, 500.0, "counter"))
    with pytest.raises(BudgetSpent, match="500 J") as caught:
        ask(config, "refuse", "", confirm=lambda question: True, over_budget=True)
    assert caught.value.exit_code == ExitCode.GATE == 4


def test_ask_asks_and_a_no_refuses(spent, config):
    spent((5, 500.0, "counter"))
    asked = []
    decision = ask(config, "ask", "", confirm=lambda question: not asked.append(question))
    assert decision.arm.name == "think"
    assert asked == [
        "the hourly budget is spent: the last hour took 500 J, but the policy allows 100 J. "
        "Continue?"
    ]
    for confirm in (None, lambda question: False):
        with pytest.raises(BudgetSpent) as caught:
            ask(config, "ask", "", confirm=confirm)
        assert "--over-budget" in caught.value.fix
    assert ask(config, "ask", "", over_budget=True).arm.name == "think"


def test_a_question_that_only_looks_spends_no_budget(spent, config):
    spent((5, 500.0, "counter"))
    ask(config)
    runtime = open_runtime(config)
    choice = choose(Query("Why?"), Overrides(policy="mine"), runtime, within_budgets=False)
    assert choice.decision.arm.name == "think"


def test_a_log_that_is_not_there_has_spent_nothing(config):
    with LogReader(config) as log:
        assert sum_joules_since(log, datetime.now(UTC)) == Spending(0.0, False, 0)


def test_periods_begin_an_hour_ago_and_at_midnight():
    now = datetime(2026, 3, 1, 13, 20, tzinfo=UTC)
    hour, day = (PeriodBudget(period, 10.0, "degrade") for period in ("hour", "day"))
    assert compute_period_start(hour, now) == datetime(2026, 3, 1, 12, 20, tzinfo=UTC)
    assert compute_period_start(day, now) == datetime(2026, 3, 1, tzinfo=UTC)
    found = find_overruns([hour, day], lambda m: Spending(9.0 if m.hour else 10.0, False, 0), now)
    assert [each.budget for each in found] == [day]
    assert found[0].text == "today took 10.0 J, but the policy allows 10.0 J"

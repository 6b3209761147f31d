"""Compare the hourly and daily budgets with the energy that the log has recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from etui.errors import BudgetSpent
from etui.routing.limits import PeriodBudget
from etui.units import ESTIMATE, count_text, energy_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.totals import Spending

Confirm = Callable[[str], bool]
"""Asks the user a question and returns whether the answer is yes."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A spent budget, with the energy used in its period."""

    budget: PeriodBudget
    spending: Spending

    @property
    def text(self) -> str:
        """``the last hour took 21.3 kJ, but the policy allows 20.0 kJ``."""
        period = "the last hour" if self.budget.period == "hour" else "today"
        kind = ESTIMATE if self.spending.estimated else None
        took = energy_text(self.spending.joules, kind=kind)
        text = f"{period} took {took}, but the policy allows {energy_text(self.budget.joules)}"
        if self.spending.unmeasured_turns:
            turns = count_text(self.spending.unmeasured_turns, "turn")
            text += f" ({turns} unmeasured and not counted)"
        return text

    @property
    def message(self) -> str:
        """``the hourly budget is spent: the last hour took ...``."""
        adjective = {"hour": "hourly", "day": "daily"}[self.budget.period]
        return f"the {adjective} budget is spent: {self.text}"


def compute_period_start(budget: PeriodBudget, now: datetime) -> datetime:
    """Compute when a budget's period began: an hour ago, or the last midnight in ``now``'s zone."""
    if budget.period == "hour":
        return now - timedelta(hours=1)
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def find_overruns(
    budgets: Sequence[PeriodBudget], sum_joules_since: Callable[[datetime], Spending], now: datetime
) -> tuple[Overrun, ...]:
    """Find the budgets that are spent.

    Args:
        sum_joules_since: Returns the energy used since a time with a zone.
        now: Local time, with its zone.
    """
    found = [
        Overrun(budget, sum_joules_since(compute_period_start(budget, now))) for budget in budgets
    ]
    return tuple(each for each in found if each.spending.joules >= each.budget.joules)


def read_overruns(budgets: Sequence[PeriodBudget], config: Config) -> tuple[Overrun, ...]:
    """Read the log and find the budgets that are spent; without budgets, the log is not opened.

    Raises:
        LogUnavailable: The log cannot be read, so the energy used is unknown.
    """
    if not budgets:
        return ()
    from etui.log.queries import LogReader
    from etui.log.totals import sum_joules_since

    with LogReader(config) as log:
        now = datetime.now().astimezone()
        return find_overruns(budgets, lambda moment: sum_joules_since(log, moment), now)


def settle(spent: Sequence[Overrun], confirm: Confirm | None, over_budget: bool) -> str | None:
    """Apply the ``when_exceeded`` of spent budgets: first refuse, then ask, then degrade.

    Args:
        confirm: Asks the user; None if there is no one to ask.
        over_budget: Whether the user has agreed in advance.

    Returns:
        Why the cheapest arm has to answer; None if the policy decides as usual.

    Raises:
        BudgetSpent: A budget refuses, or the user did not agree.
    """
    for each in spent:
        if each.budget.when_exceeded == "refuse":
            raise BudgetSpent(
                each.message,
                f"wait for the next {each.budget.period}, raise `budgets` in the policy, or use "
                "--model",
            )
    for each in spent:
        if each.budget.when_exceeded == "ask":
            agreed = over_budget or (confirm is not None and confirm(f"{each.message}. Continue?"))
            if not agreed:
                raise BudgetSpent(each.message, "add --over-budget to continue, or use --model")
    degrading = (each for each in spent if each.budget.when_exceeded == "degrade")
    return next((each.text for each in degrading), None)

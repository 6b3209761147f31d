"""The budgets of an hour and a day, held against what the log says was spent."""

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
    from etui.log.spending import Spending

Confirm = Callable[[str], bool]
"""Asks the user a question that is answered by yes or no."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A budget that is spent, and what was spent."""

    budget: PeriodBudget
    spending: Spending

    @property
    def text(self) -> str:
        """``the last hour took 21.3 kJ, and the policy allows 20.0 kJ``."""
        period = "the last hour" if self.budget.period == "hour" else "today"
        kind = ESTIMATE if self.spending.estimated else None
        took = energy_text(self.spending.joules, kind=kind)
        text = f"{period} took {took}, and the policy allows {energy_text(self.budget.joules)}"
        if self.spending.unmeasured_turns:
            turns = count_text(self.spending.unmeasured_turns, "turn")
            text += f" ({turns} unmeasured and not counted)"
        return text


def period_start(budget: PeriodBudget, now: datetime) -> datetime:
    """Where the period of a budget begins: an hour ago, or the last midnight of ``now``'s zone."""
    if budget.period == "hour":
        return now - timedelta(hours=1)
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def overruns(
    budgets: Sequence[PeriodBudget], spent_since: Callable[[datetime], Spending], now: datetime
) -> tuple[Overrun, ...]:
    """The budgets that are spent by now.

    Args:
        spent_since: What was spent from an aware time on.
        now: Local time, aware.
    """
    found = [Overrun(budget, spent_since(period_start(budget, now))) for budget in budgets]
    return tuple(each for each in found if each.spending.joules >= each.budget.joules)


def read_overruns(budgets: Sequence[PeriodBudget], config: Config) -> tuple[Overrun, ...]:
    """The budgets that are spent by this machine's log; nothing is opened where there are none.

    Raises:
        LogUnavailable: The log cannot be read, so nobody knows what was spent.
    """
    if not budgets:
        return ()
    from etui.log.queries import LogReader
    from etui.log.spending import spent_since

    with LogReader(config) as log:
        now = datetime.now().astimezone()
        return overruns(budgets, lambda moment: spent_since(log, moment), now)


def settle(spent: Sequence[Overrun], confirm: Confirm | None, over_budget: bool) -> str | None:
    """What follows from spent budgets, the strictest first; a notice if the turn is to be cheap.

    Args:
        spent: Budgets that are spent.
        confirm: Asks the user; None where nobody can be asked.
        over_budget: The user has said already that it may go on.

    Returns:
        Why the cheapest arm is to answer; None if the policy decides as usual.

    Raises:
        BudgetSpent: The budget refuses, or nobody said yes.
    """
    by_way = {way: [each for each in spent if each.budget.when_exceeded == way] for way in _WAYS}
    for each in by_way["refuse"]:
        raise BudgetSpent(
            f"the {each.budget.period}'s budget is spent: {each.text}",
            f"wait for the next {each.budget.period}, raise `budgets` in the policy, or name a "
            "--model",
        )
    for each in by_way["ask"]:
        said = over_budget or (
            confirm is not None
            and confirm(f"the {each.budget.period}'s budget is spent: {each.text}. Go on?")
        )
        if not said:
            raise BudgetSpent(
                f"the {each.budget.period}'s budget is spent: {each.text}",
                "add --over-budget to go on, or name a --model",
            )
    return next((each.text for each in by_way["degrade"]), None)


_WAYS = ("refuse", "ask", "degrade")

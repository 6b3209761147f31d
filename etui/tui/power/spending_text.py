"""Energy spent by an answer, a chat, a day and a budget as text: gross or net, estimates apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui import units
from etui.plots.terminal import meter
from etui.text import SEPARATOR
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.log.totals import Total
    from etui.tui.services import BudgetState


NO_BASELINE = "net needs an idle baseline: leave etui idle for 35 s"


def chat_text(records: Sequence[TurnRecord], *, net: bool) -> str:
    """Return ``181 J, 50.3 mWh · 3 answers``, with the unmeasured answers counted apart."""
    answers = units.count_text(len(records), "answer")
    energies = [record.energy for record in records if record.energy.joules is not None]
    if not records:
        return "nothing yet"
    if not energies:
        return SEPARATOR.join([units.UNMEASURED, answers])
    joules = [energy.net_joules if net else energy.joules for energy in energies]
    known = [value for value in joules if value is not None]
    estimated = any(energy.kind == units.ESTIMATE for energy in energies)
    kind = units.ESTIMATE if estimated else None
    if net and known and sum(known) <= 0:
        parts = [units.NOT_ABOVE_IDLE, answers]
    else:
        parts = [units.total_text(sum(known), None, kind) if known else NO_BASELINE, answers]
    if known and len(known) < len(energies):
        parts.append(f"{len(energies) - len(known)} of them without a baseline")
    if len(energies) < len(records):
        parts.append(f"{len(records) - len(energies)} of them {units.UNMEASURED}")
    return SEPARATOR.join(parts)


def today_text(total: Total | None) -> str:
    """Format the energy of all chats, questions and runs of today."""
    if total is None:
        return "nothing yet"
    answers = units.count_text(total.turns, "answer")
    parts = []
    if total.joules is not None:
        parts.append(units.total_text(total.joules))
    if total.estimated_joules is not None:
        parts.append(units.total_text(total.estimated_joules, None, units.ESTIMATE))
    if not parts:
        return SEPARATOR.join([units.UNMEASURED, answers])
    parts.append(answers)
    if total.unmeasured_turns:
        parts.append(f"{total.unmeasured_turns} of them {units.UNMEASURED}")
    return SEPARATOR.join(parts)


def budget_text(budget: BudgetState) -> str:
    """Return ``20.0 kJ, 5.56 Wh · 12.3 kJ, 3.42 Wh spent · 62 %``."""
    limit = units.total_text(budget.limit_joules)
    if budget.period == "turn":
        return f"at most {limit}"
    if budget.spent_joules is None:
        return SEPARATOR.join([limit, f"spent {units.UNMEASURED}"])
    share = units.percent_text(budget.spent_joules / budget.limit_joules)
    spent = units.total_text(budget.spent_joules)
    return SEPARATOR.join([limit, f"{spent} spent", share])


def budget_bar(budget: BudgetState, width: int) -> str:
    """Return ``hour ███░░░░░ 19 % of 20.0 kJ`` in about ``width`` cells; empty for a turn's budget.

    Where nothing was measured there is no share, and no bar.
    """
    if budget.period == "turn":
        return ""
    limit = units.short_energy_text(budget.limit_joules)
    if budget.spent_joules is None:
        return f"{budget.period} {units.UNMEASURED} of {limit}"
    share = budget.spent_joules / budget.limit_joules
    text = f"{units.whole_percent_text(share)} of {limit}"
    room = min(24, width - len(budget.period) - len(text) - 2)
    bar = f"{meter(share, room)} " if room >= 4 else ""
    return f"{budget.period} {bar}{text}"


def budget_share_text(budget: BudgetState) -> str:
    """Return ``hour 19 %``."""
    return f"{budget.period} {units.whole_percent_text(spent_share(budget))}"


def spent_share(budget: BudgetState) -> float:
    """Return the part of a budget that is spent, above 1 if it is exceeded."""
    return (budget.spent_joules or 0.0) / budget.limit_joules


def tightest_budget(budgets: Sequence[BudgetState]) -> BudgetState | None:
    """Return the budget of an hour or a day of which the largest share is spent."""
    known = [b for b in budgets if b.period != "turn" and b.spent_joules is not None]
    return max(known, key=spent_share, default=None)


def spent_joules(total: Total | None) -> float | None:
    """Add readings and estimates, as a budget counts them; None if nothing was measured."""
    if total is None:
        return 0.0
    known = [j for j in (total.joules, total.estimated_joules) if j is not None]
    return sum(known) if known else None

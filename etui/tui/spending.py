"""What a chat, a day and a budget have cost, as text: gross or net, estimates apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from etui import units
from etui.energy.types import Energy
from etui.log.records import TurnEnergy, TurnRecord
from etui.log.totals import Total

NO_BASELINE = "net unknown: no idle baseline yet"


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget of the policy in force, and what was spent of it, gross joules.

    Attributes:
        period: ``turn``, ``hour`` or ``day``.
        limit_joules: The most it may come to.
        spent_joules: None for the budget of a turn, and where nothing was measured.
    """

    period: Literal["turn", "hour", "day"]
    limit_joules: float
    spent_joules: float | None


@dataclass(frozen=True, slots=True)
class Spending:
    """Totals over all chats: today's (None before its first turn), and the policy's budgets."""

    today: Total | None = None
    budgets: tuple[BudgetState, ...] = ()


def joules_text(energy: Energy | TurnEnergy, *, net: bool) -> str:
    """The joules of an answer, gross or net."""
    kind = energy.kind if energy.kind is None else str(energy.kind)
    if net and energy.joules is not None:
        if energy.net_joules is None:
            return NO_BASELINE
        return units.energy_text(energy.net_joules, energy.uncertainty, kind)
    return units.energy_text(energy.joules, energy.uncertainty, kind)


def chat_text(records: Sequence[TurnRecord], *, net: bool) -> str:
    """``3 answers`` and their joules and watt-hours; those unmeasured are counted apart."""
    answers = units.count_text(len(records), "answer")
    energies = [record.energy for record in records if record.energy.joules is not None]
    if not energies:
        return f"{answers}, {units.UNMEASURED}"
    joules = [energy.net_joules if net else energy.joules for energy in energies]
    known = [value for value in joules if value is not None]
    estimated = any(energy.kind == units.ESTIMATE for energy in energies)
    kind = units.ESTIMATE if estimated else None
    lines = [answers]
    lines.append(units.total_text(sum(known), None, kind) if known else NO_BASELINE)
    if known and len(known) < len(energies):
        lines.append(f"({len(energies) - len(known)} of them without a baseline)")
    if len(energies) < len(records):
        lines.append(f"({len(records) - len(energies)} of them {units.UNMEASURED})")
    return "\n".join(lines)


def today_text(total: Total | None) -> str:
    """What all chats, questions and runs of today have cost."""
    if total is None:
        return "nothing yet"
    lines = [units.count_text(total.turns, "answer")]
    if total.joules is not None:
        lines.append(units.total_text(total.joules))
    if total.estimated_joules is not None:
        lines.append(units.total_text(total.estimated_joules, None, units.ESTIMATE))
    if total.joules is None and total.estimated_joules is None:
        return f"{lines[0]}, {units.UNMEASURED}"
    if total.unmeasured_turns:
        lines.append(f"({total.unmeasured_turns} of them {units.UNMEASURED})")
    return "\n".join(lines)


def budget_text(budget: BudgetState) -> str:
    """``hour: 12.3 kJ of 20.0 kJ (62 %)``."""
    limit = units.energy_text(budget.limit_joules)
    if budget.period == "turn":
        return f"{budget.period}: at most {limit}"
    if budget.spent_joules is None:
        return f"{budget.period}: {units.UNMEASURED} of {limit}"
    share = units.percent_text(budget.spent_joules / budget.limit_joules)
    return f"{budget.period}: {units.energy_text(budget.spent_joules)} of {limit} ({share})"


def spent_joules(total: Total | None) -> float | None:
    """Readings and estimates together, as a budget counts them; None where nothing was measured."""
    if total is None:
        return 0.0
    known = [j for j in (total.joules, total.estimated_joules) if j is not None]
    return sum(known) if known else None

"""Energy spent by an answer, a chat, a day and a budget as text: gross or net, estimates apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from etui import units
from etui.plots.braille import sparkline
from etui.plots.terminal import meter
from etui.text import SEPARATOR
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.log.totals import Total
    from etui.tui.services import BudgetState


_MOST_SPARK, _LEAST_SPARK = 12, 4

_LEAST_MODEL = 6


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the line shows; an empty text is left out."""

    joules: str = ""  # Joules of the running or last answer, always shown
    per_token: str = ""
    watts: str = ""
    history: tuple[float | None, ...] = ()  # Recent watts, two a cell
    top_watts: float = 1.0  # Top of the scale of the sparkline
    model: str = ""  # The model that answers, or that answered last
    budget: str = ""  # Share of the hour's or day's budget


def status_line(facts: StatusFacts, width: int) -> str:
    """Return ``≈42 J · 0.66 J/tok · 18 W ⣀⣤⣶⣿ · 1.5b · 19 %`` in at most ``width`` cells.

    What does not fit is left out from the right: the sparkline shrinks first, then the model's name
    is cut, and the joules stay to the last.
    """
    texts = [facts.joules, facts.per_token, facts.watts, facts.model, facts.budget]
    for kept in range(len(texts), 0, -1):
        parts = [text if number < kept else "" for number, text in enumerate(texts)]
        line = _fit(parts, facts, width)
        if line is not None:
            return line
    return set_cell_size(facts.joules or facts.watts, max(0, width)).rstrip()


def short_model(name: str) -> str:
    """Return the end of a model's name that tells it from others: ``1.5b`` of ``qwen2.5-1.5b``.

    The first part that is a size, with what follows it; the whole name without one.
    """
    parts = name.split("-")
    for number, part in enumerate(parts):
        if number and part[:1].isdigit() and part[-1:].lower() in ("b", "m"):
            return "-".join(parts[number:])
    return name


def _fit(parts: list[str], facts: StatusFacts, width: int) -> str | None:
    def joined(model: str, spark: int) -> str:
        joules, per_token, watts, _, budget = parts
        graph = f" {sparkline(facts.history, facts.top_watts, spark)}" if spark and watts else ""
        shown = (joules, per_token, watts + graph, model, budget)
        return SEPARATOR.join(text for text in shown if text)

    model = parts[3]
    models = [model] + ([short_model(model)] if short_model(model) != model else [])
    for name in models:
        for spark in (_MOST_SPARK, 8, _LEAST_SPARK):
            line = joined(name, spark)
            if cell_len(line) <= width:
                return line
    spare = width - cell_len(joined("", _LEAST_SPARK)) - len(SEPARATOR)
    if model and spare >= _LEAST_MODEL:
        return joined(set_cell_size(models[-1], spare - 1) + "…", _LEAST_SPARK)
    if not model and cell_len(joined("", 0)) <= width:
        return joined("", 0)
    return None


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

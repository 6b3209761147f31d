"""Check the budgets of a running turn: its own over all hops, and the limit of the arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.energy.types import EnergyOf
from etui.routing.limits import TurnBudget
from etui.turn.accumulator import AnswerAccumulator
from etui.units import energy_text, seconds_text, tokens_text

_CHECK_EVERY_NS = 100_000_000
"""Interval between two checks of the joules; checking tokens and seconds costs nothing."""

REMOTE_CHECK_EVERY_NS = 1_000_000_000
"""The same for the meter of another machine, which is asked over the network."""


@dataclass(frozen=True, slots=True)
class SpentBefore:
    """Spending of the hops before the running one; joules are None if unmeasured."""

    joules: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0


class BudgetMonitor:
    """Budget check of one hop.

    Args:
        budget: Budget of the turn; None is no limit.
        before: Spending of the earlier hops.
        arm: The arm of the hop; its ``max_joules`` applies to this hop only.
        energy_of: Returns the energy of an interval.
    """

    def __init__(
        self, budget: TurnBudget | None, before: SpentBefore, arm: Arm, energy_of: EnergyOf
    ) -> None:
        self._budget = budget or TurnBudget()
        self._before = before
        self._arm = arm
        self._energy_of = energy_of
        self._check_every_ns = _CHECK_EVERY_NS
        self._next_check_ns = 0

    def measure_with(self, energy_of: EnergyOf, check_every_ns: int) -> None:
        """Use another meter for the running hop, and ask it no more often than this."""
        self._energy_of = energy_of
        self._check_every_ns = check_every_ns

    def limit_arm(self) -> Arm:
        """Return the arm with ``max_joules`` limited to what the turn has left."""
        left = self._remaining_joules()
        if left is None or (self._arm.max_joules is not None and self._arm.max_joules <= left):
            return self._arm
        return replace(self._arm, max_joules=max(left, 0.0))

    def find_spent(self, so_far: AnswerAccumulator, now_ns: int) -> str | None:
        """Return the name of a budget that is spent by now; None if none is."""
        tokens = self._before.tokens + so_far.thinking_tokens + so_far.answer_tokens
        if self._budget.tokens is not None and tokens >= self._budget.tokens:
            return turn_budget_text(tokens=self._budget.tokens)
        seconds = self._before.seconds + max(0, now_ns - so_far.started_ns) / 1e9
        if self._budget.seconds is not None and seconds >= self._budget.seconds:
            return turn_budget_text(seconds=self._budget.seconds)
        if now_ns < self._next_check_ns or now_ns <= so_far.started_ns:
            return None
        return self._find_spent_joules(so_far, now_ns)

    def _find_spent_joules(self, so_far: AnswerAccumulator, now_ns: int) -> str | None:
        left, own = self._remaining_joules(), self._arm.max_joules
        if left is None and own is None:
            return None
        self._next_check_ns = now_ns + self._check_every_ns
        joules = self._energy_of(so_far.started_ns, now_ns).joules
        if joules is None:
            return None
        if left is not None and joules >= left:
            return turn_budget_text(joules=self._budget.joules)
        if own is not None and joules >= own:
            return f"the energy budget of {energy_text(own)} of arm {self._arm.name}"
        return None

    def _remaining_joules(self) -> float | None:
        if self._budget.joules is None:
            return None
        return self._budget.joules - (self._before.joules or 0.0)


def find_spent_budget(budget: TurnBudget | None, before: SpentBefore) -> str | None:
    """Return the name of the turn's budget that is spent between two hops; None if none is."""
    if budget is None:
        return None
    checks: tuple[tuple[float | None, float | None, Callable[[], str]], ...] = (
        (budget.tokens, before.tokens, lambda: turn_budget_text(tokens=budget.tokens)),
        (budget.seconds, before.seconds, lambda: turn_budget_text(seconds=budget.seconds)),
        (budget.joules, before.joules, lambda: turn_budget_text(joules=budget.joules)),
    )
    for limit, used, words in checks:
        if limit is not None and used is not None and used >= limit:
            return words()
    return None


def turn_budget_text(
    *, joules: float | None = None, tokens: int | None = None, seconds: float | None = None
) -> str:
    """Name a budget of the turn: ``the turn's budget of 60 s``."""
    if joules is not None:
        amount = energy_text(joules)
    elif tokens is not None:
        amount = tokens_text(tokens)
    else:
        amount = seconds_text(seconds or 0.0)
    return f"the turn's budget of {amount}"

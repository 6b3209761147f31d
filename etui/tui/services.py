"""What the app needs from the rest of etui, and the values that it shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from etui.config.config import Config

if TYPE_CHECKING:  # none of it is needed for the first paint
    from datetime import date

    from etui.energy.sharing import DeviceVitals
    from etui.log.daily_energy import DailyEnergy
    from etui.runtime.routes import Route, RouteChoice
    from etui.runtime.service import TurnService
    from etui.tui.open_services import InstalledModels, LiveMeter, LoggedChats


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of models.yaml, as the app lists it."""

    name: str
    size: str
    on_disk: bool
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """Further state of the machine."""

    idle_by_channel: Mapping[str, float] = field(default_factory=dict)
    """Channel id -> its idle baseline, watts; channels without one are missing."""
    app_share: float | None = None
    """CPU time of this process since the last call, as a share of one core; None at first."""
    devices: tuple[DeviceVitals, ...] = ()  # State of every measured device, missing values as None


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget of the active policy and what was spent of it, in gross joules."""

    period: Literal["turn", "hour", "day"]
    limit_joules: float
    spent_joules: float | None  # None for the budget of a turn, and if nothing was measured
    estimated: bool = False  # Whether some of them are an estimate


@dataclass(frozen=True, slots=True)
class SpendingTotals:
    """What etui spent today and this week, all of it, and the policy's budgets."""

    daily: DailyEnergy | None = None  # The joules of this week; None before the log was read
    today: date | None = None
    budgets: tuple[BudgetState, ...] = ()


@dataclass(frozen=True, slots=True)
class Services:
    """Everything behind the screens; what reads files or answers blocks: call it in a thread."""

    runner: TurnService
    meter: LiveMeter
    shelf: InstalledModels
    chats: LoggedChats
    policies: Callable[[], Sequence[str]]  # Lists the names of the policies
    threads: int = 1  # Number of decoding threads
    cpus: int = 2  # Logical CPUs that these threads and the screen may run on
    list_routes: Callable[[Route], Sequence[RouteChoice]] = lambda _route: ()
    """Lists what can answer the next questions."""
    restore_route: Callable[[Route], tuple[Route, str]] = lambda route: (route, "")
    """Returns what is left of a route that was chosen before, and the names of what is gone."""
    report_log: Callable[[Callable[[str], None]], None] = lambda _report: None
    """Sets what to call with a text when the log cannot be written, and when it can again."""


OpenServices = Callable[[Config], Services]
"""Opens the services, in a thread, after the first paint; may raise EtuiError."""

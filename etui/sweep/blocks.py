"""What a sweep has measured, visits of settings in blocks, and what measures them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from etui.energy.tariff import Cost
from etui.energy.types import sum_known
from etui.errors import EtuiError
from etui.sweep.config import Goal, Setting

Stage = Literal["floor", "race", "confirm"]
"""``floor``: the baseline against itself; ``race``: all settings that are left; ``confirm``: the
baseline and the finalists again, in blocks that chose nothing, for the claims."""


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """Cost of one phase (prefill or decode) of one answer, the mean over a visit's answers."""

    tokens: float  # Tokens of the phase: computed in prefill, drawn in decode
    joules: float | None  # Gross joules; None if unmeasured
    uncertainty: float | None  # Half width of the joules at 95 %, from the meter
    seconds: float

    @property
    def joules_per_token(self) -> float | None:
        """Joules per token; None if unmeasured, or without tokens."""
        return None if self.joules is None or self.tokens <= 0 else self.joules / self.tokens


@dataclass(frozen=True, slots=True)
class Visit:
    """One measurement of one setting in one block; figures are those of one answer."""

    setting: str
    copy: int  # 1 for the second visit of the baseline in a block (A/A), else 0
    answers: int  # Answers computed during the visit
    prefill: PhaseCost
    decode: PhaseCost
    start_ns: int  # Monotonic clock, without warm-up and cool-down
    end_ns: int
    kind: str | None = None  # How the energy was determined (`counter`, `estimate`, ...)
    mean_watts: float | None = None
    temperature_celsius: float | None = None  # Hottest sensor of the swept device at the end
    power_limit_watts: float | None = None  # Read back during the visit
    drafted: float = 0.0  # Drafted tokens of one answer, and those accepted; 0 without speculation
    accepted: float = 0.0
    shared: bool = False  # Whether other processes used the measured devices
    disturbed: str = ""  # Why the visit cannot be used (a busy machine, a suspend); empty if it can
    notes: tuple[str, ...] = ()  # A cap that was rounded, throttling by heat

    @property
    def joules(self) -> float | None:
        """Joules of one answer; None if a phase is unmeasured."""
        return sum_known((self.prefill.joules, self.decode.joules))

    @property
    def seconds(self) -> float:
        """Seconds of one answer, prefill and decode."""
        return self.prefill.seconds + self.decode.seconds

    def cost(self, goal: Goal) -> float | None:
        """Return the figure of one answer to minimize; None if its joules are unmeasured."""
        if goal.measure == "time":
            return self.seconds
        joules = self.joules
        if joules is None:
            return None
        return joules if goal.measure == "joules" else joules * self.seconds


Figure = Callable[[Visit], float | None]
"""Takes a visit, returns a figure of one answer; None if it is unmeasured."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A setting that this machine cannot run (out of memory, an unsupported KV type)."""

    setting: str
    why: str


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The next block."""

    number: int  # From 0, over all stages
    stage: Stage
    order: tuple[tuple[str, int], ...]  # Keys and copies of settings, in the order of visits


@dataclass(frozen=True, slots=True)
class Block:
    """A complete block: every visit of its plan, or a failure in place of it."""

    number: int
    stage: Stage
    visits: tuple[Visit, ...]  # In the order in which they were measured
    failures: tuple[Failure, ...] = ()  # Settings that could not run; they are not planned again
    repeated: tuple[str, ...] = ()  # Why earlier attempts at this block were discarded
    seconds: float = 0.0  # With loads, warm-up, cool-down and discarded attempts
    cost: Cost | None = None  # At the price of its time; None without a tariff, or unmeasured


@dataclass(frozen=True, slots=True)
class VisitPower:
    """Mean watts in equal slices of one visit: a line of ``power.jsonl``."""

    block: int
    setting: str
    copy: int
    start_ns: int
    end_ns: int
    watts: tuple[float | None, ...]  # None where nothing was recorded


@dataclass(frozen=True, slots=True)
class SettingAnswer:
    """The answer of a setting to a question: a line of ``answers.jsonl``."""

    setting: str
    number: int  # Number of the question, from 0, in the order in which they were drawn
    subject: str
    row: int
    choice: str  # The letter with the highest log-probability
    correct: bool


class SettingFailed(EtuiError):
    """A setting that this machine cannot run; the sweep goes on without it."""


class Collapsed(SettingFailed):
    """A setting whose threads wait for each other, because other programs have taken a core."""


MeasureVisit = Callable[[Setting, int], Visit]
"""Applies a setting, warms up, cools down, and measures the same tokens as for every setting once.

The number is the copy: 1 for the second visit of the baseline in a block. ``disturbed`` of the
result says why it cannot be used. It raises SettingFailed if this machine cannot run the setting,
Disturbed if the measurement was given up and can be repeated, Stopped if the sweep cannot go on now
(the battery discharges) but can be resumed, and EtuiError if the engine or the meter failed.
"""

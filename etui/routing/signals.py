"""Signals: named facts about a query and the machine, seen without running a model.

Every kind is a frozen dataclass with ``see(situation)``, which gives the value and, where a number
says little, what was found. What is not known is None, and then the signal does not hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from etui.routing.bound import Bound, Word
from etui.routing.decision import SignalValue
from etui.routing.features import TextFacts
from etui.routing.host import HOST_NUMBERS, HostState

REGEX_SECONDS = 0.05
"""The most one pattern may take on one question; ordinary ones take a thousandth of it."""

ALL_REGEX_SECONDS = 0.25
"""The most all patterns of one decision may take together."""

MATCHES_COUNTED = 10_000

Value = float | str | None


@dataclass(slots=True)
class Situation:
    """What signals look at, and what was seen so far.

    Attributes:
        text: The query.
        host: The state of the machine.
        seen: Signals seen so far by name; a score adds up earlier ones.
        regex_seconds_left: What patterns may still take.
    """

    text: TextFacts
    host: HostState
    seen: dict[str, SignalValue] = field(default_factory=dict)
    regex_seconds_left: float = ALL_REGEX_SECONDS


class Kind(Protocol):
    """One way of seeing a fact."""

    def see(self, situation: Situation) -> tuple[Value, str]:
        """The value (None if not known) and what was found."""


@dataclass(frozen=True, slots=True)
class Keyword:
    """A word or phrase with a test that it stands alone ("cat" is not in "concatenate")."""

    word: str
    folded: str
    alone: Callable[[str], object]

    def within(self, folded: str) -> bool:
        """Whether it is in a text that is folded like it."""
        return self.folded in folded and self.alone(folded) is not None


@dataclass(frozen=True, slots=True)
class Keywords:
    """How many of the words and phrases are in the question."""

    words: tuple[Keyword, ...]

    def see(self, situation: Situation) -> tuple[Value, str]:
        folded = situation.text.folded
        found = [keyword.word for keyword in self.words if keyword.within(folded)]
        return len(found), ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")


@dataclass(frozen=True, slots=True)
class Pattern:
    """How often a regular expression matches the question."""

    compiled: Any
    """A pattern of the ``regex`` package, the one that can be stopped by time."""

    def see(self, situation: Situation) -> tuple[Value, str]:
        allowed = min(REGEX_SECONDS, situation.regex_seconds_left)
        if allowed <= 0:
            return None, "not tried: the patterns before it took too long"
        start = time.perf_counter()
        count = 0
        try:
            for _ in self.compiled.finditer(situation.text.text, timeout=allowed):
                count += 1
                if count == MATCHES_COUNTED:
                    break
        except TimeoutError:
            return None, f"took more than {allowed * 1000:.0f} ms"
        finally:
            situation.regex_seconds_left -= time.perf_counter() - start
        return count, ""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number counted in the question."""

    measure: str

    def see(self, situation: Situation) -> tuple[Value, str]:
        return situation.text.measure(self.measure), ""


@dataclass(frozen=True, slots=True)
class Language:
    """The language of the question."""

    def see(self, situation: Situation) -> tuple[Value, str]:
        return situation.text.language, ""


@dataclass(frozen=True, slots=True)
class Score:
    """The sum of the weights of those signals that hold."""

    weights: tuple[tuple[str, float], ...]

    def see(self, situation: Situation) -> tuple[Value, str]:
        holding = [(name, w) for name, w in self.weights if situation.seen[name].holds]
        # Rounded so that 0.1 + 0.2 reaches a boundary of 0.3.
        total = round(sum(weight for _, weight in holding), 9)
        return total, " ".join(f"{name} {weight:+g}" for name, weight in holding)


@dataclass(frozen=True, slots=True)
class HostNumber:
    """A number that describes the machine."""

    name: str

    def see(self, situation: Situation) -> tuple[Value, str]:
        return HOST_NUMBERS[self.name](situation.host), ""


@dataclass(frozen=True, slots=True)
class OnBattery:
    """Whether the machine runs on its battery."""

    def see(self, situation: Situation) -> tuple[Value, str]:
        known = situation.host.on_battery
        return None if known is None else ("yes" if known else "no"), ""


@dataclass(frozen=True, slots=True)
class Resident:
    """The model that is in memory."""

    def see(self, situation: Situation) -> tuple[Value, str]:
        return situation.host.resident, ""


@dataclass(frozen=True, slots=True)
class Signal:
    """A kind of fact and what is asked of it."""

    name: str
    kind: Kind
    test: Bound | Word

    def look(self, situation: Situation) -> SignalValue:
        """The signal as it is seen now."""
        value, detail = self.kind.see(situation)
        boundary: Value
        if isinstance(self.test, Word):
            boundary, holds = self.test.wanted, isinstance(value, str) and self.test.holds(value)
        else:
            number = None if isinstance(value, str) else value
            boundary = self.test.nearest(number)
            holds = number is not None and self.test.holds(number)
        return SignalValue(self.name, holds, value, boundary, self.test.words, detail)


def said(value: SignalValue) -> str:
    """A signal in words: ``calc (calculate, how many)``, ``long (12, at least 600)``."""
    if value.value is None:
        return f"{value.name} ({value.detail or 'not known'})"
    if value.detail and value.holds:
        return f"{value.name} ({value.detail})"
    shown = f"{value.value:g}" if isinstance(value.value, int | float) else value.value
    if isinstance(value.boundary, str) and value.holds:
        return f"{value.name} ({shown})"
    return f"{value.name} ({shown}, {value.test})"

"""Conditions of rules: all, any and not over signals, and why one holds or fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from etui.routing.decision import SignalValue
from etui.routing.signals.kinds import said


@dataclass(frozen=True, slots=True)
class Holds:
    """One signal holds."""

    signal: str

    def holds(self, truth: Truth) -> bool:
        """Whether it holds, given which signals do; asks only for those it needs."""
        return truth(self.signal)


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Condition, ...]

    def holds(self, truth: Truth) -> bool:
        """As ``Holds.holds``."""
        for part in self.parts:  # noqa: SIM110 - a generator takes twice as long
            if not part.holds(truth):
                return False
        return True


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]

    def holds(self, truth: Truth) -> bool:
        """As ``Holds.holds``."""
        for part in self.parts:  # noqa: SIM110
            if part.holds(truth):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Condition

    def holds(self, truth: Truth) -> bool:
        """As ``Holds.holds``."""
        return not self.part.holds(truth)


Condition = Holds | All | AnyOf | Not

Truth = Callable[[str], bool]
"""Whether the signal of a name holds."""

_SAID = 3
"""Signals named in one reason; a line is read at a glance."""


def signals_of(condition: Condition) -> Iterator[str]:
    """Names of the signals in it, in order, with repeats."""
    match condition:
        case Holds(name):
            yield name
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from signals_of(part)
        case Not(part):
            yield from signals_of(part)


def first_failed(condition: Condition, seen: Mapping[str, SignalValue]) -> str | None:
    """The first part that failed, in words; None if the condition holds."""
    match condition:
        case Holds(name):
            return None if seen[name].holds else said(seen[name])
        case All(parts):
            return next(filter(None, (first_failed(part, seen) for part in parts)), None)
        case AnyOf(parts):
            failed = [first_failed(part, seen) for part in parts]
            named = [reason for reason in failed if reason is not None]
            if len(named) < len(failed):
                return None
            return named[0] if len(named) == 1 else "none of " + _listed(named)
        case Not(part):
            reasons = reasons_for(part, seen)
            return None if reasons is None else "not " + _listed(reasons)


def reasons_for(condition: Condition, seen: Mapping[str, SignalValue]) -> list[str] | None:
    """What made it hold, one entry a signal; None if it does not hold."""
    match condition:
        case Holds(name):
            return [said(seen[name])] if seen[name].holds else None
        case All(parts):
            found = [reasons_for(part, seen) for part in parts]
            if any(reasons is None for reasons in found):
                return None
            return [reason for reasons in found if reasons for reason in reasons]
        case AnyOf(parts):
            held = [r for r in (reasons_for(part, seen) for part in parts) if r is not None]
            return [reason for reasons in held for reason in reasons] if held else None
        case Not(AnyOf(parts)):
            missing = [first_failed(part, seen) for part in parts]
            if any(failed is None for failed in missing):
                return None
            return [f"not {failed}" for failed in missing]
        case Not(part):
            failed = first_failed(part, seen)
            return None if failed is None else [f"not {failed}"]


def _listed(reasons: list[str]) -> str:
    more = len(reasons) - _SAID
    return ", ".join(reasons[:_SAID]) + (f" and {more} more" if more > 0 else "")

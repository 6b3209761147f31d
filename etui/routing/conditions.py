"""Conditions of rules: all, any and not over signals, and the reasons why one holds or fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from etui.routing.decision import SignalValue
from etui.routing.signals.kinds import format_signal


@dataclass(frozen=True, slots=True)
class Holds:
    """One signal holds."""

    signal: str

    def holds(self, truth: Truth) -> bool:
        """Check whether the condition holds; asks only for the signals it needs."""
        return truth(self.signal)


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Condition, ...]

    def holds(self, truth: Truth) -> bool:
        """Check whether the condition holds, as ``Holds.holds`` does."""
        for part in self.parts:  # noqa: SIM110 - a generator takes twice as long
            if not part.holds(truth):
                return False
        return True


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]

    def holds(self, truth: Truth) -> bool:
        """Check whether the condition holds, as ``Holds.holds`` does."""
        for part in self.parts:  # noqa: SIM110
            if part.holds(truth):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Condition

    def holds(self, truth: Truth) -> bool:
        """Check whether the condition holds, as ``Holds.holds`` does."""
        return not self.part.holds(truth)


Condition = Holds | All | AnyOf | Not

Truth = Callable[[str], bool]
"""A test: whether the signal of a name holds."""

_MOST_REASONS = 3
"""Signals listed in one reason, so that it stays a short line."""


def iter_signal_names(condition: Condition) -> Iterator[str]:
    """Yield the names of the signals of a condition, in order, with repeats."""
    match condition:
        case Holds(name):
            yield name
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from iter_signal_names(part)
        case Not(part):
            yield from iter_signal_names(part)


def first_failed(condition: Condition, values: Mapping[str, SignalValue]) -> str | None:
    """Describe the first part of a condition that failed; None if the condition holds."""
    match condition:
        case Holds(name):
            return None if values[name].holds else format_signal(values[name])
        case All(parts):
            return next(filter(None, (first_failed(part, values) for part in parts)), None)
        case AnyOf(parts):
            failed = [first_failed(part, values) for part in parts]
            named = [reason for reason in failed if reason is not None]
            if len(named) < len(failed):
                return None
            return named[0] if len(named) == 1 else "none of " + _join_reasons(named)
        case Not(part):
            reasons = reasons_for(part, values)
            return None if reasons is None else "not " + _join_reasons(reasons)


def reasons_for(condition: Condition, values: Mapping[str, SignalValue]) -> list[str] | None:
    """Describe why a condition holds, one entry per signal; None if it does not hold."""
    match condition:
        case Holds(name):
            return [format_signal(values[name])] if values[name].holds else None
        case All(parts):
            found = [reasons_for(part, values) for part in parts]
            if any(reasons is None for reasons in found):
                return None
            return [reason for reasons in found if reasons for reason in reasons]
        case AnyOf(parts):
            held = [r for r in (reasons_for(part, values) for part in parts) if r is not None]
            return [reason for reasons in held for reason in reasons] if held else None
        case Not(AnyOf(parts)):
            missing = [first_failed(part, values) for part in parts]
            if any(failed is None for failed in missing):
                return None
            return [f"not {failed}" for failed in missing]
        case Not(part):
            failed = first_failed(part, values)
            return None if failed is None else [f"not {failed}"]


def _join_reasons(reasons: list[str]) -> str:
    more = len(reasons) - _MOST_REASONS
    return ", ".join(reasons[:_MOST_REASONS]) + (f" and {more} more" if more > 0 else "")

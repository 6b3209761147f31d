"""Which rules can never be reached: what follows from the form of their conditions alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from etui.routing.conditions import All, AnyOf, Condition, Holds, Not, signals_of

_TABLE_SIGNALS = 8
"""Signals of a condition whose truth table is still looked through (256 lines)."""

Key = tuple[object, ...]


def never_holds(condition: Condition) -> bool:
    """Whether it contradicts itself, whatever the signals; large conditions are taken on trust."""
    names = sorted(set(signals_of(condition)))
    if len(names) > _TABLE_SIGNALS or not _negates(condition):
        return False
    return not any(
        condition.holds(dict(zip(names, truth, strict=True)).__getitem__)
        for truth in product((True, False), repeat=len(names))
    )


@dataclass(frozen=True, slots=True)
class Form:
    """A condition as the parts that must all hold, and as the parts of which any is enough."""

    needs: frozenset[Key]
    takes: frozenset[Key]

    @classmethod
    def of(cls, condition: Condition) -> Form:
        """The form of a condition."""
        return cls(_parts(condition, All), _parts(condition, AnyOf))

    def covers(self, later: Form) -> bool:
        """Whether this one holds wherever ``later`` does, as far as their form shows it.

        ``a`` covers ``{all: [a, b]}``; ``{any: [a, b]}`` covers ``a``; equal conditions cover each
        other. What would need reasoning beyond that is not covered.
        """
        return (
            self.needs <= later.needs
            or not self.takes.isdisjoint(later.needs)
            or later.takes <= self.takes
        )


def _parts(condition: Condition, kind: type[All] | type[AnyOf]) -> frozenset[Key]:
    """The parts of an ``all`` (or ``any``), nested ones of its kind included; else itself alone."""
    if isinstance(condition, kind):
        return frozenset().union(*(_parts(part, kind) for part in condition.parts))
    return frozenset({_key(condition)})


def _key(condition: Condition) -> Key:
    """Equal for conditions that differ only in the order of their parts."""
    match condition:
        case Holds(name):
            return ("signal", name)
        case Not(part):
            return ("not", _key(part))
        case All(parts) | AnyOf(parts):
            if len(parts) == 1:
                return _key(parts[0])
            return (type(condition).__name__, _parts(condition, type(condition)))


def _negates(condition: Condition) -> bool:
    match condition:
        case Holds():
            return False
        case Not():
            return True
        case All(parts) | AnyOf(parts):
            return any(map(_negates, parts))

"""Find conditions that never hold or are covered by others, from their form alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from etui.routing.conditions import All, AnyOf, Condition, Holds, Not, iter_signal_names

_TABLE_SIGNALS = 8
"""Most signals of a condition whose truth table is searched (256 rows)."""

Key = tuple[object, ...]


def never_holds(condition: Condition) -> bool:
    """Check whether a condition contradicts itself for all values of its signals.

    Conditions of more than ``_TABLE_SIGNALS`` signals are not examined and return False.
    """
    names = sorted(set(iter_signal_names(condition)))
    if len(names) > _TABLE_SIGNALS or not _negates(condition):
        return False
    return not any(
        condition.holds(dict(zip(names, truth, strict=True)).__getitem__)
        for truth in product((True, False), repeat=len(names))
    )


@dataclass(frozen=True, slots=True)
class Form:
    """A condition in two forms, for comparison with others."""

    needs: frozenset[Key]  # Parts that must all hold
    takes: frozenset[Key]  # Parts of which any one is enough

    @classmethod
    def of(cls, condition: Condition) -> Form:
        """Build the form of a condition."""
        return cls(_parts(condition, All), _parts(condition, AnyOf))

    def covers(self, later: Form) -> bool:
        """Check whether this condition holds wherever ``later`` does, as far as the form shows it.

        ``a`` covers ``{all: [a, b]}``; ``{any: [a, b]}`` covers ``a``; equal conditions cover each
        other. Implications that need more reasoning are not detected.
        """
        return (
            self.needs <= later.needs
            or not self.takes.isdisjoint(later.needs)
            or later.takes <= self.takes
        )


def _parts(condition: Condition, kind: type[All] | type[AnyOf]) -> frozenset[Key]:
    """Return the parts of an ``all`` (or ``any``), flattened; else the condition itself."""
    if isinstance(condition, kind):
        return frozenset().union(*(_parts(part, kind) for part in condition.parts))
    return frozenset({_key(condition)})


def _key(condition: Condition) -> Key:
    """Return a key that is equal for conditions that differ only in the order of their parts."""
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

"""Tests of a signal's value: a range of numbers, or one word."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bound:
    """A range of numbers; an end that is None is open.

    Attributes:
        at_least, above: Lower end, inclusive and exclusive.
        at_most, below: Upper end, inclusive and exclusive.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    wraps: bool = False
    """Whether a lower end above the upper one spans midnight, for the hour of the day."""
    words: str = field(init=False)  # The range in words: `at least 3 and below 8`
    _ends: tuple[float, ...] = field(init=False, repr=False)
    _over_midnight: bool = field(init=False, repr=False)
    _floor: float | None = field(init=False, repr=False)
    """``at_least`` where it is the only end, as in most signals."""

    def __post_init__(self) -> None:
        # Computed once, because every decision needs them for every signal.
        given = [
            (name, end)
            for name in ("at_least", "above", "at_most", "below")
            if (end := getattr(self, name)) is not None
        ]
        words = " and ".join(f"{name.replace('_', ' ')} {end:g}" for name, end in given)
        low = self.at_least if self.at_least is not None else self.above
        high = self.at_most if self.at_most is not None else self.below
        over = self.wraps and low is not None and high is not None and low > high
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "_ends", tuple(end for _, end in given))
        object.__setattr__(self, "_over_midnight", over)
        object.__setattr__(self, "_floor", self.at_least if len(given) == 1 else None)

    def holds(self, value: float | str | None) -> bool:
        """Check whether a value is a number within the range."""
        if value is None or isinstance(value, str):
            return False
        if self._floor is not None:
            return value >= self._floor
        over = (self.at_least is None or value >= self.at_least) and (
            self.above is None or value > self.above
        )
        under = (self.at_most is None or value <= self.at_most) and (
            self.below is None or value < self.below
        )
        return over or under if self._over_midnight else over and under

    def nearest(self, value: float | str | None) -> float:
        """Return the end nearest to the value; the lower end if the value is unknown."""
        if value is None or isinstance(value, str) or len(self._ends) == 1:
            return self._ends[0]
        return min(self._ends, key=lambda end: abs(end - value))


@dataclass(frozen=True, slots=True)
class Word:
    """A required word, with all values that satisfy it; a role is satisfied by its models."""

    wanted: str
    among: frozenset[str]

    def holds(self, value: float | str | None) -> bool:
        """Check whether the value satisfies the word."""
        return value in self.among

    def nearest(self, value: float | str | None) -> str:
        """Return the required word, whatever the value."""
        return self.wanted

    @property
    def words(self) -> str:
        """The requirement in words: ``is de``."""
        return f"is {self.wanted}"

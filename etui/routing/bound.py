"""What a signal asks of its value: a range of numbers, or one word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """A range; ends that are None are open.

    Attributes:
        at_least, above: Lower end, with and without the number itself.
        at_most, below: Upper end, with and without the number itself.
        wraps: For the hour of the day: a lower end past the upper one goes over midnight.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    wraps: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number lies in the range."""
        over = (self.at_least is None or value >= self.at_least) and (
            self.above is None or value > self.above
        )
        under = (self.at_most is None or value <= self.at_most) and (
            self.below is None or value < self.below
        )
        return over or under if self._over_midnight() else over and under

    def nearest(self, value: float | None) -> float:
        """The end that is nearest to the value; the lower one where it is not known."""
        ends = [end for end in self._ends().values() if end is not None]
        return ends[0] if value is None else min(ends, key=lambda end: abs(end - value))

    @property
    def words(self) -> str:
        """``at least 3 and below 8``."""
        return " and ".join(
            f"{name.replace('_', ' ')} {end:g}"
            for name, end in self._ends().items()
            if end is not None
        )

    def _ends(self) -> Mapping[str, float | None]:
        return {
            "at_least": self.at_least,
            "above": self.above,
            "at_most": self.at_most,
            "below": self.below,
        }

    def _over_midnight(self) -> bool:
        low = self.at_least if self.at_least is not None else self.above
        high = self.at_most if self.at_most is not None else self.below
        return self.wraps and low is not None and high is not None and low > high


@dataclass(frozen=True, slots=True)
class Word:
    """One word of several that means yes; a role means every model in it.

    Attributes:
        wanted: What the policy says.
        among: What counts as it.
    """

    wanted: str
    among: frozenset[str]

    def holds(self, value: str) -> bool:
        """Whether the value counts as the word."""
        return value in self.among

    @property
    def words(self) -> str:
        """``is de``."""
        return f"is {self.wanted}"

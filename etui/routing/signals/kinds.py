"""Signals: named facts about a query and the machine, evaluated without running a model.

Every kind is a frozen dataclass with ``see(situation)``, which returns the value and, where a
number says little, what was found. An unknown value is None, and its signal does not hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from etui.routing.decision import SignalValue
from etui.routing.signals.host_state import HOST_NUMBERS, HostState
from etui.routing.signals.ranges import Bound, Word
from etui.routing.signals.similarity import NeighbourQuery, Neighbours, smoothed_share
from etui.routing.signals.text_measures import TextFacts

REGEX_SECONDS = 0.05
"""Time limit of one pattern on one question; ordinary ones take a thousandth of it."""

ALL_REGEX_SECONDS = 0.25
"""Time limit of all patterns of one decision together."""

MATCHES_COUNTED = 10_000

Value = float | str | None

Found = str | Callable[[], str]
"""What was found, or a function that formats it: most traces are never read."""


class Situation(Mapping[str, SignalValue]):
    """One query, the machine, and the signals of a policy; each is evaluated when first needed.

    It is a mapping from the names of the signals to their values, in the order of the policy.

    Args:
        neighbours: Earlier questions; None if there are none.
    """

    def __init__(
        self,
        signals: Mapping[str, Signal],
        text: TextFacts,
        host: HostState,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.text = text
        self.host = host
        self.neighbours = neighbours
        self._regex_start: tuple[float, float] | None = None
        """Time that patterns may still take, in seconds."""
        self._signals = signals
        self._truth: dict[str, bool] = {}
        self._found: dict[str, tuple[Value, Found]] = {}

    def holds(self, name: str) -> bool:
        """Check whether a signal holds, and evaluate it on the first call."""
        truth = self._truth.get(name)
        return self._evaluate(name) if truth is None else truth

    def count_regex_seconds_left(self) -> float:
        """Compute the CPU seconds that the patterns of this decision may still take.

        CPU time does not count other programs, but reading its clock takes 13 µs. It is read once
        per decision, and again only if so much time has passed that it matters.
        """
        now = time.perf_counter()
        if self._regex_start is None:
            self._regex_start = now, time.thread_time()
        wall, cpu = self._regex_start
        if now - wall < ALL_REGEX_SECONDS - REGEX_SECONDS:
            return ALL_REGEX_SECONDS - (now - wall)
        return ALL_REGEX_SECONDS - (time.thread_time() - cpu)

    def _evaluate(self, name: str) -> bool:
        """Evaluate a signal, after the parts of its score."""
        signal = self._signals[name]
        if isinstance(signal.kind, Score):
            self._evaluate_parts(signal.kind)
        found = self._found[name] = signal.kind.see(self)
        truth = self._truth[name] = signal.test.holds(found[0])
        return truth

    def _evaluate_parts(self, score: Score) -> None:
        """Evaluate the parts of a score, without recursion: scores may form long chains."""
        waiting = list(reversed(score.parts_not_in(self._truth)))
        while waiting:
            kind = self._signals[waiting[-1]].kind
            missing = kind.parts_not_in(self._truth) if isinstance(kind, Score) else ()
            if missing:
                waiting.extend(reversed(missing))  # the first part is evaluated first
            else:
                self.holds(waiting.pop())

    def looked_at(self) -> tuple[str, ...]:
        """Return the names of the signals that were evaluated so far."""
        return tuple(self._truth)

    def __getitem__(self, name: str) -> SignalValue:
        holds = self.holds(name)
        value, found = self._found[name]
        detail = found if isinstance(found, str) else found()
        test = self._signals[name].test
        return SignalValue(name, holds, value, test.nearest(value), test.words, detail)

    def __iter__(self) -> Iterator[str]:
        return iter(self._signals)

    def __len__(self) -> int:
        return len(self._signals)


class SignalKind(Protocol):
    """A kind of signal."""

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return the value (None if unknown) and what was found."""


@dataclass(frozen=True, slots=True)
class Keyword:
    """A word or phrase that is matched as a whole ("cat" does not match "concatenate")."""

    word: str  # As the policy writes it
    folded: str  # In lower case and with single spaces
    alone: Callable[[str], object]  # Searches a folded text for it as a whole


@dataclass(frozen=True, slots=True)
class Keywords:
    """How many of the words and phrases are in the question."""

    words: tuple[Keyword, ...]

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Count the different words and phrases found."""
        text = situation.text.folded
        found = [k.word for k in self.words if k.folded in text and k.alone(text) is not None]
        if not found:
            return 0, ""
        return len(found), lambda: ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")


@dataclass(frozen=True, slots=True)
class Pattern:
    """How often a regular expression matches the question."""

    compiled: Any
    """A pattern of the ``regex`` package, which supports a timeout."""

    start: str = ""
    """A literal prefix of every match; checking for it is 20 times faster than a search."""

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Count the matches, up to ``MATCHES_COUNTED``; None if the search takes too long."""
        text = situation.text.text
        if self.start and self.start not in text:
            return 0, ""
        allowed = min(REGEX_SECONDS, situation.count_regex_seconds_left())
        if allowed <= 0:
            return None, "not tried: earlier patterns took too long"
        count = 0
        try:
            for _ in self.compiled.finditer(text, timeout=allowed):
                count += 1
                if count == MATCHES_COUNTED:
                    break
        except TimeoutError:
            return None, f"took more than {allowed * 1000:.0f} ms"
        return count, ""


@dataclass(frozen=True, slots=True)
class MeasuredText:
    """A number counted in the question."""

    measure: str

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return the measure of the question."""
        return situation.text.measure(self.measure), ""


@dataclass(frozen=True, slots=True)
class Language:
    """The language of the question."""

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return the code of the language; None if it cannot be determined."""
        return situation.text.language, ""


@dataclass(frozen=True, slots=True)
class Score:
    """The sum of the weights of the signals that hold."""

    weights: tuple[tuple[str, float], ...]

    def parts_not_in(self, known: Collection[str]) -> tuple[str, ...]:
        """Return the parts that were not evaluated yet."""
        return tuple([name for name, _ in self.weights if name not in known])

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Add up the weights of the signals that hold."""
        holding = [(name, w) for name, w in self.weights if situation.holds(name)]
        if not holding:
            return 0, ""
        # Rounded so that 0.1 + 0.2 reaches a boundary of 0.3.
        total = round(sum(weight for _, weight in holding), 9)
        return total, lambda: " ".join(f"{name} {weight:+g}" for name, weight in holding)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The share of similar earlier questions that are counted."""

    asked: NeighbourQuery

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Compute the smoothed share; None if there are too few earlier questions."""
        if situation.neighbours is None:
            return None, "no earlier questions were read"
        tally = situation.neighbours.tally(self.asked, situation.text.text)
        if tally is None or tally.size < self.asked.k:
            size = 0 if tally is None else tally.size
            return None, f"only {size} earlier questions, {self.asked.k} are needed"
        if tally.n == 0:
            return None, "no earlier question shares a word"
        found = f"{tally.hits} of {tally.n}, {tally.base:.2f} of all"
        return round(smoothed_share(tally), 9), found


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """The value of a key of the request's metadata."""

    key: str

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return the value; None if the request does not have the key."""
        return _read_metadata(situation, self.key)


@dataclass(frozen=True, slots=True)
class MetadataExists:
    """Whether the request's metadata has a key."""

    key: str

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return ``yes``; None if the request does not have the key."""
        value, found = _read_metadata(situation, self.key)
        return (None, found) if value is None else ("yes", "")


@dataclass(frozen=True, slots=True)
class MetadataPattern:
    """Whether a regular expression is found in a value of the request's metadata."""

    key: str
    compiled: Any
    """A pattern of the ``regex`` package, which supports a timeout."""

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return ``yes`` or ``no``; None without the key, or if the search takes too long."""
        value, found = _read_metadata(situation, self.key)
        if value is None:
            return None, found
        allowed = min(REGEX_SECONDS, situation.count_regex_seconds_left())
        if allowed <= 0:
            return None, "not tried: earlier patterns took too long"
        try:
            hit = self.compiled.search(value, timeout=allowed)
        except TimeoutError:
            return None, f"took more than {allowed * 1000:.0f} ms"
        return "no" if hit is None else "yes", ""


def _read_metadata(situation: Situation, key: str) -> tuple[str | None, str]:
    """Return the value of a key; None without it, and why."""
    value = dict(situation.text.query.metadata).get(key)
    if value is not None:
        return value, ""
    return None, f"the request has no metadata {key!r}"


@dataclass(frozen=True, slots=True)
class HostNumber:
    """A number that describes the machine."""

    name: str

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return the number; None if unknown."""
        return HOST_NUMBERS[self.name](situation.host), ""


@dataclass(frozen=True, slots=True)
class OnBattery:
    """Whether the machine runs on its battery."""

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return ``yes`` or ``no``; None if unknown."""
        known = situation.host.on_battery
        return None if known is None else ("yes" if known else "no"), ""


@dataclass(frozen=True, slots=True)
class Resident:
    """The model in memory."""

    def see(self, situation: Situation) -> tuple[Value, Found]:
        """Return the name of the model; None if there is none, or it is unknown."""
        return situation.host.resident, ""


@dataclass(frozen=True, slots=True)
class Signal:
    """A kind of fact and the test of its value."""

    name: str
    kind: SignalKind
    test: Bound | Word


def format_signal(value: SignalValue) -> str:
    """Format a signal in words: ``calc (calculate, how many)``, ``long (12, at least 600)``."""
    if value.value is None:
        return f"{value.name} ({value.detail or 'unknown'})"
    if value.detail and value.holds:
        return f"{value.name} ({value.detail})"
    shown = f"{value.value:g}" if isinstance(value.value, int | float) else value.value
    if isinstance(value.boundary, str) and value.holds:
        return f"{value.name} ({shown})"
    return f"{value.name} ({shown}, {value.test})"

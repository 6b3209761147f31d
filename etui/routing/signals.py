"""Signals: named facts about a query and the machine, evaluated without running a model.

A kind of signal is a function that makes ``see(situation)``, which returns the value and, where a
number says little, what was found. An unknown value is None, and its signal does not hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from etui.routing.decision import SignalValue
from etui.routing.similarity import EarlierQuestions, NeighbourQuery, smoothed_share
from etui.routing.text_measures import TextFacts


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
            return None if values[name].holds else _format_signal(values[name])
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
            return [_format_signal(values[name])] if values[name].holds else None
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


@dataclass(frozen=True, slots=True)
class HostState:
    """The current state of the machine; None is unknown, and a signal on it does not hold."""

    battery_percent: float | None = None  # Charge of the battery, 0..100
    on_battery: bool | None = None
    hour: float | None = None  # Local time in hours, with fraction, 0 <= hour < 24
    free_memory_gb: float | None = None  # Memory available without swapping, in 1e9 bytes
    gpu_free_memory_gb: float | None = None
    """Free memory of the GPU that has the most, in 1e9 bytes."""
    gpu_temperature: float | None = None  # Temperature of the hottest GPU, in degrees Celsius
    watts: float | None = None  # Power of the machine, as far as it is measured
    resident: str | None = None  # Model in memory, by its name in models.yaml


@dataclass(frozen=True, slots=True)
class Bound:
    """A range of numbers; an end that is None is open."""

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


REGEX_SECONDS = 0.05
"""Time limit of one pattern on one question; ordinary ones take a thousandth of it."""

ALL_REGEX_SECONDS = 0.25
"""Time limit of all patterns of one decision together."""

MATCHES_COUNTED = 10_000
Value = float | str | None

Found = str | Callable[[], str]
"""What was found, or a function that formats it: most traces are never read."""


class Situation(Mapping[str, SignalValue]):
    """One query, the machine, and the signals of a policy, by name and evaluated when needed."""

    def __init__(
        self,
        signals: Mapping[str, Signal],
        text: TextFacts,
        host: HostState,
        neighbours: EarlierQuestions | None = None,
    ) -> None:
        self.text = text
        self.host = host
        self.neighbours = neighbours
        self._regex_start: float | None = None
        self._regex_cpu_start: float | None = None
        self._signals = signals
        self._truth: dict[str, bool] = {}
        self._found: dict[str, tuple[Value, Found]] = {}

    def holds(self, name: str) -> bool:
        """Check whether a signal holds, and evaluate it on the first call."""
        truth = self._truth.get(name)
        return self._evaluate(name) if truth is None else truth

    def count_regex_seconds_left(self) -> float:
        """Compute the seconds that the patterns of this decision may still take.

        CPU time does not count other programs, but reading its clock can take longer than all
        patterns. It counts the last part alone, which fast patterns never reach on an idle machine.
        """
        now = time.perf_counter()
        if self._regex_start is None:
            self._regex_start = now
        if now - self._regex_start < ALL_REGEX_SECONDS - REGEX_SECONDS:
            return ALL_REGEX_SECONDS - (now - self._regex_start)
        cpu = time.thread_time()
        if self._regex_cpu_start is None:
            self._regex_cpu_start = cpu
        return REGEX_SECONDS - (cpu - self._regex_cpu_start)

    def _evaluate(self, name: str) -> bool:
        signal = self._signals[name]
        if signal.parts:
            self._evaluate_parts(signal)
        found = self._found[name] = signal.see(self)
        truth = self._truth[name] = signal.test.holds(found[0])
        return truth

    def _evaluate_parts(self, score: Signal) -> None:
        """Evaluate the parts of a score, without recursion: scores may form long chains."""
        waiting = list(reversed(score.parts_not_in(self._truth)))
        while waiting:
            missing = self._signals[waiting[-1]].parts_not_in(self._truth)
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


See = Callable[[Situation], tuple[Value, Found]]
"""Looks at a situation; returns the value (None if unknown), and what was found where a number
says little."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A named fact and the test of its value."""

    name: str
    see: See
    test: Bound | Word
    parts: tuple[tuple[str, float], ...] = ()
    """Of a score: the signals that it adds up, and their weights."""
    nearest: NeighbourQuery | None = None  # Which earlier questions it looks at; None for none

    def parts_not_in(self, known: Collection[str]) -> tuple[str, ...]:
        """Return the parts that were not evaluated yet."""
        return tuple([name for name, _ in self.parts if name not in known])


@dataclass(frozen=True, slots=True)
class Keyword:
    """A word or phrase that is matched as a whole ("cat" does not match "concatenate")."""

    word: str  # As the policy writes it
    folded: str  # In lower case and with single spaces
    alone: Callable[[str], object]  # Searches a folded text for it as a whole


def see_keywords(words: Sequence[Keyword]) -> See:
    """Count the different words and phrases in the question."""

    def see(situation: Situation) -> tuple[Value, Found]:
        text = situation.text.folded
        found = [k.word for k in words if k.folded in text and k.alone(text) is not None]
        if not found:
            return 0, ""
        return len(found), lambda: ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")

    return see


def see_pattern(compiled: Any, start: str = "") -> See:
    """Count the matches of a regular expression, up to ``MATCHES_COUNTED``; None if it takes long.

    Checking for ``start``, a literal prefix of every match, is 20 times faster than a search.
    """

    def see(situation: Situation) -> tuple[Value, Found]:
        text = situation.text.text
        if start and start not in text:
            return 0, ""
        return _search(
            situation, lambda s: _count_matches(compiled.finditer(text, timeout=s)), lambda n: n
        )

    return see


def _count_matches(matches: Iterator[object]) -> int:
    return len(list(islice(matches, MATCHES_COUNTED)))


def _search(
    situation: Situation, run: Callable[[float], Any], read: Callable[[Any], Value]
) -> tuple[Value, Found]:
    allowed = min(REGEX_SECONDS, situation.count_regex_seconds_left())
    if allowed <= 0:
        return None, "not tried: earlier patterns took too long"
    try:
        return read(run(allowed)), ""
    except TimeoutError:
        return None, f"took more than {allowed * 1000:.0f} ms"


def see_measure(measure: str) -> See:
    """Return a number counted in the question."""
    return lambda situation: (situation.text.measure(measure), "")


def see_language(situation: Situation) -> tuple[Value, Found]:
    """Return the code of the language of the question; None if it cannot be determined."""
    return situation.text.language, ""


def see_score(weights: tuple[tuple[str, float], ...]) -> See:
    """Add up the weights of the signals that hold."""

    def see(situation: Situation) -> tuple[Value, Found]:
        holding = [(name, w) for name, w in weights if situation.holds(name)]
        if not holding:
            return 0, ""
        # Rounded so that 0.1 + 0.2 reaches a boundary of 0.3.
        total = round(sum(weight for _, weight in holding), 9)
        return total, lambda: " ".join(f"{name} {weight:+g}" for name, weight in holding)

    return see


def see_nearest(asked: NeighbourQuery) -> See:
    """Compute the smoothed share of similar earlier questions; None if there are too few."""

    def see(situation: Situation) -> tuple[Value, Found]:
        if situation.neighbours is None:
            return None, "no earlier questions were read"
        tally = situation.neighbours.tally(asked, situation.text.text)
        if tally is None or tally.size < asked.k:
            size = 0 if tally is None else tally.size
            return None, f"only {size} earlier questions, {asked.k} are needed"
        if tally.n == 0:
            return None, "no earlier question shares a word"
        found = f"{tally.hits} of {tally.n}, {tally.base:.2f} of all"
        return round(smoothed_share(tally), 9), found

    return see


def see_metadata(
    key: str, read: Callable[[Situation, str], tuple[Value, Found]] = lambda _, value: (value, "")
) -> See:
    """Return what ``read`` makes of a value of the metadata; None if the request lacks the key."""

    def see(situation: Situation) -> tuple[Value, Found]:
        value = dict(situation.text.query.metadata).get(key)
        if value is None:
            return None, f"the request has no metadata {key!r}"
        return read(situation, value)

    return see


def see_metadata_pattern(key: str, compiled: Any) -> See:
    """Return whether a regular expression is found in a value of the request's metadata."""
    return see_metadata(
        key,
        lambda situation, value: _search(
            situation,
            lambda seconds: compiled.search(value, timeout=seconds),
            lambda hit: "no" if hit is None else "yes",
        ),
    )


def see_host(field: str) -> See:
    """Return a fact about the machine: a number, ``yes`` or ``no``, or the model in memory."""

    def see(situation: Situation) -> tuple[Value, Found]:
        known = getattr(situation.host, field)
        return ("yes" if known else "no") if isinstance(known, bool) else known, ""

    return see


def _format_signal(value: SignalValue) -> str:
    """Format a signal in words: ``calc (calculate, how many)``, ``long (12, at least 600)``."""
    if value.value is None:
        return f"{value.name} ({value.detail or 'unknown'})"
    if value.detail and value.holds:
        return f"{value.name} ({value.detail})"
    shown = f"{value.value:g}" if isinstance(value.value, int | float) else value.value
    if isinstance(value.boundary, str) and value.holds:
        return f"{value.name} ({shown})"
    return f"{value.name} ({shown}, {value.test})"

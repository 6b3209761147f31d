"""Synthetic days of a chat: when its user asks, for replays of keep-warm times."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

DAY_SECONDS = 86_400.0
HOUR = 3600.0

ANSWER_SECONDS = 10.0
"""Length of every answer; a gap begins at its end."""

Day = Callable[[random.Random], list[float]]
"""Draws the questions of one day: seconds after midnight, ascending."""


def draw_office_day(rng: random.Random) -> list[float]:
    """Draw bursts of three to twelve questions from nine to six, about 45 minutes apart."""
    t, times = 9 * HOUR + rng.uniform(0, 0.5 * HOUR), list[float]()
    while t < 18 * HOUR:
        for _ in range(rng.randint(3, 12)):
            times.append(t)
            t += ANSWER_SECONDS + rng.lognormvariate(math.log(40), 0.8)
        t += rng.expovariate(1 / (0.75 * HOUR))
    return times


def draw_evening(rng: random.Random) -> list[float]:
    """Draw one conversation after seven in the evening, with pauses of about 90 seconds."""
    t, times = 19 * HOUR + rng.uniform(0, 1.5 * HOUR), list[float]()
    for _ in range(rng.randint(10, 30)):
        times.append(t)
        t += ANSWER_SECONDS + rng.lognormvariate(math.log(90), 1.0)
    return times


def draw_poisson_day(rng: random.Random) -> list[float]:
    """Draw questions at random around the clock, four an hour."""
    t, times = rng.expovariate(4 / HOUR), list[float]()
    while t < DAY_SECONDS:
        times.append(t)
        t += ANSWER_SECONDS + rng.expovariate(4 / HOUR)
    return times


def draw_long_day(rng: random.Random) -> list[float]:
    """Draw a question about every three minutes, from eight in the morning to eight."""
    t, times = 8 * HOUR, list[float]()
    while t < 20 * HOUR:
        times.append(t)
        t += ANSWER_SECONDS + rng.gammavariate(4, 45)
    return times


def draw_rare_day(rng: random.Random) -> list[float]:
    """Draw two to five questions, hours apart."""
    return sorted(rng.uniform(8 * HOUR, 22 * HOUR) for _ in range(rng.randint(2, 5)))


def draw_any_day(rng: random.Random) -> list[float]:
    """Draw a day in the office, an evening or a rare day; none resembles the day before."""
    return rng.choice((draw_office_day, draw_evening, draw_rare_day))(rng)


DAYS: Mapping[str, Day] = {
    "office": draw_office_day,
    "evening": draw_evening,
    "poisson": draw_poisson_day,
    "all day": draw_long_day,
    "rare": draw_rare_day,
    "mixed": draw_any_day,
}
"""Name -> kind of day."""


def draw_times(day: Day, days: int, seed: int) -> list[list[float]]:
    """Draw the questions of several days, in seconds after the first midnight, day by day."""
    rng = random.Random(seed)
    return [[n * DAY_SECONDS + t for t in day(rng)] for n in range(days)]


def draw_gaps(day: Day, days: int, seed: int) -> list[list[float]]:
    """Draw the gaps of several days; a gap belongs to the day in which it begins.

    The last gap of a day lasts until the first question of the next one.

    Returns:
        Seconds, one list for each day.
    """
    drawn = draw_times(day, days + 1, seed)
    gaps: list[list[float]] = [[] for _ in drawn]
    asked = [(t, number) for number, times in enumerate(drawn) for t in times]
    for (t, number), (later, _) in pairwise(asked):
        gaps[number].append(max(1.0, later - t - ANSWER_SECONDS))
    return gaps[:days]


def flatten(days: Sequence[Sequence[float]]) -> list[float]:
    """Join the gaps of several days."""
    return [gap for day in days for gap in day]

"""Make cases of a policy from the questions of the log.

The texts are the user's own, so a case holds no more of a chat than its decision needs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from etui.chat import Query
from etui.errors import EtuiError
from etui.learning.log_replay import iter_queries
from etui.log.filters import TurnFilter
from etui.log.labels import read_grades, read_named_arms
from etui.log.queries import LogReader
from etui.log.records import LoggedQuestion
from etui.routing.decide import decide
from etui.routing.policy import Policy
from etui.turn.record import REPLACES

_COMPARED_CHARACTERS = 1000
_WORD = re.compile(r"\w+")

_SHARED = 6
"""How many rare trigrams two texts share that are compared (k)."""


class NearDuplicates:
    """The texts of one kind that were kept so far.

    Two are nearly the same from a Jaccard index of ``threshold``. How often trigrams occur decides
    only how fast a text is found.
    """

    def __init__(self, threshold: float, frequencies: Counter[str]) -> None:
        self._threshold = threshold
        self._frequencies = frequencies
        self._kept: list[frozenset[str]] = []
        self._by_trigram: dict[str, list[int]] = {}

    def add(self, text: str) -> bool:
        """Keep a text, unless one that was kept is nearly the same; return whether it was kept."""
        shape = find_trigrams(text)
        size = len(shape)
        # One less than the bound, which is computed in floating point.
        alike = max(1, math.ceil(self._threshold * size) - 1)
        rarest = sorted(shape, key=lambda trigram: (self._frequencies[trigram], trigram))
        first = rarest[: size - alike + _SHARED]
        near = Counter(chain.from_iterable(self._by_trigram.get(each, ()) for each in first))
        for at, shared in near.items():
            enough = shared >= min(_SHARED, alike)
            if enough and compute_likeness(shape, self._kept[at]) >= self._threshold:
                return False
        for each in first:
            self._by_trigram.setdefault(each, []).append(len(self._kept))
        self._kept.append(shape)
        return True


def count_trigrams(texts: Iterable[str]) -> Counter[str]:
    """Count in how many texts each trigram occurs."""
    return Counter(trigram for text in texts for trigram in find_trigrams(text))


def find_trigrams(text: str) -> frozenset[str]:
    """Return the trigrams of the beginning of a text, without case and punctuation."""
    folded = text[:_COMPARED_CHARACTERS].casefold()
    letters = f"  {' '.join(_WORD.findall(folded)) or ' '.join(folded.split())} "
    return frozenset(letters[at : at + 3] for at in range(len(letters) - 2))


def compute_likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Compute the Jaccard index of two sets that are not empty, 0..1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


NEAR_DUPLICATE = 0.8
"""Similarity from which two questions that are routed alike are taken for one."""

MOST_CHARACTERS = 20_000
"""Length of the longest text in a cases file; longer questions are left out."""

MOST_MESSAGES = 200
"""Messages of the longest chat in a cases file."""

_COUNTED_CASES = 1000
"""Cases in which trigrams are counted, to compare by rare ones."""

Route = tuple[str, str]
"""A rule and an arm."""


@dataclass(frozen=True, slots=True)
class LoggedCase:
    """A logged question, with the arm that the user corrected it to, or found bad."""

    turn_id: str  # The newest turn that asked it
    query: Query  # The question, with its chat only if the decision depends on it
    route: Route  # Rule and arm that the policy decides now
    arm: str | None = None
    not_arm: str | None = None

    @property
    def is_corrected(self) -> bool:
        """Whether what is expected comes from the user and not from the policy."""
        return self.arm is not None or self.not_arm is not None

    def document(self) -> dict[str, Any]:
        """Return the line of a cases file."""
        query = self.query
        if query.history or query.system:
            asked: dict[str, Any] = {
                "messages": [
                    {"role": message.role, "content": message.content}
                    for message in query.messages()
                ]
            }
        else:
            asked = {"query": query.text}
        if self.is_corrected:
            expected = {"arm": self.arm} if self.arm is not None else {"not_arm": self.not_arm}
        else:
            expected = {"rule": self.route[0], "arm": self.route[1]}
        tags = ["log", "corrected"] if self.is_corrected else ["log"]
        return {"id": f"log-{self.turn_id}", **asked, **expected, "tags": tags}


@dataclass(frozen=True, slots=True)
class LoggedCases:
    """Cases made from the log."""

    cases: tuple[LoggedCase, ...]  # The cases, newest first
    questions: int  # Number of turns that were looked at
    left_out: int  # Number of those that are too long for a case, or that the policy cannot decide


def read_logged_cases(
    log: LogReader,
    policy: Policy,
    *,
    turn_filter: TurnFilter | None = None,
    limit: int,
    known: Collection[str] = (),
    report: Callable[[int, int], None] | None = None,
) -> LoggedCases:
    """Make cases of the distinct questions of the log, spread over rules and arms.

    The policy decides as :func:`etui.routing.probes.run_probes` does; ``report`` gets the number of
    turns read and of all. LogUnavailable if the log cannot be read.
    """
    # All turns are read, so that a chat has its history; only those of the filter become cases.
    turns = list(log.questions(report=report))
    wanted = {turn.turn_id for turn in turns}
    if turn_filter is not None:
        wanted = {turn.turn_id for turn in log.questions(turn_filter)}
    again = [turn.turn_id for turn in turns if turn.settings.get(REPLACES)]
    user = _UserLabels(
        {turn.turn_id: turn for turn in turns},
        read_grades(log, [turn.turn_id for turn in turns]),
        read_named_arms(log, again),
    )
    found, left_out = _find_cases(turns, wanted, policy, user)
    taken = {_normalize_question(text) for text in known}
    new = [case for case in found if _normalize_question(case.query.text) not in taken]
    return LoggedCases(tuple(spread_cases(new, limit)), len(wanted), left_out)


@dataclass(frozen=True, slots=True)
class _UserLabels:
    turns: Mapping[str, LoggedQuestion]
    grades: Mapping[str, bool]  # Whether an answer was good, by id of its turn
    named: Collection[str]  # Ids of the turns whose arm was named


def _find_cases(
    turns: Sequence[LoggedQuestion],
    wanted: Collection[str],
    policy: Policy,
    user: _UserLabels,
) -> tuple[list[LoggedCase], int]:
    newest: dict[tuple[str, Route], LoggedCase] = {}
    left_out = 0
    for turn, query in iter_queries(turns):
        if turn.turn_id not in wanted:
            continue
        decided = _decide_alone(query, policy)
        if decided is None or not _fits(decided[0]):
            left_out += 1
            continue
        asked, route = decided
        arm, not_arm = _find_correction(turn, policy, user)
        case = LoggedCase(turn.turn_id, asked, route, arm, not_arm)
        key = _normalize_question(turn.query), route
        before = newest.pop(key, None)
        # What the user said of a question counts until the user says something else of it.
        if before is not None and before.is_corrected and not case.is_corrected:
            case = before
        newest[key] = case
    return list(reversed(newest.values())), left_out


def _fits(query: Query) -> bool:
    messages = query.messages()
    short = all(0 < len(message.content) <= MOST_CHARACTERS for message in messages)
    return short and len(messages) <= MOST_MESSAGES


def _decide_alone(query: Query, policy: Policy) -> tuple[Query, Route] | None:
    """Decide a query, and again without its chat; keep the chat only if the decision differs."""
    route = _find_route(query, policy)
    if route is None:
        return None
    alone = Query(query.text)
    if not query.history and not query.system:
        return alone, route
    return (alone, route) if _find_route(alone, policy) == route else (query, route)


def _find_route(query: Query, policy: Policy) -> Route | None:
    try:
        decision = decide(query, policy, available=lambda _: True)
    except EtuiError:
        return None
    return decision.rule or "", decision.arm.name


def _find_correction(
    turn: LoggedQuestion, policy: Policy, user: _UserLabels
) -> tuple[str | None, str | None]:
    """Find the arm that the user wants for the question of a turn, and one that was bad at it.

    The user corrects by asking the same again of an arm by name, or by a grade. The grade of a
    cascade says nothing of the arm that it begins with, unless that arm gave the answer.
    """
    first = turn.first_hop[0] if turn.first_hop is not None else turn.arm
    grade = user.grades.get(turn.turn_id)
    if turn.arm not in policy.arms:
        return None, None
    if grade is False:
        return (None, turn.arm) if first == turn.arm else (None, None)
    replaced = user.turns.get(turn.settings.get(REPLACES) or "")
    asked_again = (
        turn.turn_id in user.named
        and replaced is not None
        and replaced.arm != turn.arm
        and _normalize_question(replaced.query) == _normalize_question(turn.query)
    )
    if asked_again:
        return turn.arm, None
    if grade and first in policy.arms:
        return first, None
    return None, None


def _normalize_question(text: str) -> str:
    return " ".join(text.casefold().split())


def spread_cases(cases: Iterable[LoggedCase], limit: int) -> list[LoggedCase]:
    """Choose cases: corrected ones, then one of each pair of rule and arm in turn, newest first.

    A near-duplicate of a chosen one with the same expectation is left out.
    """
    order = list(cases)
    queues: dict[Route, list[tuple[int, LoggedCase]]] = {}
    for place, case in enumerate(order):
        queues.setdefault(case.route, []).append((place, case))
    chosen: dict[int, LoggedCase] = {}
    frequencies = count_trigrams(case.query.text for case in order[:_COUNTED_CASES])
    kept: dict[tuple[Route, str | None, str | None], NearDuplicates] = {}

    def take(place: int, case: LoggedCase) -> bool:
        expected = case.route, case.arm, case.not_arm
        if expected not in kept:
            kept[expected] = NearDuplicates(NEAR_DUPLICATE, frequencies)
        if not kept[expected].add(case.query.text):
            return False
        chosen[place] = case
        return True

    for place, case in enumerate(order):
        if case.is_corrected and len(chosen) < limit:
            take(place, case)
    waiting = [
        [(place, case) for place, case in reversed(queue) if not case.is_corrected]
        for queue in queues.values()
    ]
    while waiting and len(chosen) < limit:
        for queue in waiting:
            while queue and len(chosen) < limit and not take(*queue.pop()):
                pass
        waiting = [queue for queue in waiting if queue]
    return [chosen[place] for place in sorted(chosen)]

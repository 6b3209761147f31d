"""Count the votes: which of them count, whether another one is needed, and the result.

Votes are counted in the order of their numbers, not in the order they end. The latter depends on
how many fit into one batch, and would favour short answers when a rule stops early; so the same
seeds give the same result with any batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from etui.arm import Arm, VoteStop
from etui.events import Vote
from etui.units import count_text, percent_text

Cast = tuple[str | None, float]
"""The answer that a vote counts for (None for no answer), and its weight in 0..1."""


@dataclass(frozen=True, slots=True)
class VoteTally:
    """Sum of the votes."""

    key: str | None  # The leading answer; None until a vote has an answer
    leader: float
    second: float
    for_leader: int
    count: int  # Number of votes, those without an answer included
    total: float

    @property
    def agreement(self) -> float:
        """The leader's share of all weight, 0..1."""
        return self.leader / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to stop drawing votes, and why."""

    stop: bool  # No further votes are needed
    rule: str  # The rule that decided: `lead` if the remaining votes cannot change the winner
    chance: float | None = None
    """The probability used by the rule, 0..1; None for ``all`` and ``lead``."""


def tally(votes: Sequence[Cast]) -> VoteTally:
    """Sum votes in the given order; of equal sums, the one reached first leads."""
    sums: dict[str, float] = {}
    leader: str | None = None
    for key, weight in votes:
        if key is None:
            continue
        sums[key] = sums.get(key, 0.0) + weight
        if leader is None or sums[key] > sums[leader]:
            leader = key
    total = math.fsum(weight for _, weight in votes)
    if leader is None:
        return VoteTally(None, 0.0, 0.0, 0, len(votes), total)
    second = max((weight for key, weight in sums.items() if key != leader), default=0.0)
    for_leader = sum(key == leader for key, _ in votes)
    return VoteTally(leader, sums[leader], second, for_leader, len(votes), total)


def verdict(state: VoteTally, left: int, stop: VoteStop) -> Verdict:
    """Decide whether to stop drawing votes; each of those ``left`` has a weight of at most 1."""
    if left <= 0:
        return Verdict(True, "all")
    if stop.rule == "unanimous":
        return Verdict(0 < state.count != state.for_leader, "unanimous")
    if stop.rule == "all" or state.key is None:
        return Verdict(False, stop.rule)
    if state.leader - state.second > left:
        return Verdict(True, "lead")
    if stop.rule == "lead":
        return Verdict(False, "lead")
    # Convert weights to counts of votes of mean weight, which the remaining votes are assumed to
    # have.
    mean = state.total / state.count
    if mean <= 0.0:
        return Verdict(False, stop.rule)
    leader, second = state.leader / mean, state.second / mean
    if stop.rule == "flip":
        chance = flip_probability(leader, second, left)
        return Verdict(chance <= stop.eps, "flip", chance)
    chance = majority_probability(round(leader), round(second))
    return Verdict(chance >= stop.threshold, "adaptive", chance)


@cache
def flip_probability(leader: float, second: float, left: int) -> float:
    """Compute the probability that ``left`` more votes cost the leader its lead; a tie counts.

    Each remaining vote goes to one of the two leading answers; the leader's share of them has a
    Beta(1, 1) prior, so that its votes j among the remaining r are beta-binomial, for a and b <= a
    votes of both:

        P = sum over j = 0..r with a + j <= b + r - j of C(r, j) B(a+1+j, b+1+r-j) / B(a+1, b+1)
    """
    before = _log_beta(leader + 1.0, second + 1.0)
    lost = [
        math.exp(
            math.log(math.comb(left, j))
            + _log_beta(leader + 1.0 + j, second + 1.0 + left - j)
            - before
        )
        for j in range(left + 1)
        if leader + j <= second + left - j
    ]
    return min(1.0, math.fsum(lost))


@cache
def majority_probability(leader: int, second: int) -> float:
    """Compute the probability that the leader's share of two answers exceeds one half.

    It is 1 - I_1/2(v1 + 1, v2 + 1) for counts v1 and v2; for integer counts this equals
    2^-(n+1) * sum over j = 0..v1 of C(n+1, j) with n = v1 + v2.
    """
    n = leader + second
    favourable = sum(math.comb(n + 1, j) for j in range(leader + 1))
    return favourable / (1 << (n + 1))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


class Poll:
    """The votes of one question; those that count are in the order of their numbers."""

    def __init__(self, arm: Arm) -> None:
        self._votes = arm.votes
        self._stop = arm.stop
        self._behind: dict[int, Vote] = {}
        self.counted: list[Vote] = []
        self.verdict = Verdict(False, arm.stop.rule)

    @property
    def decided(self) -> bool:
        """Whether no further vote is needed."""
        return self.verdict.stop

    @property
    def uncounted(self) -> list[Vote]:
        """Votes after a vote that is still running, or after the one that decided."""
        return [self._behind[index] for index in sorted(self._behind)]

    @property
    def tally(self) -> VoteTally:
        """The count so far."""
        return tally([(vote.choice, vote.weight) for vote in self.counted])

    @property
    def winner(self) -> Vote | None:
        """The first vote for the leading answer; the first of all if none has an answer."""
        key = self.tally.key
        return next((vote for vote in self.counted if key is None or vote.choice == key), None)

    def add(self, vote: Vote) -> list[Vote]:
        """Add a vote that has ended; return those that count now, in the order of their numbers."""
        self._behind[vote.index] = vote
        news: list[Vote] = []
        while not self.decided and len(self.counted) in self._behind:
            news.append(self._behind.pop(len(self.counted)))
            self.counted.append(news[-1])
            left = self._votes - len(self.counted)
            self.verdict = verdict(self.tally, left, self._stop)
        return news

    def count_all(self) -> list[Vote]:
        """Count all completed votes, despite gaps, because the vote was ended early."""
        news = self.uncounted
        self.counted += news
        self._behind.clear()
        return news

    def wants_another(self, under_way: int) -> bool:
        """Decide whether to start another vote in addition to the running ones.

        None is started if the running ones would decide the vote by agreeing with the leader: this
        saves joules, and if one of them differs, the next vote can still be started.
        """
        ended = [(vote.choice, vote.weight) for vote in (*self.counted, *self.uncounted)]
        left = self._votes - len(ended) - under_way
        if self.decided or left <= 0:
            return False
        if under_way == 0:
            return True
        leader = tally(ended).key or ""
        agreed = [*ended, *[(leader, 1.0)] * under_way]
        return not verdict(tally(agreed), left, self._stop).stop

    def why(self, started: int, cut_off: int, looped: int = 0) -> str:
        """Describe the result: ``flip: 3 of 3 votes agree, ...; 5 votes saved``."""
        state = self.tally
        count = count_text(state.count, "vote")
        if state.key is None:
            parts = [f"{self._stop.rule}: none of {count} gave an answer"]
        else:
            parts = [f"{self.verdict.rule}: {state.for_leader} of {count} agree"]
        left = self._votes - state.count
        chance = percent_text(self.verdict.chance) if self.verdict.chance is not None else ""
        match self.verdict.rule:
            case "lead" if self.decided:
                parts[0] += ", the remaining votes cannot change it"
            case "flip" if self.decided:
                parts[0] += f", {chance} chance to flip"
            case "adaptive" if self.decided:
                parts[0] += f", {chance} probability of a majority"
        saved = min(left, self._votes - started)
        if saved > 0:
            parts.append(f"{count_text(saved, 'vote')} saved")
        if cut_off:
            parts.append(f"{count_text(cut_off, 'vote')} dropped unfinished")
        if looped:
            parts.append(f"{count_text(looped, 'vote')} ended in a repetition")
        return "; ".join(parts)

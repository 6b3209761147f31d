"""Stop rules of ``vote``: when is a majority certain enough? Pure functions of the counts.

- ``lead``: stop when the leader's lead exceeds the number of remaining votes, which then cannot
  change the winner.
- ``unanimous``: stop at the first vote that differs from the others or has no answer: the votes
  can then no longer all agree.
- ``flip``: stop when the remaining votes change the winner with a probability of at most
  ``eps``, under a Beta(1, 1) prior on the two leading answers (finite horizon, exact).
- ``adaptive``: stop when the leader is the majority of infinitely many votes with a probability of
  at least ``threshold`` (Aggarwal et al., "Let's Sample Step by Step: Adaptive-Consistency for
  Efficient Reasoning and Coding with LLMs", EMNLP 2023).

``flip`` and ``adaptive`` include ``lead``. Ties go to the answer that led first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from etui.arm import VoteStop


@dataclass(frozen=True, slots=True)
class Cast:
    """One vote: the answer it counts for (None for no answer), and its weight in 0..1."""

    key: str | None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class VoteTally:
    """Sum of the votes.

    Attributes:
        leader, second: Weights of the two leading answers.
    """

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
    for vote in votes:
        if vote.key is None:
            continue
        sums[vote.key] = sums.get(vote.key, 0.0) + vote.weight
        if leader is None or sums[vote.key] > sums[leader]:
            leader = vote.key
    total = math.fsum(vote.weight for vote in votes)
    if leader is None:
        return VoteTally(None, 0.0, 0.0, 0, len(votes), total)
    second = max((weight for key, weight in sums.items() if key != leader), default=0.0)
    for_leader = sum(vote.key == leader for vote in votes)
    return VoteTally(leader, sums[leader], second, for_leader, len(votes), total)


def verdict(state: VoteTally, left: int, stop: VoteStop) -> Verdict:
    """Decide whether to stop drawing votes.

    Args:
        state: The votes so far.
        left: Number of remaining votes, each with a weight of at most 1.
    """
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
    Beta(1, 1) prior, so that its votes j among the remaining r are beta-binomial:

        P = sum over j = 0..r with a + j <= b + r - j of C(r, j) B(a+1+j, b+1+r-j) / B(a+1, b+1)

    Args:
        leader: Votes a of the leading answer (or its weight in units of a vote).
        second: Votes b <= a of the second answer.
        left: Number r of remaining votes.
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

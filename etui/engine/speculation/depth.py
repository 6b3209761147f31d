"""How many tokens to draft: the depth with the most tokens for a unit of cost. Pure functions.

A batch with k drafted tokens costs C(k + 1) + S + k D: the batch of k + 1 rows, what the drafter
computes first, and what it computes for each drafted token, in units of a batch of one row. It
gives one token for certain, and the i-th drafted one if it and all before are accepted:

    E(k) = 1 + p_1 + p_1 p_2 + ... + p_1 ... p_k

Decoding without drafts gives one token for 1. The depth is the k with the largest E(k) / cost(k), 0
unless that exceeds 1 by a margin. Cost is time, or joules where they are known by rows: at constant
power they are proportional (:mod:`etui.engine.speculation.batch_cost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

MARGIN = 0.03
"""Smallest expected gain that is worth a draft: the estimates are not better than this."""


@dataclass(frozen=True, slots=True)
class Depth:
    """The chosen number of drafted tokens."""

    tokens: int = 0  # Drafted tokens; 0 drafts nothing
    rate: float = 1.0  # Expected tokens for the cost of a batch of one row; 1 without a draft
    cost: float = 1.0  # Expected cost of drafting and verification, in batches of one row


def choose_depth(
    probabilities: Iterable[float],
    batch_cost: Callable[[int], float],
    *,
    draft_cost: float = 0.0,
    start_cost: float = 0.0,
    credit: float | None = None,
    only: int | None = None,
    always: bool = False,
) -> Depth:
    """Choose the depth with the most expected tokens per cost.

    Args:
        probabilities: Probability that each drafted token is accepted if all before are; read as
            far as the credit goes.
        batch_cost: Cost of a batch by its rows, 1 for one row.
        start_cost: Cost of the drafter before its first token.
        credit: Largest loss that is allowed if nothing is accepted; None is no limit.
        only: The only depth to choose from, in addition to 0; None allows every one.
        always: Whether to choose ``only`` even if it is not expected to pay.
    """
    best = Depth()
    expected, reached = 1.0, 1.0
    for tokens, probability in enumerate(probabilities, start=1):
        reached *= probability
        expected += reached
        cost = batch_cost(tokens + 1) + start_cost + tokens * draft_cost
        if credit is not None and cost - 1.0 > credit:
            break  # deeper drafts cost more
        rate = expected / cost
        if tokens == only and always:
            return Depth(tokens, rate, cost)
        if only in (None, tokens) and rate > best.rate and rate > 1.0 + MARGIN:
            best = Depth(tokens, rate, cost)
    return best


class Credit:
    """What drafts may lose, so that speculation hardly costs more than decoding without it.

    Every token earns ``SHARE`` of the cost of a batch of one row, on top of ``START``. A draft is
    only verified if the credit covers its cost even if nothing is accepted, so that at any time

        cost of all batches <= (1 + SHARE) * tokens + START,

    as far as the cost of a batch is known when it is chosen. What accepted drafts save adds to the
    credit, up to ``MOST``: the depth grows with success, and no long success pays for a long
    failure. After drafts without an accepted token, pauses of 1, 2, 4, ... tokens follow.
    """

    SHARE = 0.015
    START = 1.0
    MOST = 8.0
    _LONGEST_PAUSE = 64

    def __init__(self) -> None:
        self._left = self.START
        self._failures = 0
        self._pause = 0

    @property
    def left(self) -> float:
        """Cost that the next draft may lose, in batches of one row; 0 in a pause."""
        return 0.0 if self._pause else self._left

    def spend(self, tokens: int, cost: float) -> None:
        """Settle a batch.

        Args:
            tokens: Tokens it gave: 1, or 1 and the accepted ones.
            cost: What it cost, its drafting included, in batches of one row.
        """
        self._left = min(self.MOST, self._left + tokens * (1 + self.SHARE) - cost)

    def resume(self) -> None:
        """Count a token that was decoded without a draft."""
        self._pause = max(0, self._pause - 1)

    def judge(self, accepted: int) -> None:
        """Start a pause after a draft of which nothing was accepted; each is twice the last."""
        self._failures = 0 if accepted else self._failures + 1
        if self._failures:
            self._pause = min(self._LONGEST_PAUSE, 2 ** (self._failures - 1))

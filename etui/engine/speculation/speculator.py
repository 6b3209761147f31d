"""Decide at each step of a sequence who drafts, and how many tokens."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from etui.arm import Speculate
from etui.engine.speculation.acceptance import Acceptance
from etui.engine.speculation.batch_cost import BatchCost
from etui.engine.speculation.depth import Credit, Depth, choose_depth
from etui.engine.speculation.lookup import LookupIndex, Match, continue_match
from etui.engine.speculation.verify import Proposal, Verification

_MATCH_PRIORS = ((2, 0.35), (3, 0.5), (4, 0.62), (6, 0.75), (9, 0.83), (16, 0.88), (24, 0.93))
"""Shortest match of each class, and the probability that the token after it is the next one."""

_DRAFTER_PRIORS = (0.9,) * 8
"""Probability by position that a model's draft is accepted, before any trial.

Optimistic: a drafter is tried where it would pay if it were good, and the trials correct this.
"""

_FORGOTTEN_PER_ANSWER = 0.5
_FORGOTTEN_PER_ROUND = 0.05
"""Shares of the trials forgotten, so that a method that failed is tried again in another text."""

_ROUND = 32
"""Single tokens between two roundings of what is forgotten."""

_AMORTISED = 16
"""Batches over which the first computation of a drafter's context is spread."""


class Drafter(Protocol):
    """A model that drafts the continuation of one sequence."""

    @property
    def method(self) -> str:
        """Name of the method: ``draft`` or ``mtp``."""

    def start_cost(self, tokens: Sequence[int], one_row_ns: float) -> float:
        """Return the expected cost of computing what is missing, in batches of one row."""

    def token_cost(self, one_row_ns: float) -> float:
        """Return the expected cost of drafting one token, in batches of one row of the model."""

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Draft at most ``count`` tokens after ``tokens``, greedily; empty if it cannot."""

    def forget(self) -> None:
        """Forget what was computed for earlier sequences, so that nothing of it is reused."""

    def free(self) -> None:
        """Free the memory."""


class Speculation:
    """Speculation of one sequence.

    Attributes:
        methods: Methods that may draft.
        index: Index of the sequence's n-grams; None without lookup.
        credit: Limit of the losses; None without a limit.
        singles: Tokens decoded without a draft.
    """

    def __init__(self, methods: Sequence[str], *, limited: bool) -> None:
        self.methods = frozenset(methods)
        self.index = LookupIndex() if "lookup" in methods else None
        self.credit = Credit() if limited else None
        self.singles = 0


class Speculator:
    """Drafters of one model, and what is known of their success; shared by its answers.

    Attributes:
        draft_tokens: Number of tokens to draft at a time; None chooses it by cost and
            acceptance. A method that was named then drafts at every step, whether it pays or
            not; ``auto`` still chooses whether to draft, and by which method.
    """

    def __init__(self, cost: BatchCost, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.cost = cost
        self.draft_tokens: int | None = None
        self._drafters: dict[str, Drafter] = {}
        self._clock_ns = clock_ns
        self._acceptance = {"lookup": Acceptance([prior for _, prior in _MATCH_PRIORS])}

    def add(self, drafter: Drafter) -> None:
        """Add a drafter that takes a model."""
        self._drafters[drafter.method] = drafter
        self._acceptance[drafter.method] = Acceptance(_DRAFTER_PRIORS)

    def forget(self) -> None:
        """Let the drafters forget earlier sequences, but not what they have learned."""
        for drafter in self._drafters.values():
            drafter.forget()

    def free(self) -> None:
        """Free the drafters."""
        for drafter in self._drafters.values():
            drafter.free()
        self._drafters.clear()

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that this model can use."""
        return tuple(self._acceptance)

    def start(self, method: Speculate) -> Speculation:
        """Start the speculation of a sequence; ``auto`` may use every method, within a limit.

        Args:
            method: Any but ``off``; one of ``methods``, or ``auto``.
        """
        for acceptance in self._acceptance.values():
            acceptance.relax(_FORGOTTEN_PER_ANSWER)
        if method == "auto":
            return Speculation(self.methods, limited=True)
        return Speculation((method,), limited=False)

    def propose(self, own: Speculation, tokens: Sequence[int], most: int) -> Proposal | None:
        """Draft the next tokens of a sequence with the method of the largest expected gain.

        Args:
            tokens: All its tokens, the last one drawn and not yet computed.
            most: Maximum number of drafted tokens.

        Returns:
            The draft; None if decoding without one is expected to cost less, or nothing matches.
        """
        credit = own.credit.left if own.credit is not None else None
        if credit is not None and credit < self.cost.relative(2) - 1.0:
            return None  # not even one drafted token may fail
        match = own.index.find(tokens) if own.index is not None else None
        best, chosen, method = Depth(), match, ""
        if match is not None:
            best, method = self._lookup_depth(match, most, credit), "lookup"
        for name, drafter in self._drafters.items():
            if name in own.methods:
                depth = self._drafter_depth(name, drafter, tokens, most, credit)
                if depth.tokens and (depth.rate > best.rate or not best.tokens):
                    best, chosen, method = depth, None, name
        if not best.tokens:
            return None
        start_ns = self._clock_ns()
        if chosen is not None:
            drafted = continue_match(tokens, chosen, best.tokens)
            classes = tuple(_match_class(chosen.length + i) for i in range(len(drafted)))
            return Proposal(method, tuple(drafted), classes, start_ns, start_ns)
        drafted = self._drafters[method].propose(tokens, best.tokens)
        end_ns = self._clock_ns()
        if not drafted:
            return None
        return Proposal(method, tuple(drafted), tuple(range(len(drafted))), start_ns, end_ns)

    def observe_single(self, own: Speculation, elapsed_ns: int) -> None:
        """Learn from a batch of one row."""
        self.cost.observe(1, elapsed_ns)
        own.singles += 1
        if own.singles % _ROUND == 0:
            for acceptance in self._acceptance.values():
                acceptance.relax(_FORGOTTEN_PER_ROUND)
        if own.credit is not None:
            own.credit.resume()
            own.credit.spend(1, 1.0)

    def observe_batch(self, own: Speculation, verification: Verification) -> None:
        """Learn the cost of a verification; the accepted tokens follow in :meth:`settle`."""
        proposal = verification.proposal
        cost = self.cost.observe(verification.rows, verification.end_ns - verification.start_ns)
        one_row_ns = self.cost.one_row_ns
        if one_row_ns:
            cost += (proposal.end_ns - proposal.start_ns) / one_row_ns
        if own.credit is not None:
            own.credit.spend(0, cost)

    def settle(self, own: Speculation, verification: Verification) -> None:
        """Learn which drafted tokens were accepted."""
        proposal = verification.proposal
        self._acceptance[proposal.method].observe(
            proposal.classes, verification.accepted, rejected=verification.rejected
        )
        if own.credit is not None:
            own.credit.spend(verification.accepted + 1, 0.0)
            own.credit.judge(verification.accepted)

    def _lookup_depth(self, match: Match, most: int, credit: float | None) -> Depth:
        probability = self._acceptance["lookup"].probability
        chances = (probability(_match_class(match.length + i)) for i in range(most))
        only = self._limit_depth(most)
        return choose_depth(
            chances, self.cost.relative, credit=credit, only=only, always=credit is None
        )

    def _drafter_depth(
        self, name: str, drafter: Drafter, tokens: Sequence[int], most: int, credit: float | None
    ) -> Depth:
        one_row_ns = self.cost.one_row_ns
        only = self._limit_depth(most)
        if one_row_ns is None:  # nothing to compare the drafter with
            return Depth(only) if only and credit is None else Depth()
        start = drafter.start_cost(tokens, one_row_ns)
        spread = start / _AMORTISED
        acceptance = self._acceptance[name]
        return choose_depth(
            map(acceptance.probability, range(most)),
            self.cost.relative,
            draft_cost=drafter.token_cost(one_row_ns),
            start_cost=spread,
            credit=None if credit is None else credit - (start - spread),
            only=only,
            always=credit is None,
        )

    def _limit_depth(self, most: int) -> int | None:
        return None if self.draft_tokens is None else min(self.draft_tokens, most)


_SHORTEST = tuple(length for length, _ in _MATCH_PRIORS)


def _match_class(length: int) -> int:
    """Return the class of a token after a match; each accepted token makes the match longer."""
    return bisect_right(_SHORTEST, length) - 1

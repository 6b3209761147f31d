"""Decide at each step of a sequence who drafts, how many tokens, and what came of it.

Why verification is exact. Let x_1, x_2, ... be the tokens that the model draws without speculation:
x_i comes from its sampler chain, given the logits after the tokens before it and the state of the
chain (random numbers, penalties) after x_1 ... x_(i-1). A drafter proposes d_1 ... d_k
deterministically. The batch computes the logits after each d_i, given that d_1 ... d_(i-1) precede
it. The chain draws from the rows in order: if x_1 = d_1, the second row was computed after exactly
the right tokens, and the chain draws x_2 from it; and so on. At the first x_i != d_i the later rows
are void, nothing is drawn from them, and their cells are removed from the cache. So the chain sees
the same logits in the same order: for a given seed the answer is the same. This needs no rejection
sampling as in Leviathan et al. ("Fast Inference from Transformers via Speculative Decoding", 2023),
which is for drafts that are drawn at random.

What remains is rounding: a batch of several rows is computed with other kernels than one row, as
prompts are. With quantised weights on a CPU, logits differ by up to 0.3 to 0.5 (measured with three
models), and a tie within that difference may fall the other way.

Rows are drawn from one by one, when the next token is asked for. Whatever ends the answer or
changes the sequence in between finds it as it would be without speculation; the rest of the draft
is dropped.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from etui.arm import Speculate
from etui.engine.speculation.batch_cost import BatchCost
from etui.events import Verified

if TYPE_CHECKING:
    from etui.engine.speculation.draft_model import DraftModel
    from etui.engine.speculation.heads import MtpDrafter

Drafter: TypeAlias = "DraftModel | MtpDrafter"


@dataclass(slots=True)
class Verification:
    """A draft and the batch that verifies it, while tokens are drawn from its rows."""

    method: str  # `lookup`, `draft` or `mtp`
    tokens: tuple[int, ...]  # The drafted tokens, at least one
    classes: tuple[int, ...]  # Class of evidence of each, for the estimate of acceptance
    draft_start_ns: int
    draft_end_ns: int  # Equal to the start if no model took part
    start_ns: int = 0  # Of the batch; 0 before it was computed
    end_ns: int = 0
    accepted: int = 0  # Drafted tokens that the model drew too
    rejected: bool = False  # Whether the model drew another token than the next drafted one
    cost: float = 0.0  # Of drafting and verifying, in batches of one row

    @property
    def rows(self) -> int:
        """Rows of the batch: the last token and the drafted ones."""
        return 1 + len(self.tokens)

    @property
    def done(self) -> bool:
        """Whether the fate of every drafted token is known."""
        return self.rejected or self.accepted == len(self.tokens)

    def judge(self, token: int) -> bool:
        """Compare the token drawn from the next row with the drafted one; True if they agree."""
        assert not self.done
        self.rejected = token != self.tokens[self.accepted]
        self.accepted += not self.rejected
        return not self.rejected

    def event(self, stopped: str) -> Verified:
        """Build the event of the batch, with the reason why it is the last one; empty if not."""
        took_time = self.draft_end_ns > self.draft_start_ns
        return Verified(
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            draft_start_ns=self.draft_start_ns if took_time else self.start_ns,
            method=self.method,
            rows=self.rows,
            drafted=len(self.tokens),
            accepted=self.accepted,
            stopped=stopped,
        )


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


class Balance:
    """What the drafts of a method have cost and saved, in batches of one row."""

    _LEAST_BATCHES = 16
    _DEVIATIONS = 2.0

    def __init__(self) -> None:
        self._batches = 0
        self._cost = self._saved = self._squares = 0.0

    def add(self, verification: Verification) -> None:
        """Add a batch; one whose tokens were not all drawn says too little of what it saves."""
        if not verification.done:
            return
        cost = verification.cost - 1.0  # without the batch of one row that it replaces
        self._batches += 1
        self._cost += cost
        self._saved += verification.accepted
        self._squares += (verification.accepted - cost) ** 2

    @property
    def loses(self) -> bool:
        """Whether the drafts cost more than they save, beyond what may be chance."""
        if self._batches < self._LEAST_BATCHES:
            return False
        mean = (self._saved - self._cost) / self._batches
        variance = max(0.0, self._squares / self._batches - mean**2) / self._batches
        return mean + self._DEVIATIONS * math.sqrt(variance) < 0

    def describe(self, method: str) -> str:
        """Say what the drafts have cost and saved."""
        return (
            f"drafts by {method} cost the time of {self._cost:,.0f} tokens "
            f"and saved that of {self._saved:,.0f}"
        )


_GRAMS = (4, 2)
"""Lengths of the n-grams that are looked up, the longest first."""

_CANDIDATES = 16
"""Occurrences compared, the latest first."""

LONGEST_MATCH = 24
"""Longer matches are no better evidence."""


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier occurrence of the last tokens."""

    end: int  # Index of the token after it
    length: int  # Number of equal tokens, at most `LONGEST_MATCH`


class LookupIndex:
    """Index of the n-grams of one sequence, kept up with its tokens."""

    def __init__(self) -> None:
        self._ends: tuple[dict[tuple[int, ...], list[int]], ...] = tuple({} for _ in _GRAMS)
        self._indexed = 0

    def truncate(self, length: int) -> None:
        """Note that the tokens from ``length`` on were removed; entries of them fail to match."""
        self._indexed = min(self._indexed, length)

    def find(self, tokens: Sequence[int]) -> Match | None:
        """Find the longest match of the last tokens, of equally long ones the latest.

        Args:
            tokens: All tokens of the sequence; those seen before must not have changed, unless
                ``truncate`` said so.
        """
        self._extend(tokens)
        last = len(tokens)
        best: Match | None = None
        for size, ends in zip(_GRAMS, self._ends, strict=True):
            if last <= size:
                continue
            found = ends.get(tuple(tokens[last - size :]), ())
            for end in reversed(found[-_CANDIDATES:]):
                length = _match_length(tokens, end) if end < last else 0
                if length >= size and (best is None or length > best.length):
                    best = Match(end, length)
            if best is not None:
                return best
        return None

    def _extend(self, tokens: Sequence[int]) -> None:
        """Index the n-grams that end before the last token: they are followed by a known one."""
        stop = len(tokens) - 1
        for size, ends in zip(_GRAMS, self._ends, strict=True):
            for end in range(max(size, self._indexed + 1), stop + 1):
                ends.setdefault(tuple(tokens[end - size : end]), []).append(end)
        self._indexed = max(self._indexed, stop)


def continue_match(tokens: Sequence[int], match: Match, count: int) -> list[int]:
    """Return the ``count`` tokens after a match; one that reaches the end goes on in a circle."""
    drafted = list(tokens[match.end : match.end + count])
    while len(drafted) < count:
        drafted.append(drafted[len(drafted) - (len(tokens) - match.end)])
    return drafted


def _match_length(tokens: Sequence[int], end: int) -> int:
    last = len(tokens)
    longest = min(end, LONGEST_MATCH)
    length = 0
    while length < longest and tokens[end - 1 - length] == tokens[last - 1 - length]:
        length += 1
    return length


_MEMORY = 0.95
"""Weight of the trials before, at each further one: the last twenty or so count."""

_STRENGTH = 3.0
"""A prior counts as this many trials."""


class Acceptance:
    """Probability of acceptance by class of evidence, given that all drafts before were accepted.

    A class is the position of a token in its draft, or the length of the match that proposed it. Of
    each, the decayed numbers of accepted and rejected tokens are kept, and a prior that they
    correct.
    """

    def __init__(self, priors: Sequence[float]) -> None:
        self._priors = tuple(priors)
        self._accepted = [0.0] * len(priors)
        self._trials = [0.0] * len(priors)

    def probability(self, class_: int) -> float:
        """Return the probability for a class; classes beyond the last count as the last."""
        at = min(class_, len(self._priors) - 1)
        accepted = self._accepted[at] + _STRENGTH * self._priors[at]
        return accepted / (self._trials[at] + _STRENGTH)

    def observe(self, classes: Sequence[int], accepted: int, *, rejected: bool) -> None:
        """Learn from a verified draft.

        Args:
            accepted: How many of them were accepted.
            rejected: Whether the next one was rejected; those after it are untried.
        """
        for position, class_ in enumerate(classes[: accepted + rejected]):
            at = min(class_, len(self._priors) - 1)
            self._trials[at] = _MEMORY * self._trials[at] + 1.0
            self._accepted[at] = _MEMORY * self._accepted[at] + (position < accepted)

    def relax(self, share: float) -> None:
        """Forget a share (0..1) of the trials, because the text has changed since."""
        self._accepted = [(1 - share) * value for value in self._accepted]
        self._trials = [(1 - share) * value for value in self._trials]


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


class Speculation:
    """Speculation of one sequence by some methods; ``limited`` if losses have a limit."""

    def __init__(self, methods: Sequence[str], *, limited: bool) -> None:
        self.methods = frozenset(methods)
        self.balance = Balance()
        self.index = LookupIndex() if "lookup" in methods else None
        self.credit = Credit() if limited else None
        self.singles = 0  # tokens decoded without a draft


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
        self._balances = {"lookup": Balance()}  # of named methods, over all answers

    def add(self, drafter: Drafter) -> None:
        """Add a drafter that takes a model."""
        self._drafters[drafter.method] = drafter
        self._acceptance[drafter.method] = Acceptance(_DRAFTER_PRIORS)
        self._balances[drafter.method] = Balance()

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

    def refuse(self, method: Speculate) -> str:
        """Say why a method that was named is not used any more; empty if it is.

        It has lost in the answers so far. A number of tokens to draft is an order to go on: so a
        sweep measures what it costs. ``auto`` has a limit to what it loses instead.
        """
        balance = self._balances.get(method)
        if balance is None or self.draft_tokens is not None or not balance.loses:
            return ""
        return balance.describe(method)

    def start(self, method: Speculate) -> Speculation:
        """Start the speculation of a sequence; ``auto`` may use every method, within a limit."""
        for acceptance in self._acceptance.values():
            acceptance.relax(_FORGOTTEN_PER_ANSWER)
        if method == "auto":
            return Speculation(self.methods, limited=True)
        return Speculation((method,), limited=False)

    def propose(self, own: Speculation, tokens: Sequence[int], most: int) -> Verification | None:
        """Draft the next tokens of a sequence with the method of the largest expected gain.

        Args:
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
                depth = self._drafter_depth(drafter, tokens, most, credit)
                if depth.tokens and (depth.rate > best.rate or not best.tokens):
                    best, chosen, method = depth, None, name
        if not best.tokens:
            return None
        start_ns = self._clock_ns()
        if chosen is not None:
            drafted = continue_match(tokens, chosen, best.tokens)
            classes = tuple(_match_class(chosen.length + i) for i in range(len(drafted)))
            return Verification(method, tuple(drafted), classes, start_ns, start_ns)
        drafted = self._drafters[method].propose(tokens, best.tokens)
        end_ns = self._clock_ns()
        if not drafted:
            return None
        return Verification(method, tuple(drafted), tuple(range(len(drafted))), start_ns, end_ns)

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
        cost = self.cost.observe(verification.rows, verification.end_ns - verification.start_ns)
        one_row_ns = self.cost.one_row_ns
        if one_row_ns:
            cost += (verification.draft_end_ns - verification.draft_start_ns) / one_row_ns
        verification.cost = cost
        if own.credit is not None:
            own.credit.spend(0, cost)

    def settle(self, own: Speculation, verification: Verification) -> str:
        """Learn which drafted tokens were accepted.

        Returns:
            Why the sequence has to draft no more: the drafts have lost in it; empty if it goes on.
        """
        self._acceptance[verification.method].observe(
            verification.classes, verification.accepted, rejected=verification.rejected
        )
        if own.credit is not None:
            own.credit.spend(verification.accepted + 1, 0.0)
            own.credit.judge(verification.accepted)
            return ""
        own.balance.add(verification)
        self._balances[verification.method].add(verification)
        if self.draft_tokens is not None or not own.balance.loses:
            return ""
        return own.balance.describe(verification.method)

    def _lookup_depth(self, match: Match, most: int, credit: float | None) -> Depth:
        probability = self._acceptance["lookup"].probability
        chances = (probability(_match_class(match.length + i)) for i in range(most))
        only = self._limit_depth(most)
        return choose_depth(
            chances, self.cost.relative, credit=credit, only=only, always=credit is None
        )

    def _drafter_depth(
        self, drafter: Drafter, tokens: Sequence[int], most: int, credit: float | None
    ) -> Depth:
        one_row_ns = self.cost.one_row_ns
        only = self._limit_depth(most)
        if one_row_ns is None:  # nothing to compare the drafter with
            return Depth(only) if only and credit is None else Depth()
        start = drafter.start_cost(tokens, one_row_ns)
        spread = start / _AMORTISED
        return choose_depth(
            map(self._acceptance[drafter.method].probability, range(most)),
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

"""Choose the computed tokens a new sequence can reuse: pure functions over token lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the leading tokens two lists share, by bisecting with slice comparisons (fast)."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


KEPT_REST = 16
"""A closed donor is kept for its own chat if it has more tokens than this behind the prefix."""

FOLLOWED_TOKENS = 32
"""Shortest prefix that is worth waiting for, while another sequence computes it."""


@dataclass(frozen=True, slots=True)
class Donor:
    """A sequence in the cache that a new one may start from."""

    slot: int  # Its sequence number in llama.cpp's KV cache
    tokens: Sequence[int]
    closed: bool  # It is no longer in use, so a new sequence may take it over


@dataclass(frozen=True, slots=True)
class Reuse:
    """The choice to reuse the first ``length`` tokens of ``donor``."""

    donor: Donor
    length: int
    copies: bool = False  # A closed donor is copied, so that its own chat can still continue it

    @property
    def take_over(self) -> bool:
        """Whether the donor is taken over (it is closed) instead of sharing its cells."""
        return self.donor.closed and not self.copies


def choose_reuse(
    donors: Iterable[Donor],
    tokens: Sequence[int],
    *,
    whole_only: bool,
    free_slots: int,
    several_clients: bool = False,
) -> Reuse | None:
    """Choose the donor with the longest common prefix, and how to use it.

    At least one token is left to compute, because its logits are needed. A closed donor is taken
    over and the tokens behind the prefix are dropped: every cell in use slows down the attention of
    the other sequences, masked or not (1,000 cells make a token 10 to 50 % more expensive on a
    CPU), so keeping them would pay off only if a return to the other chat were likely.

    Args:
        donors: Oldest first; of equally long prefixes the latest donor is chosen.
        whole_only: The model does not support partial removal, so that a donor can be continued
            only if all of its tokens are a prefix.
        free_slots: Unused slots, in addition to those of closed donors.
        several_clients: Several clients use the session in turn, so that a closed donor with more
            than the prefix is copied for its own chat, if there is a slot.

    Returns:
        What to reuse; None if there is no common prefix, or no slot to share a donor in use.
    """
    most = len(tokens) - 1
    donors = list(donors)
    best: tuple[int, Donor] | None = None
    for donor in donors:
        length = min(common_prefix(donor.tokens, tokens), most)
        if whole_only and length < len(donor.tokens):
            continue
        if length > 0 and (best is None or length >= best[0]):
            best = (length, donor)
    if best is None:
        return None
    length, donor = best
    slots = free_slots + sum(other.closed for other in donors if other is not donor)
    if not donor.closed and slots == 0:
        return None
    rest = len(donor.tokens) - length
    copies = several_clients and donor.closed and slots > 0 and rest > KEPT_REST
    return Reuse(donor, length, copies)


def choose_evicted(owners: Sequence[str]) -> int:
    """Choose the closed donor to evict: the oldest one of the owner that has the most.

    So the newest one of each owner is kept longest.

    Args:
        owners: Owner of each donor, the least recently used donor first.

    Returns:
        Index of the donor.
    """
    counts = Counter(owners)
    most = max(counts.values())
    return next(index for index, owner in enumerate(owners) if counts[owner] == most)

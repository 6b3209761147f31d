"""Which computed tokens a new sequence can reuse: pure functions over token lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens two lists share; bisects over slice comparisons, which are fast."""
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


@dataclass(frozen=True, slots=True)
class Donor:
    """A sequence in the cache that a new one may start from.

    Attributes:
        slot: Its number in llama.cpp's memory.
        tokens: The tokens computed for it.
        closed: Nobody uses it any more, so it may be taken over.
    """

    slot: int
    tokens: Sequence[int]
    closed: bool


@dataclass(frozen=True, slots=True)
class Reuse:
    """What to reuse: ``length`` tokens of ``donor``."""

    donor: Donor
    length: int

    @property
    def take_over(self) -> bool:
        """A closed donor is taken over; one in use shares its cells."""
        return self.donor.closed


def choose_reuse(
    donors: Iterable[Donor], wanted: Sequence[int], *, whole_only: bool, free_slots: int
) -> Reuse | None:
    """The donor with the longest common prefix, and how to use it.

    One token at least is left to compute, since its logits are needed. Models that refuse partial
    removal (``whole_only``) can continue a donor only if all of it is a prefix. A closed donor is
    taken over, its rest given up: every cell that is held costs each token of the others some of
    its attention, masked or not (1,000 cells make a token 10 to 50 % dearer on a CPU), so that
    going back to another chat would have to be likely to be worth it.

    Args:
        donors: Oldest first; of equals the latest is taken.
        free_slots: Slots that nobody holds; those of closed donors can be had besides.
    """
    most = len(wanted) - 1
    donors = list(donors)
    best: tuple[int, Donor] | None = None
    for donor in donors:
        length = min(common_prefix(donor.tokens, wanted), most)
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
    return Reuse(donor, length)

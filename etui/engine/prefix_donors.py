"""The closed sequences of a session that new ones start from, and prefixes still being computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from etui.engine.llama_sequence import Following, LlamaSequence
from etui.engine.prefix_cache import (
    FOLLOWED_TOKENS,
    Donor,
    Reuse,
    choose_evicted,
    choose_reuse,
    common_prefix,
)


class CellCache(Protocol):
    """The KV cache of a session."""

    def remove(self, sequence: int, start: int) -> bool:
        """Remove positions from ``start`` on; False if the model cannot remove a part."""

    def copy(self, source: int, target: int, end: int = -1) -> None:
        """Let ``target`` share the positions of ``source`` before ``end`` (-1: all)."""


class PrefixDonors:
    """The closed sequences, the least recently used first.

    A sequence starts only from tokens of its own owner, open or closed: the time to the first token
    would show another owner what somebody asked.

    Args:
        limit: Maximum number of closed sequences.
        whole_only: The model does not support partial removal, so that a donor can be continued
            only if all of its tokens are a prefix.

    Attributes:
        several_clients: Whether donors of other chats are kept. Their cells slow down the
            attention of each token, so with one user only the chat that goes on is kept.
    """

    def __init__(self, cache: CellCache, limit: int, *, whole_only: bool) -> None:
        self.closed: list[LlamaSequence] = []
        self.several_clients = False
        self._cache = cache
        self._limit = limit
        self._whole_only = whole_only

    def find(
        self,
        tokens: Sequence[int],
        owner: str,
        live: Iterable[LlamaSequence],
        free_slots: int,
    ) -> tuple[Reuse, LlamaSequence] | None:
        """Find the sequence of the owner whose computed tokens a new one can reuse."""
        known: dict[int, LlamaSequence] = {}
        donors: list[Donor] = []
        for sequences, closed in ((live, False), (self.closed, True)):
            for each in sequences:
                if each.owner == owner:
                    known[each.slot] = each
                    donors.append(Donor(each.slot, each.tokens[: each.computed], closed))
        reuse = choose_reuse(
            donors,
            tokens,
            whole_only=self._whole_only,
            free_slots=free_slots + sum(each.owner != owner for each in self.closed),
            several_clients=self.several_clients,
        )
        return None if reuse is None else (reuse, known[reuse.donor.slot])

    def follow(self, sequence: LlamaSequence, live: Iterable[LlamaSequence]) -> None:
        """Let a new sequence wait for a prefix that another one of its owner will have computed.

        Without this, requests that arrive together would each compute the prompt that they share.
        """
        if not self.several_clients or self._whole_only:
            return
        best = sequence.computed + FOLLOWED_TOKENS - 1
        for each in live:
            if each is sequence or each.owner != sequence.owner:
                continue
            length = min(common_prefix(each.tokens, sequence.tokens), len(sequence.tokens) - 1)
            if length > best:
                best, sequence.following = length, Following(each, length)

    def waits(
        self,
        sequence: LlamaSequence,
        live: Mapping[int, LlamaSequence],
        stepped: Collection[int],
    ) -> bool:
        """Return whether a sequence still waits for a prefix; copy the prefix when it is there.

        It waits no longer than its leader is stepped with it, and then takes what there is.

        Args:
            sequence: A sequence with queued tokens.
            live: The open sequences by id.
            stepped: Ids of the sequences of this step.
        """
        following = sequence.following
        if following is None:
            return False
        leader, length = following.leader, following.length
        length = min(length, common_prefix(leader.tokens, sequence.tokens))
        is_live = leader.id in live
        if is_live and leader.computed < length and leader.id in stepped:
            return True
        sequence.following = None
        length = min(length, leader.computed)
        if length > sequence.computed and (is_live or leader in self.closed):
            if sequence.computed:
                self._cache.remove(sequence.slot, 0)
            self._cache.copy(leader.slot, sequence.slot, length)
            sequence.computed = sequence.cached = length
            sequence.cells = leader.cells[:length]
        return False

    def serve_several_clients(self, limit: int) -> None:
        """Keep the donors of other chats, at least this many."""
        self.several_clients = True
        self._limit = max(self._limit, limit)

    def take_all_but(self, kept: LlamaSequence | None) -> list[LlamaSequence]:
        """Remove and return all donors but one."""
        taken = [each for each in self.closed if each is not kept]
        self.closed = [each for each in self.closed if each is kept]
        return taken

    def add(self, sequence: LlamaSequence) -> LlamaSequence | None:
        """Keep a closed sequence; return the one to evict for it, if there are too many."""
        self.closed.append(sequence)
        return self.pop() if len(self.closed) > self._limit else None

    def refresh(self, sequence: LlamaSequence) -> None:
        """Count a donor as used just now."""
        self.closed.remove(sequence)
        self.closed.append(sequence)

    def pop(self, keep: LlamaSequence | None = None) -> LlamaSequence | None:
        """Remove and return the donor to evict; None if there is none but ``keep``."""
        others = [each for each in self.closed if each is not keep]
        if not others:
            return None
        chosen = others[choose_evicted([each.owner for each in others])]
        self.closed.remove(chosen)
        return chosen

"""The open and closed sequences of a session, with their places in the KV cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.arm import Sampling
from etui.engine.batch_decoder import Following, LlamaSequence
from etui.engine.sampler import Sampler
from etui.errors import EngineFailed

if TYPE_CHECKING:
    from etui.engine.context import Context
    from etui.engine.model import Model
    from etui.engine.session import TokenSequence


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


class PrefixSharing:
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

    def __init__(self, cache: Context, limit: int, *, whole_only: bool) -> None:
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


class SequenceCache:
    """Gives sequences their slots, and reuses what closed ones have computed.

    Args:
        drop_draft: Called with a sequence before its cells are shared.

    Attributes:
        live: The open sequences by id.
        donors: The closed ones.
        next_cell: Number of the next computed token; shared cells have the same number.
    """

    def __init__(
        self,
        context: Context,
        model: Model,
        context_tokens: int,
        drop_draft: Callable[[LlamaSequence], object],
    ) -> None:
        self._context = context
        self._model = model
        self._context_tokens = context_tokens
        self._drop_draft = drop_draft
        self._free_slots = list(range(context.options.sequences))[::-1]
        self.live: dict[int, LlamaSequence] = {}
        self.donors = PrefixSharing(
            context, context.options.donors, whole_only=model.recurrent or self._windowed
        )
        self.next_cell = 0
        self._next_id = 0

    @property
    def _windowed(self) -> bool:
        """Whether tokens outside the sliding window are dropped, which rules out a rollback."""
        return self._model.sliding_window > 0 and not self._context.options.full_window

    @property
    def free_tokens(self) -> int:
        """Cells not held by open sequences; shared prefixes count once."""
        return self._context.capacity - self.count_cells(self.live.values())

    @property
    def free_sequences(self) -> int:
        """Number of sequences that can still be opened or forked."""
        return len(self._free_slots) + len(self.donors.closed)

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count the cells that sequences hold; shared ones count once."""
        held: set[int] = set()
        for sequence in sequences:
            held.update(self.find(sequence).cells)
        return len(held)

    def find(self, sequence: TokenSequence) -> LlamaSequence:
        """Find an open sequence.

        Raises:
            ValueError: It is closed.
        """
        own = self.live.get(sequence.id)
        if own is None:
            raise ValueError(f"sequence {sequence.id} is closed")
        return own

    def find_closed(self, label: str, owner: str) -> LlamaSequence | None:
        """Find the latest closed sequence with a label; None if it was evicted, or has none."""
        for donor in reversed(self.donors.closed):
            if label and (donor.label, donor.owner) == (label, owner):
                return donor
        return None

    def open(self, tokens: list[int], sampling: Sampling, owner: str, label: str) -> LlamaSequence:
        """Open a sequence, reusing the longest common token prefix of the same owner.

        Raises:
            EngineFailed: The context has no sequence left.
        """
        found = self.donors.find(tokens, owner, self.live.values(), len(self._free_slots))
        if not self.donors.several_clients:
            for donor in self.donors.take_all_but(found and found[1]):
                self._release(donor)
        if found is None:
            sequence = self._create(self._take_slot(), tokens, sampling, owner, label)
        else:
            sequence = self._reuse(*found, tokens, sampling, label)
        self.donors.follow(sequence, self.live.values())
        self.live[sequence.id] = sequence
        return sequence

    def _reuse(
        self, reuse: Reuse, donor: LlamaSequence, tokens: list[int], sampling: Sampling, label: str
    ) -> LlamaSequence:
        length = reuse.length
        if reuse.take_over:
            self.donors.closed.remove(donor)
            if length < donor.computed and not self._context.remove(donor.slot, length):
                self._context.remove(donor.slot, 0)  # no partial removal: compute all of it
                length = 0
            sequence = self._create(donor.slot, tokens, sampling, donor.owner, label)
        else:
            self._drop_draft(donor)
            length = min(length, donor.computed)
            slot = self._take_slot(keep=donor)
            sequence = self._create(slot, tokens, sampling, donor.owner, label)
            end = -1 if length == donor.computed else length
            self._context.copy(donor.slot, sequence.slot, end)
            if reuse.copies:
                self.donors.refresh(donor)
        sequence.computed = sequence.cached = length
        sequence.cells = donor.cells[:length]
        return sequence

    def fork(self, parent: LlamaSequence, sampling: Sampling) -> LlamaSequence:
        """Fork a sequence: computed tokens are shared, queued tokens and a script are copied.

        Raises:
            EngineFailed: The context has no sequence left.
        """
        child = self._create(
            self._take_slot(), list(parent.tokens), sampling, parent.owner, parent.label
        )
        child.script = parent.script
        child.constraint = parent.constraint.clone() if parent.constraint else None
        if parent.computed:
            self._context.copy(parent.slot, child.slot)
        child.computed = child.cached = parent.computed
        child.cells = list(parent.cells)
        child.row, child.epoch = parent.row, parent.epoch
        self.live[child.id] = child
        return child

    def close(self, sequence: LlamaSequence, *, keep: bool) -> None:
        """Close a sequence; with ``keep`` its tokens stay as a prefix for later ones."""
        del self.live[sequence.id]
        sequence.rest = tuple(sequence.tokens[sequence.computed :])
        del sequence.tokens[sequence.computed :]
        sequence.kept_logits = sequence.following = None
        evicted = self.donors.add(sequence) if keep and sequence.computed else sequence
        if evicted is not None:
            self._release(evicted)

    def waits(self, sequence: LlamaSequence, stepped: Collection[int]) -> bool:
        """Return whether a sequence waits for a prefix; see :meth:`PrefixSharing.waits`."""
        return self.donors.waits(sequence, self.live, stepped)

    def add_computed(self, sequence: LlamaSequence, count: int) -> None:
        """Note that the next queued tokens of a sequence were computed."""
        sequence.computed += count
        sequence.cells.extend(range(self.next_cell, self.next_cell + count))
        self.next_cell += count

    def truncate(self, sequence: LlamaSequence, keep: int) -> bool:
        """Keep the first computed tokens only; False if the model cannot remove a part."""
        if (self._windowed and keep > 0) or not self._context.remove(sequence.slot, keep):
            return False
        sequence.computed = keep
        del sequence.cells[keep:]
        sequence.epoch = -1
        return True

    def requeue_last(self, sequence: LlamaSequence) -> None:
        """Queue the last token again, so that a batch computes its logits."""
        if not self.truncate(sequence, len(sequence.tokens) - 1):
            self.truncate(sequence, 0)  # no partial removal: recompute all of it

    def _create(
        self, slot: int, tokens: list[int], sampling: Sampling, owner: str, label: str
    ) -> LlamaSequence:
        self._next_id += 1
        sampler = Sampler(
            self._context.api, sampling, self._context.vocabulary, self._context_tokens
        )
        return LlamaSequence(self._next_id, slot, tokens, sampler, owner, label)

    def _take_slot(self, keep: LlamaSequence | None = None) -> int:
        """Take a free slot, evicting a donor other than ``keep`` if there is none."""
        if not self._free_slots and not self.evict(keep):
            raise EngineFailed(
                f"{len(self.live)} sequences are open, the maximum of this context",
                "lower `batch` of the arm",
            )
        return self._free_slots.pop()

    def evict(self, keep: LlamaSequence | None = None) -> bool:
        """Evict a donor other than ``keep``; False if there is none."""
        donor = self.donors.pop(keep)
        if donor is not None:
            self._release(donor)
        return donor is not None

    def _release(self, sequence: LlamaSequence) -> None:
        self._context.remove(sequence.slot, 0)
        self._free_slots.append(sequence.slot)

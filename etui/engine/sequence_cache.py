"""The open and closed sequences of a session, with their places in the KV cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from etui.arm import Sampling
from etui.engine.llama_sequence import LlamaSequence
from etui.engine.prefix_donors import PrefixDonors
from etui.engine.sampler import Sampler
from etui.errors import EngineFailed

if TYPE_CHECKING:
    from etui.engine.context import Context
    from etui.engine.model import Model
    from etui.engine.prefix_cache import Reuse
    from etui.engine.session import TokenSequence


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
        self.donors = PrefixDonors(
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

    def fork(self, parent: LlamaSequence, sampling: Sampling, label: str) -> LlamaSequence:
        """Fork a sequence: computed tokens are shared, queued tokens and a script are copied.

        Raises:
            EngineFailed: The context has no sequence left.
        """
        child = self._create(self._take_slot(), list(parent.tokens), sampling, parent.owner, label)
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
        """Return whether a sequence waits for a prefix; see :meth:`PrefixDonors.waits`."""
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

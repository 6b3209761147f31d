"""The open and closed sequences of a session, with their places in the KV cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from etui.arm import Sampling
from etui.engine.checkpoints import Checkpoint, Checkpoints
from etui.engine.sampler import Constraint, Sampler, Script
from etui.errors import EngineFailed
from etui.events import Reused, Verified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.engine.context import Context
    from etui.engine.kv_store import SavedSequence, SequenceKeeper
    from etui.engine.model import Model
    from etui.engine.session import PromptScores, TokenSequence
    from etui.engine.speculation.speculator import Speculation

IDLE_CELLS = 512
"""Cells of closed sequences that a CPU keeps in the context beside the newest: their states come
back from memory in a hundredth of the time that computing them took."""

IDLE_SHARE = 0.125
"""A prompt of this share of the idle cells pays for saving them: each of its tokens gets faster by
about a tenth, and saving a token takes 0.5 % of computing it."""

KEPT_REST = 16
"""A closed donor is kept for its own chat if it has more tokens than this behind the prefix."""

FOLLOWED_TOKENS = 32
"""Shortest prefix that is worth waiting for, while another sequence computes it."""


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


@dataclass(slots=True, eq=False)
class LlamaSequence:
    """One sequence: ``tokens[:computed]`` are in the cache, the rest is queued."""

    id: int
    slot: int  # Its sequence number in llama.cpp's KV cache
    tokens: list[int]
    sampler: Sampler
    owner: str = ""  # Whose it is: it shares nothing with sequences of others
    label: str = ""  # Name under which it is recalled
    rest: tuple[int, ...] = ()  # Drawn before it was closed, and not computed
    computed: int = 0
    cached: int = 0
    cells: list[int] = field(default_factory=list)
    """One number per computed token; shared cells have the same number."""
    row: int = 0
    epoch: int = -1  # The decode whose output ``row`` holds the logits after tokens[:computed]
    kept_logits: tuple[int, NDArray[np.float32]] | None = None  # And the decode after them
    script: Script | None = None
    constraint: Constraint | None = None
    speculation: Speculation | None = None
    verified: list[Verified] = field(default_factory=list)  # Settled, and not yet reported
    following: tuple[LlamaSequence, int] | None = None
    """A sequence that is about to compute a prefix, and the length of it, for which it waits."""
    reused: Reused | None = None  # Where its first tokens come from, if that is to be reported
    checkpoints: list[Checkpoint] = field(default_factory=list)  # Shortest first
    marks: list[int] = field(default_factory=list)  # Lengths at which checkpoints are planned
    compacted: int = 0  # Number of computed tokens when its cells were last compacted
    known: int = 0  # Its leading tokens that another sequence had computed
    scores: PromptScores | None = None  # Of its prompt, if they are asked for
    has_pictures: bool = False

    @property
    def pending(self) -> int:
        """Tokens queued and not yet computed."""
        return len(self.tokens) - self.computed

    @property
    def lost(self) -> int:
        """Leading tokens that were computed before, and could not be reused."""
        return max(0, self.known - self.cached)

    def take_verified(self) -> tuple[Verified, ...]:
        """Take the verifications that were not yet reported."""
        taken = tuple(self.verified)
        self.verified.clear()
        return taken


class SequenceCache:
    """Gives sequences their slots, and reuses what open and closed ones have computed.

    A sequence starts only from tokens of its own owner: the time to the first token would show
    another owner what somebody asked.

    Attributes:
        live: The open sequences by id.
        closed: The closed ones, from which new ones may start, the least recently used first.
        several_clients: Whether closed sequences of other chats are kept. Their cells slow down the
            attention of each token (1,000 cells by 10 to 50 % on a CPU, masked or not), so with one
            user only the chat that goes on is kept, and on a CPU with a keeper few cells are.
        next_cell: Number of the next computed token.
        keeper: Saves what is evicted, and brings it back; None without tiers below the context.
        checkpoints: What lets sequences of windowed and recurrent models go back.
    """

    def __init__(
        self,
        context: Context,
        model: Model,
        context_tokens: int,
        drop_draft: Callable[[LlamaSequence], object],  # before the cells of one are shared
    ) -> None:
        self._context = context
        self._context_tokens = context_tokens
        self._drop_draft = drop_draft
        self._limit = context.options.donors
        self._free_slots = list(range(context.options.sequences))[::-1]
        self.live: dict[int, LlamaSequence] = {}
        self.closed: list[LlamaSequence] = []
        self.checkpoints = Checkpoints(context, model, lambda: (*self.closed, *self.live.values()))
        self.several_clients = False
        self._on_cpu = not model.offloaded
        self.next_cell = 0
        self.keeper: SequenceKeeper | None = None
        self._next_id = 0

    @property
    def free_tokens(self) -> int:
        """Cells not held by open sequences; shared prefixes count once."""
        return self._context.capacity - self.count_cells(self.live.values())

    @property
    def free_sequences(self) -> int:
        """Number of sequences that can still be opened or forked."""
        return len(self._free_slots) + len(self.closed)

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count the cells that sequences hold; shared ones count once."""
        held: set[int] = set()
        for sequence in sequences:
            held.update(self.find(sequence).cells)
        return len(held)

    def find(self, sequence: TokenSequence) -> LlamaSequence:
        """Find an open sequence; ValueError if it is closed."""
        own = self.live.get(sequence.id)
        if own is None:
            raise ValueError(f"sequence {sequence.id} is closed")
        return own

    def find_closed(self, label: str, owner: str) -> LlamaSequence | None:
        """Find the latest closed sequence with a label; None if it is lost, or has none."""
        for donor in reversed(self.closed):
            if label and (donor.label, donor.owner) == (label, owner):
                return donor
        if not label or self.keeper is None:
            return None
        saved = self.keeper.store.find_label(self.keeper.key, owner, label)
        return None if saved is None else self._bring_back(saved)

    def serve_several_clients(self, limit: int) -> None:
        """Keep the closed sequences of other chats, at least this many."""
        self.several_clients = True
        self._limit = max(self._limit, limit)

    def open(
        self,
        tokens: list[int],
        sampling: Sampling,
        owner: str,
        label: str,
        scores: PromptScores | None = None,
    ) -> LlamaSequence:
        """Open a sequence, reusing the longest common token prefix of the same owner.

        With ``scores`` it reuses nothing. EngineFailed if the context has no sequence left.
        """
        donor, length, takes_over = None, 0, False
        if scores is None:
            donor, length, takes_over = self.choose_donor(tokens, owner)
        if self.keeper is not None and scores is None:
            saved = self.keeper.store.find(self.keeper.key, owner, tokens, length)
            if saved is not None and self._bring_back(saved) is not None:
                donor, length, takes_over = self.choose_donor(tokens, owner)
        known = self._longest_known(tokens, owner) if scores is None else 0
        if not self.several_clients:
            for other in [each for each in self.closed if each is not donor]:
                self._release(other)
        if donor is None:
            sequence = self._create(self._take_slot(), tokens, sampling, owner, label)
        elif takes_over:
            self.closed.remove(donor)
            length = self.checkpoints.cut(donor, length)
            sequence = self._create(donor.slot, tokens, sampling, owner, label)
        else:
            self._drop_draft(donor)
            slot = self._take_slot(donor)
            length = self.checkpoints.copy(donor, slot, length)
            sequence = self._create(slot, tokens, sampling, owner, label)
            if donor in self.closed:  # it was used just now
                self.closed.remove(donor)
                self.closed.append(donor)
        if donor is not None:
            self._share(donor, sequence, length)
        if self.keeper is not None:
            self._report_reuse(sequence, donor)
        sequence.scores = scores
        if scores is None:
            self._follow(sequence)
        sequence.known = known
        self.checkpoints.mark_turn(sequence)
        self.live[sequence.id] = sequence
        if self._saves_idle and sequence.pending >= IDLE_SHARE * self._idle_cells():
            self._save_idle()
        return sequence

    @property
    def _saves_idle(self) -> bool:
        """Whether each token pays for the cells of closed sequences, and these can come back."""
        return self.several_clients and self._on_cpu and self.keeper is not None

    def _save_idle(self, most: int = 0, keep: LlamaSequence | None = None) -> None:
        """Evict closed sequences other than ``keep``, so that few of their cells are left."""
        while self._idle_cells(keep) > most and self.evict(keep):
            pass

    def _idle_cells(self, keep: LlamaSequence | None = None) -> int:
        """Count the cells that only closed sequences other than ``keep`` hold."""
        idle = {cell for each in self.closed if each is not keep for cell in each.cells}
        return len(idle.difference(*(each.cells for each in self.live.values())))

    def _bring_back(self, saved: SavedSequence) -> LlamaSequence | None:
        """Bring a saved sequence back as a closed one; None without room for it, or if it is lost.

        What is in its way is evicted, and thereby saved itself.
        """
        assert self.keeper is not None
        count = len(saved.tokens)
        if self.free_tokens < count or not self.free_sequences:
            return None
        if not self.several_clients:
            while self.evict():
                pass
        slot = self._take_slot()
        found = self.keeper.bring_back(saved, slot, self.evict)
        if found is None:
            self._free_slots.append(slot)
            return None
        greedy = Sampling(temperature=0)
        donor = self._create(slot, list(saved.tokens), greedy, saved.owner, saved.label)
        donor.rest, donor.reused = saved.rest, found[0]
        donor.checkpoints = list(found[1])
        self.add_computed(donor, count)
        self.closed.append(donor)
        return donor

    def _report_reuse(self, sequence: LlamaSequence, donor: LlamaSequence | None) -> None:
        """Note where the first tokens of a new sequence come from, and what keeping them took."""
        assert self.keeper is not None
        keep_seconds = self.keeper.store.take_keep_seconds()
        reused = None if donor is None else donor.reused
        if donor is not None and reused is not None:
            donor.reused = None
            sequence.reused = replace(reused, tokens=sequence.cached, keep_seconds=keep_seconds)
        elif keep_seconds:
            now_ns = time.monotonic_ns()
            sequence.reused = Reused(now_ns, now_ns, "context", sequence.cached, 0, keep_seconds)

    def _longest_known(self, tokens: Sequence[int], owner: str) -> int:
        """Count the leading tokens that a sequence of the owner has computed, lost ones too."""
        if not self.checkpoints.kind:
            return 0
        known = (
            common_prefix(each.tokens[: each.computed], tokens)
            for each in (*self.live.values(), *self.closed)
            if each.owner == owner
        )
        return min(max(known, default=0), len(tokens) - 1)

    def choose_donor(
        self, tokens: Sequence[int], owner: str
    ) -> tuple[LlamaSequence | None, int, bool]:
        """Choose the sequence with the longest common prefix, the latest of equally long ones.

        At least one token is left to compute, because its logits are needed. A closed donor is
        taken over and its tokens behind the prefix are dropped, unless several clients use the
        session and it has so many that its own chat would miss them: then it is copied, as an open
        one is. Returns the donor, None without one or without a slot for a copy; the length of the
        prefix; and whether the donor is taken over.
        """
        donor, length = None, 0
        for each in (*self.live.values(), *self.closed):
            if each.owner != owner:
                continue
            shared = min(common_prefix(each.tokens[: each.computed], tokens), len(tokens) - 1)
            if shared >= max(length, 1):
                shared, _ = self.checkpoints.reach(each, shared)
            if shared >= max(length, 1):
                donor, length = each, shared
        if donor is None:
            return None, 0, False
        is_closed = donor in self.closed
        has_slot = self.free_sequences > is_closed
        if not is_closed and not has_slot:
            return None, 0, False
        copies = self.several_clients and has_slot and donor.computed - length > KEPT_REST
        return donor, length, is_closed and not copies

    def _follow(self, sequence: LlamaSequence) -> None:
        """Let a new sequence wait for a prefix that another one of its owner will have computed.

        Without this, requests that arrive together would each compute the prompt that they share.
        """
        if not self.several_clients:
            return
        best = sequence.computed + FOLLOWED_TOKENS - 1
        for each in self.live.values():
            if each.owner == sequence.owner:
                length = min(common_prefix(each.tokens, sequence.tokens), len(sequence.tokens) - 1)
                if length > best:
                    best, sequence.following = length, (each, length)
        if sequence.following is not None:
            self.checkpoints.mark(*sequence.following)

    def waits(self, sequence: LlamaSequence, stepped: Collection[int]) -> bool:
        """Return whether a sequence still waits for a prefix; copy the prefix when it is there.

        It waits no longer than its leader is stepped with it, and then takes what there is.
        """
        if sequence.following is None:
            return False
        leader, length = sequence.following
        length = min(length, common_prefix(leader.tokens, sequence.tokens))
        is_live = leader.id in self.live
        if is_live and leader.computed < length and leader.id in stepped:
            return True
        sequence.following = None
        length, _ = self.checkpoints.reach(leader, min(length, leader.computed))
        if length > sequence.computed and (is_live or leader in self.closed):
            if sequence.computed:
                self._context.remove(sequence.slot, 0)
            self._share(leader, sequence, self.checkpoints.copy(leader, sequence.slot, length))
        return False

    def _share(self, source: LlamaSequence, target: LlamaSequence, length: int) -> None:
        """Note that the first computed tokens of a sequence are those of another one."""
        target.computed = target.cached = length
        target.cells = source.cells[:length]
        self.checkpoints.inherit(target, source)

    def fork(self, parent: LlamaSequence, sampling: Sampling) -> LlamaSequence:
        """Fork a sequence: share what is computed, copy the rest; EngineFailed without a slot."""
        child = self._create(
            self._take_slot(), list(parent.tokens), sampling, parent.owner, parent.label
        )
        child.script = parent.script
        child.constraint = parent.constraint.clone() if parent.constraint else None
        if parent.computed:
            self._context.copy(parent.slot, child.slot)
        self._share(parent, child, parent.computed)
        child.row, child.epoch = parent.row, parent.epoch
        self.live[child.id] = child
        return child

    def close(self, sequence: LlamaSequence, *, keep: bool) -> None:
        """Close a sequence; with ``keep`` its tokens stay as a prefix for later ones."""
        del self.live[sequence.id]
        sequence.rest = tuple(sequence.tokens[sequence.computed :])
        del sequence.tokens[sequence.computed :]
        sequence.kept_logits = sequence.following = None
        sequence.marks.clear()
        self.closed.append(sequence)
        if not keep or not sequence.computed:
            self._release(sequence, keep=False)
        elif len(self.closed) > self._limit:
            self.evict()
        if self._saves_idle:  # now, because no request waits for a first token yet
            self._save_idle(IDLE_CELLS, sequence)

    def add_computed(self, sequence: LlamaSequence, count: int) -> None:
        """Note that the next queued tokens of a sequence were computed."""
        sequence.computed += count
        sequence.cells.extend(range(self.next_cell, self.next_cell + count))
        self.next_cell += count
        self.checkpoints.note_computed(sequence)

    def truncate(self, sequence: LlamaSequence, keep: int) -> bool:
        """Keep at most the first computed tokens; False if all would have to be computed again."""
        if keep > 0 and self.checkpoints.reach(sequence, keep)[0] == 0:
            return False
        self.checkpoints.cut(sequence, keep)
        return True

    def evict(self, keep: LlamaSequence | None = None) -> bool:
        """Evict a closed sequence other than ``keep``; False if there is none.

        It is the oldest one of the owner that has the most, so that the newest one of each owner is
        kept longest.
        """
        others = [each for each in self.closed if each is not keep]
        if not others:
            return False
        counts = Counter(each.owner for each in others)
        most = max(counts.values())
        self._release(next(each for each in others if counts[each.owner] == most))
        return True

    def _create(
        self, slot: int, tokens: list[int], sampling: Sampling, owner: str, label: str
    ) -> LlamaSequence:
        self._next_id += 1
        sampler = Sampler(
            self._context.api, sampling, self._context.vocabulary, self._context_tokens
        )
        return LlamaSequence(self._next_id, slot, tokens, sampler, owner, label)

    def _take_slot(self, keep: LlamaSequence | None = None) -> int:
        """Take a free slot, evicting a closed sequence other than ``keep`` if there is none."""
        if not self._free_slots and not self.evict(keep):
            raise EngineFailed(
                f"{len(self.live)} sequences are open, the maximum of this context",
                "lower `batch` of the arm",
            )
        return self._free_slots.pop()

    def _release(self, sequence: LlamaSequence, *, keep: bool = True) -> None:
        """Give back the cells and the slot of a closed sequence, and save it first if possible."""
        self.closed.remove(sequence)
        if keep and self.keeper is not None and not self._is_covered(sequence):
            # The last one, before the answer: a next turn rarely goes back further.
            self.keeper.save(sequence, tuple(sequence.checkpoints[-1:]))
        self._context.remove(sequence.slot, 0)
        self._free_slots.append(sequence.slot)

    def _is_covered(self, sequence: LlamaSequence) -> bool:
        """Return whether another sequence of its owner has all of its tokens."""
        count = len(sequence.tokens)
        return not self.checkpoints.kind and any(
            each.owner == sequence.owner
            and each.computed >= count
            and common_prefix(each.tokens, sequence.tokens) == count
            for each in (*self.live.values(), *self.closed)
        )

"""Checkpoints: what lets a sequence go back where llama.cpp's cache alone cannot.

A cache of keys and values holds every token of a sequence, and any number of them can be removed
from its end. Two kinds of model have less:

* With a sliding window, most layers keep the tokens that the next one can attend to, and reuse the
  cells of older ones when they need room. Going back needs cells that may be gone.
* Recurrent layers keep one state for all tokens so far. Going back by one token is impossible.

A checkpoint is a copy of this part of one sequence (its window, or its states) at one length. It is
small beside the cache of all tokens, belongs to no slot, and is never changed, so forks share it.
Restoring one and removing the other layers' tokens behind it gives the cache as it was; what
follows is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.engine.context import Context
    from etui.engine.model import Model
    from etui.engine.sequence_cache import LlamaSequence

STEP_TOKENS = 512
"""A checkpoint is taken at the latest after so many tokens of a prompt, or of an answer; with a
window, after two of it if that is more."""

SHORT_STEP_TOKENS, SHORT_STEP_BYTES = 128, 16_000_000
"""The same for recurrent states of at most so many bytes."""

SPARSE_TOKENS = 64
"""Checkpoints of a prompt are at least so far apart: fewer tokens are computed again at no cost
that one notices."""

MOST_PER_SEQUENCE = 8
_TURN_TOKENS = 48
"""Most tokens of the header with which a chat template begins the answer."""

_TAIL_TOKENS = 4
"""Tokens that are taken for it in a prompt without control tokens, as llama-server does."""

_SMALL_BYTES, _LARGE_BYTES = 256_000_000, 1_000_000_000
_MODEL_SHARE = 10
"""Checkpoints take at most a tenth of the model's bytes, and between these bounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The part of a sequence that its cache would lose, as it was at one length."""

    length: int  # Number of tokens computed then
    data: NDArray[np.uint8]


class Checkpoints:
    """Take checkpoints of the sequences of one context, and go back with them.

    Args:
        everyone: The sequences whose checkpoints share the budget, those to keep longest last.

    Attributes:
        kind: What limits going back: the window of the cache, recurrent states, or nothing.
    """

    def __init__(
        self, context: Context, model: Model, everyone: Callable[[], Iterable[LlamaSequence]]
    ) -> None:
        self._context = context
        self._model = model
        self._everyone = everyone
        self.budget_bytes = checkpoint_budget(model.size_bytes)
        self._part_bytes = 0  # of the latest checkpoint
        self._is_windowed = model.sliding_window > 0 and not context.options.full_window
        self.kind: Literal["", "window", "state"] = "window" if self._is_windowed else ""
        if model.recurrent:
            self.kind = "state"

    @property
    def reason(self) -> str:
        """Why tokens have to be computed again; empty for a model that needs none of this."""
        if self.kind == "window":
            return f"this model keeps a window of {self._model.sliding_window:,} tokens"
        return "this model cannot take back a part of its state" if self.kind else ""

    def reach(self, sequence: LlamaSequence, length: int) -> tuple[int, Checkpoint | None]:
        """Find the longest prefix, of at most ``length`` tokens, to which a sequence can go back.

        Returns its length, 0 if none is left; and the checkpoint that it needs.
        """
        if length >= sequence.computed:
            return sequence.computed, None
        if not self.kind or length <= 0:
            return max(0, length), None
        if self.kind == "window":
            oldest = self._context.oldest(sequence.slot)
            if 0 <= oldest <= max(0, length - self._model.sliding_window + 1):
                return length, None
        for checkpoint in reversed(sequence.checkpoints):
            if checkpoint.length <= length:
                return checkpoint.length, checkpoint
        return 0, None

    def cut(self, sequence: LlamaSequence, length: int) -> int:
        """Remove the computed tokens behind ``length``, and those before it that are lost.

        Returns the number of tokens that are still computed.
        """
        keep, checkpoint = self.reach(sequence, length)
        if keep < sequence.computed:
            if not self._restore(sequence.slot, keep, checkpoint):
                keep = 0
            sequence.computed = keep
            del sequence.cells[keep:]
            sequence.epoch = -1
        sequence.checkpoints = [each for each in sequence.checkpoints if each.length <= keep]
        return keep

    def copy(self, source: LlamaSequence, slot: int, length: int) -> int:
        """Share the first tokens of a sequence with an empty slot; return how many, or fewer."""
        keep, checkpoint = self.reach(source, length)
        if keep == 0:
            return 0
        self._context.copy(source.slot, slot, -1 if keep == source.computed else keep)
        if checkpoint is None or self._restore(slot, keep, checkpoint):
            return keep
        return 0

    def inherit(self, sequence: LlamaSequence, source: LlamaSequence) -> None:
        """Share the checkpoints of the sequence from which another one has its tokens."""
        most = sequence.computed
        sequence.checkpoints = [each for each in source.checkpoints if each.length <= most]

    def mark_turn(self, sequence: LlamaSequence) -> None:
        """Plan a checkpoint before the header of the answer, where the next turn may differ.

        A prompt ends with a header (``<|im_start|>assistant``), and often with a begin of thinking
        that the template leaves out of later prompts.
        """
        if not self.kind:
            return
        tokens = sequence.tokens
        place = len(tokens) - _TAIL_TOKENS
        for at in range(len(tokens) - 2, max(0, len(tokens) - _TURN_TOKENS), -1):
            if self._model.is_control(tokens[at]):
                place = at
                break
        if place - self._last(sequence) >= SPARSE_TOKENS:
            self.mark(sequence, place)

    def mark(self, sequence: LlamaSequence, length: int) -> None:
        """Plan a checkpoint at exactly ``length`` tokens, unless they are computed already."""
        if self.kind and sequence.computed < length < len(sequence.tokens):
            sequence.marks = sorted({*sequence.marks, length})

    def limit(self, sequence: LlamaSequence, count: int) -> int:
        """Limit the tokens of a batch, so that it ends at the next planned checkpoint."""
        if sequence.marks:
            ahead = [mark for mark in sequence.marks if mark > sequence.computed]
            return min(count, ahead[0] - sequence.computed) if ahead else count
        return count

    def note_computed(self, sequence: LlamaSequence) -> None:
        """Take a checkpoint if one is due after more tokens of a sequence were computed."""
        if not self.kind:
            return
        length = sequence.computed
        is_small = self.kind == "state" and self._part_bytes <= SHORT_STEP_BYTES
        step = SHORT_STEP_TOKENS if is_small else max(STEP_TOKENS, 2 * self._model.sliding_window)
        due = length in sequence.marks or length - self._last(sequence) >= step
        sequence.marks = [mark for mark in sequence.marks if mark > length]
        # While drafted tokens are in the cache, it is not that of the sequence.
        if not due or self._context.newest(sequence.slot) != length - 1:
            return
        data = self._context.save_part(sequence.slot)
        if data is None:
            return
        self._part_bytes = data.nbytes
        sequence.checkpoints.append(Checkpoint(length, data))
        self._thin(sequence)
        # What is loaded takes the first free cells, and attention passes over fewer: -11 % of the
        # time of a token behind 2,000 others of Gemma 3 270M, for a copy of 8 MB in a millisecond.
        span = length - self._context.oldest(sequence.slot)
        is_wide = self.kind == "window" and span > 2 * self._model.sliding_window
        if is_wide and not self._context.load_part(sequence.slot, data):
            self._lose(sequence)

    def compact(self) -> bool:
        """Free the cells outside the windows of all sequences; False if that was just done.

        llama.cpp reuses such a cell only if a single sequence has it: those that forks share stay.
        """
        if not self._is_windowed:
            return False
        crowded = [each for each in self._everyone() if each.compacted != each.computed]
        saved = [(each, self._context.save_part(each.slot)) for each in crowded]
        # A cell is free when the last of its sequences has given it back: the first ones may fail.
        for _ in range(2):
            saved = [
                (each, data)
                for each, data in saved
                if data is None or not self._context.load_part(each.slot, data)
            ]
        for sequence, _ in saved:
            self._lose(sequence)
        for sequence in crowded:
            sequence.compacted = sequence.computed
        return bool(crowded)

    def recover(self, sequence: LlamaSequence) -> None:
        """Remove what a failed batch left behind the computed tokens of a sequence."""
        sequence.epoch = -1
        if not self._context.remove(sequence.slot, sequence.computed):
            self.cut(sequence, sequence.computed - 1)

    def _lose(self, sequence: LlamaSequence) -> None:
        """Empty the slot of a sequence of which a part could not be loaded."""
        self._context.remove(sequence.slot, 0)
        sequence.computed, sequence.epoch = 0, -1
        sequence.cells.clear()
        sequence.checkpoints.clear()

    def _restore(self, slot: int, keep: int, checkpoint: Checkpoint | None) -> bool:
        """Bring a slot to ``keep`` tokens; where that fails, it is empty."""
        context = self._context
        restored = checkpoint is None or context.load_part(slot, checkpoint.data)
        if restored and context.remove(slot, keep):
            return True
        context.remove(slot, 0)
        return False

    def _last(self, sequence: LlamaSequence) -> int:
        return sequence.checkpoints[-1].length if sequence.checkpoints else 0

    def _thin(self, latest: LlamaSequence) -> None:
        """Drop checkpoints until their number and their bytes are within bounds."""
        if len(latest.checkpoints) > MOST_PER_SEQUENCE:
            _drop_closest(latest.checkpoints)
        while self.held_bytes() > self.budget_bytes:
            holders = [each for each in self._everyone() if each.checkpoints]
            most = max(len(each.checkpoints) for each in holders)
            if most == 1 and len(holders) == 1:
                return  # the latest one stays, however large it is
            first = next(each for each in holders if len(each.checkpoints) == most)
            _drop_closest(first.checkpoints)

    def held_bytes(self) -> int:
        """Count the bytes of all checkpoints; shared ones count once."""
        held = {id(c): c.data.nbytes for each in self._everyone() for c in each.checkpoints}
        return sum(held.values())


def checkpoint_budget(model_bytes: int) -> int:
    """Compute the most bytes that the checkpoints of a model take together."""
    return min(_LARGE_BYTES, max(_SMALL_BYTES, model_bytes // _MODEL_SHARE))


def _drop_closest(checkpoints: list[Checkpoint]) -> None:
    """Drop the one that leaves the smallest gap; the last one goes only if it is alone."""
    lengths = [0, *(each.length for each in checkpoints)]
    gaps = [lengths[at + 1] - lengths[at - 1] for at in range(1, len(lengths) - 1)]
    del checkpoints[gaps.index(min(gaps)) if gaps else 0]

"""The drafts of one session: planned before a batch, judged token by token, dropped at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.arm import Speculate
from etui.engine.speculation.heads import MtpDrafter
from etui.engine.speculation.speculator import Speculator, Verification

if TYPE_CHECKING:
    from etui.engine.context import Context
    from etui.engine.model import Model
    from etui.engine.sequence_cache import LlamaSequence

_MISSING = {
    "draft": "no `draft` is set for this model in models.yaml",
    "mtp": "the file has no heads for multi-token prediction",
}


class DraftVerifier:
    """Verifies the drafts of one session, one at a time, each in a batch of its own.

    Args:
        refusal: Why drafts cannot be verified; empty if they can.

    Attributes:
        missing_draft: Why there is no draft model; empty if that is not known.
        verification: The draft that the next batch verifies, or the last one while tokens are drawn
            of it.
    """

    def __init__(
        self, speculator: Speculator, cache: Context, context_tokens: int, refusal: str
    ) -> None:
        self.speculator = speculator
        self.missing_draft = ""
        self._cache = cache
        self._context_tokens = context_tokens
        self._refusal = refusal
        self._heads: list[MtpDrafter] = []
        self._sequence: LlamaSequence | None = None  # of the verification
        self.verification: Verification | None = None

    def add_heads(self, heads: MtpDrafter) -> None:
        """Let the model's own heads draft, or some that were trained for it."""
        self._heads.append(heads)
        self.speculator.add(heads)

    def start(self, sequence: LlamaSequence, method: Speculate) -> str:
        """Start the speculation of a sequence; return why there will be none, empty if there is."""
        if method == "off":
            return ""
        if self._refusal:
            return self._refusal
        if method != "auto" and method not in self.speculator.methods:
            return (method == "draft" and self.missing_draft) or _MISSING[method]
        if lost := self.speculator.refuse(method):
            return lost
        sequence.speculation = self.speculator.start(method)
        for heads in self._heads:
            if heads.method in sequence.speculation.methods:
                heads.start()
        return ""

    def stop(self, sequence: LlamaSequence) -> None:
        """End the speculation of a sequence that is closed."""
        if sequence.speculation is not None:
            for heads in self._heads:
                heads.stop()

    def plan(self, plan: Sequence[tuple[LlamaSequence, int]], *, alone: bool) -> None:
        """Plan to verify a draft if the plan is the last drawn token of a speculating sequence."""
        sequence, count = plan[0]
        own = sequence.speculation
        if not alone or own is None or count != 1 or sequence.pending != 1:
            return
        options = self._cache.options
        room = min(
            self._context_tokens - len(sequence.tokens),
            min(options.verify_rows, options.batch_tokens) - 1,
        )
        draft = self.speculator.propose(own, sequence.tokens, room) if room > 0 else None
        if draft is not None:
            self._sequence, self.verification = sequence, draft

    def learn(self, plan: Sequence[tuple[LlamaSequence, int]], start_ns: int, end_ns: int) -> None:
        """Let the speculator learn from a batch of one sequence that speculates."""
        sequence, count = plan[0]
        own = sequence.speculation
        if own is None or len(plan) != 1:
            return
        verification = self.verification
        for heads in self._heads:
            if heads.method in own.methods:
                at = sequence.computed
                drafted = () if verification is None else verification.tokens
                heads.follow([*sequence.tokens[at : at + count], *drafted], at)
        if count != 1:
            return
        if verification is None:
            self.speculator.observe_single(own, end_ns - start_ns)
            return
        verification.start_ns, verification.end_ns = start_ns, end_ns
        self.speculator.observe_batch(own, verification)

    def judge(self, sequence: LlamaSequence, token: int, cell: int, *, ends: bool) -> bool:
        """Compare a drawn token with the drafted one; if they agree, it is computed already.

        Returns whether they agree and the answer goes on, so that the cell is used.
        """
        verification = self.verification
        assert verification is not None
        if self._sequence is not sequence:
            return False
        agrees = verification.judge(token) and not ends
        if agrees:
            sequence.computed += 1
            sequence.cells.append(cell)
            sequence.row += 1
        if verification.done or ends:
            self.drop(sequence)
        return agrees

    def forget(self) -> None:
        """Forget a draft whose batch was not computed."""
        self._sequence = self.verification = None

    def drop(self, sequence: LlamaSequence | None = None) -> None:
        """Remove drafted tokens that were not drawn from the cache; of one sequence, or of any."""
        own, verification = self._sequence, self.verification
        if own is None or verification is None or sequence not in (None, own):
            return
        self.forget()
        stopped = ""
        if own.speculation is not None:
            stopped = self.speculator.settle(own.speculation, verification)
        if stopped:
            self.stop(own)
            own.speculation = None
        own.verified.append(verification.event(stopped))
        if not self._cache.remove(own.slot, own.computed):
            self._refusal = "this model cannot remove a part of its cache"
            own.speculation = None
            self._cache.remove(own.slot, 0)  # compute all of it again
            own.computed, own.epoch = 0, -1
            own.cells.clear()


def refuse_speculation(model: Model) -> str:
    """Say why rejected tokens could not be removed from the cache; empty if they can.

    A cache that keeps only windows can take them back: a batch takes the cells that were outside
    the window before it, and the tokens that stay end at the earliest where it began.
    """
    return "a recurrent model cannot take back a part of its state" if model.recurrent else ""

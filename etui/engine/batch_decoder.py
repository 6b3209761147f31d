"""Decode the batch that a session has planned, or as much of it as fits into the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etui.engine.context import DECODED, NO_ROOM, Context
from etui.engine.llama_sequence import LlamaSequence
from etui.engine.speculation.draft_verifier import DraftVerifier
from etui.errors import CacheFull, EngineFailed

BatchPlan = list[tuple[LlamaSequence, int]]
"""Sequences, and how many of their queued tokens a batch computes."""


class BatchDecoder:
    """Decode the batches of one session.

    Args:
        drafts: Its drafts; one may be verified by a batch.
        evict: Evicts a closed sequence from the cache; returns whether there was one.

    Attributes:
        epoch: Number of decodes so far; each overwrites the logits of the one before.
    """

    def __init__(self, context: Context, drafts: DraftVerifier, evict: Callable[[], bool]) -> None:
        self.epoch = 0
        self._context = context
        self._drafts = drafts
        self._evict = evict

    def decode(self, plan: BatchPlan, live: int, *, may_wait: bool = False) -> BatchPlan:
        """Decode the plan, or as much as fits after every closed sequence was evicted.

        Args:
            live: Number of open sequences, for the message of a full cache.
            may_wait: Compute nothing if the cache is full, instead of raising.

        Returns:
            What was computed.

        Raises:
            CacheFull: There is no room for a single token.
            EngineFailed: llama.cpp failed; the cache is as before.
        """
        while plan:
            self._fill(plan)
            self.epoch += 1
            code = self._context.decode()
            if code == DECODED:
                return plan
            if code != NO_ROOM:
                self._restore(plan)
                raise EngineFailed(
                    f"llama.cpp failed to decode a batch (code {code})",
                    "if memory ran out, lower `context` or `gpu_layers` of the model in "
                    "models.yaml; see llama.log in ETUI_HOME/logs",
                )
            if self._drafts.verification is not None:
                self._drafts.forget()  # a draft is worth less than anything in the cache
            elif self._evict():
                continue
            elif len(plan) > 1:
                plan = plan[: len(plan) // 2]
            elif plan[0][1] > 1:
                plan = [(plan[0][0], plan[0][1] // 2)]
            elif may_wait:
                break
            else:
                raise CacheFull(self._context.capacity, live)
        return []

    def _fill(self, plan: Sequence[tuple[LlamaSequence, int]]) -> None:
        batch = self._context.batch
        batch.clear()
        for sequence, count in plan:
            at = sequence.computed
            at_end = at + count == len(sequence.tokens)
            queued = sequence.tokens[at : at + count]
            if (verification := self._drafts.verification) is not None:
                batch.add(
                    sequence.slot, [*queued, *verification.proposal.tokens], at, with_logits=True
                )
                sequence.row = batch.want_logits(verification.rows)
                return
            sequence.row = batch.add(sequence.slot, queued, at, with_logits=at_end)

    def _restore(self, plan: Sequence[tuple[LlamaSequence, int]]) -> None:
        # A fatal error leaves parts of the batch in the cache.
        self._drafts.forget()
        for sequence, _ in plan:
            self._context.remove(sequence.slot, sequence.computed)
            sequence.epoch = -1

"""Decode the batch that a session has planned, or as much of it as fits into the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.engine.constraint import Constraint
from etui.engine.context import DECODED, NO_ROOM, Context
from etui.engine.sampler import Sampler, Script
from etui.engine.speculation.draft_verifier import DraftVerifier
from etui.engine.speculation.speculator import Speculation
from etui.errors import CacheFull, EngineFailed
from etui.events import Verified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Following:
    """A wait for a prefix that another sequence is about to compute."""

    leader: LlamaSequence
    length: int  # Tokens of the prefix


class LlamaSequence:
    """One sequence: ``tokens[:computed]`` are in the cache, the rest is queued."""

    __slots__ = (
        "cached",
        "cells",
        "computed",
        "constraint",
        "epoch",
        "following",
        "id",
        "kept_logits",
        "label",
        "owner",
        "rest",
        "row",
        "sampler",
        "script",
        "slot",
        "speculation",
        "tokens",
        "verified",
    )

    def __init__(
        self,
        id_: int,
        slot: int,
        tokens: list[int],
        sampler: Sampler,
        owner: str = "",
        label: str = "",
    ) -> None:
        self.id = id_
        self.slot = slot
        self.tokens = tokens
        self.sampler = sampler
        self.owner = owner
        self.label = label
        self.rest: tuple[int, ...] = ()  # drawn before it was closed, and not computed
        self.computed = 0
        self.cached = 0
        self.cells: list[
            int
        ] = []  # one number per computed token; shared cells have the same number
        self.row = 0
        self.epoch = -1  # the decode whose output ``row`` holds the logits after tokens[:computed]
        self.kept_logits: tuple[int, NDArray[np.float32]] | None = None  # and the decode after
        self.script: Script | None = None
        self.constraint: Constraint | None = None
        self.speculation: Speculation | None = None
        self.verified: list[Verified] = []  # settled, and not yet reported
        self.following: Following | None = None

    @property
    def pending(self) -> int:
        """Tokens queued and not yet computed."""
        return len(self.tokens) - self.computed


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

"""Decode the batch that a session has planned, and read what its logits say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.engine.constraint import Constraint, follow
from etui.engine.context import DECODED, NO_ROOM, Context
from etui.engine.model import Model
from etui.engine.sampler import Sampler, Script
from etui.engine.session import NO_TOKEN, LikelyToken, Sampled
from etui.engine.speculation.draft_verifier import DraftVerifier
from etui.engine.speculation.speculator import Speculation
from etui.errors import CacheFull, EngineFailed
from etui.events import Verified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LogSum:
    """Log of the sum of exp(logits); the buffer avoids one vocabulary-sized array per token."""

    def __init__(self, vocabulary: int) -> None:
        import numpy as np

        self._buffer = np.empty(vocabulary, dtype=np.float32)

    def __call__(self, logits: NDArray[np.float32]) -> float:
        """Return the log of the sum of exp(logits)."""
        import numpy as np

        most = logits.max()  # subtracted, so that nothing overflows
        np.subtract(logits, most, out=self._buffer)
        np.exp(self._buffer, out=self._buffer)
        return float(most) + math.log(float(self._buffer.sum()))


class Outputs:
    """The logits of the sequences in the last batch.

    Args:
        context: The context, which holds them until its next decode.
        model: The model, for the texts of tokens.
        decoder: Numbers the decodes.
    """

    def __init__(self, context: Context, model: Model, decoder: BatchDecoder) -> None:
        self._context = context
        self._model = model
        self._decoder = decoder
        self._log_sum = LogSum(context.vocabulary)

    def draw(self, sequence: LlamaSequence) -> Sampled:
        """Draw the next token of a sequence, and queue it unless it ends the answer."""
        logits = self._context.logits(sequence.row)
        sampler = sequence.sampler
        constraint = follow(sequence.constraint, sequence.tokens)
        token: int | None
        if constraint is not None:
            token = constraint.draw(
                sampler, self._context.handle, sequence.row, sequence.tokens, logits
            )
        elif sampler.greedy:
            token = int(logits.argmax())
        else:
            token = sampler.draw(self._context.handle, sequence.row, sequence.tokens)
        # The draw is made in either case: a scripted token costs as much as any other.
        scripted = sequence.script.find(len(sequence.tokens)) if sequence.script else None
        token = token if scripted is None else scripted
        if token is None:
            return Sampled(sequence.id, NO_TOKEN, b"", 0.0, ends=True, stuck=True)
        piece, ends = self._model.piece(token)
        ends = ends and scripted is None
        if not ends:
            sequence.tokens.append(token)
        logprob = float(logits[token]) - self._log_sum(logits)
        return Sampled(sequence.id, token, piece, logprob, ends)

    def logprobs(self, sequence: LlamaSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities (nats, full softmax) of next tokens.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """
        logits = self._read(sequence)
        total = self._log_sum(logits)
        return [float(logits[token]) - total for token in tokens]

    def rank(self, sequence: LlamaSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where the last step drew one, best first.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """
        logits = self._read(sequence)
        return _rank_tokens(logits, self._log_sum(logits), count, self._model)

    def _read(self, sequence: LlamaSequence) -> NDArray[np.float32]:
        if sequence.epoch == self._decoder.epoch:
            return self._context.logits(sequence.row)
        if sequence.kept_logits is not None and sequence.kept_logits[0] == self._decoder.epoch:
            return sequence.kept_logits[1]
        raise ValueError("the logits were overwritten: read them right after the sequence's step")


def _rank_tokens(
    logits: NDArray[np.float32], log_sum: float, count: int, model: Model
) -> tuple[LikelyToken, ...]:
    """Return the ``count`` most likely tokens, best first; of equal ones the lower number first."""
    import numpy as np

    count = min(count, len(logits))
    if count < 1:
        return ()
    likely = np.argpartition(logits, -count)[-count:]
    likely = likely[np.lexsort((likely, -logits[likely]))]
    return tuple(
        LikelyToken(
            int(token),
            model.piece(int(token))[0] or model.token_text(int(token)).encode(),
            float(logits[token]) - log_sum,
        )
        for token in likely
    )


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

"""Draft by a second, smaller model of the same vocabulary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from etui.engine.context import DECODED, Context
from etui.engine.model import Model
from etui.engine.sequence_cache import common_prefix
from etui.engine.speculation.batch_cost import average
from etui.errors import ModelUnavailable
from etui.models.files import VOCABULARY_PADDING

_SAMPLED_TEXTS = 2_000
"""Token texts that are compared, spread over the vocabulary."""

_PREFILL_SHARE = 0.3
"""Time of a prompt token, relative to a decoded one, before it is measured; on a GPU far less."""


def check_same_vocabulary(model: Model, name: str, draft: Model, draft_name: str) -> None:
    """Reject a draft model whose tokens mean something else.

    Raises:
        ModelUnavailable: The kind of tokenizer, the number of tokens, the begin and end tokens, or
            the text of a token differ.
    """
    shared = min(model.vocabulary, draft.vocabulary)
    difference = ""
    if model.vocabulary_type != draft.vocabulary_type:
        difference = "another kind of tokenizer"
    elif abs(model.vocabulary - draft.vocabulary) > VOCABULARY_PADDING:
        difference = f"{draft.vocabulary:,} tokens, not {model.vocabulary:,}"
    elif model.boundary_tokens != draft.boundary_tokens:
        difference = "another begin or end token"
    else:
        for token in range(0, shared, max(1, shared // _SAMPLED_TEXTS)):
            if model.token_text(token) != draft.token_text(token):
                difference = f"another text for token {token}"
                break
    if difference:
        raise ModelUnavailable(
            f"{draft_name} cannot draft for {name}: its vocabulary has {difference}",
            f"change `draft` of {name} in models.yaml to a smaller model of the same family",
        )


class DraftModel:
    """A model with a context of one sequence, kept in step with another by its common prefix.

    Args:
        vocabulary: Tokens that the verifying model has.
        size_share: Bytes of the draft model relative to the verifying one: its time before it is
            measured.
    """

    method = "draft"

    def __init__(
        self,
        model: Model,
        context: Context,
        vocabulary: int,
        size_share: float,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._model = model
        self._context = context
        self._vocabulary = min(vocabulary, model.vocabulary)
        self._size_share = size_share
        self._clock_ns = clock_ns
        self._computed: list[int] = []
        self._token_ns: float | None = None
        self._prompt_token_ns: float | None = None

    def start_cost(self, tokens: Sequence[int], one_row_ns: float) -> float:
        """Return the expected cost of computing the tokens it lacks, in batches of one row.

        The last one or two are computed with the first drafted token, at its cost.
        """
        missing = len(tokens) - common_prefix(self._computed, tokens) - 2
        if missing <= 0:
            return 0.0
        each = self._prompt_token_ns
        share = self._size_share * _PREFILL_SHARE if each is None else each / one_row_ns
        return missing * share

    def token_cost(self, one_row_ns: float) -> float:
        """Return the expected cost of drafting one token, in batches of one row."""
        return self._size_share if self._token_ns is None else self._token_ns / one_row_ns

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Draft at most ``count`` tokens after ``tokens``, greedily; an end token is the last.

        A failure of llama.cpp gives fewer tokens or none: the answer does not depend on drafts.
        """
        if count <= 0 or len(tokens) + count > self._context.capacity:
            return []
        start_ns = self._clock_ns()
        row, missing = self._catch_up(tokens)
        if row is None:
            return []
        if missing > 2:
            caught_up_ns = self._clock_ns()
            each = (caught_up_ns - start_ns) / missing
            self._prompt_token_ns = average(self._prompt_token_ns, each)
            start_ns = caught_up_ns
        drafted: list[int] = []
        while True:
            token = int(self._context.logits(row)[: self._vocabulary].argmax())
            drafted.append(token)
            if len(drafted) == count or self._model.piece(token)[1]:
                break
            row = self._decode([token])
            if row is None:
                break
        steps = len(drafted) - (missing > 2)
        if steps > 0:
            elapsed_ns = self._clock_ns() - start_ns
            self._token_ns = average(self._token_ns, elapsed_ns / steps)
        return drafted

    def _catch_up(self, tokens: Sequence[int]) -> tuple[int | None, int]:
        """Compute the tokens it lacks; return the row of the last logits, and their number."""
        keep = min(common_prefix(self._computed, tokens), len(tokens) - 1)
        if keep < len(self._computed):
            if not self._context.remove(0, keep):
                self._context.remove(0, 0)
                keep = 0
            del self._computed[keep:]
        missing = len(tokens) - keep
        row: int | None = None
        for start in range(keep, len(tokens), self._context.batch.capacity):
            row = self._decode(tokens[start : start + self._context.batch.capacity])
            if row is None:
                break
        return row, missing

    def _decode(self, tokens: Sequence[int]) -> int | None:
        """Compute tokens; return the row with the logits after the last one, None on a failure."""
        batch = self._context.batch
        batch.clear()
        row = batch.add(0, tokens, len(self._computed), with_logits=True)
        if self._context.decode() != DECODED:
            self._context.remove(0, 0)
            self._computed.clear()
            return None
        self._computed.extend(tokens)
        return row

    def forget(self) -> None:
        """Forget the tokens of earlier sequences: their common prefix is computed again."""
        self._context.remove(0, 0)
        self._computed.clear()

    def free(self) -> None:
        """Free the context and the model."""
        self._context.free()
        self._model.free()

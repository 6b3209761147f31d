"""What the logits of the last batch say: drawn tokens, and probabilities of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.engine.batch_decoder import BatchDecoder, LlamaSequence
from etui.engine.constraint import follow
from etui.engine.context import Context
from etui.engine.model import Model
from etui.engine.session import NO_TOKEN, LikelyToken, Sampled

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

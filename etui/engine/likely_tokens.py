"""The most likely tokens after a step, for clients that ask for log-probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from etui.engine.session import LikelyToken

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Vocabulary(Protocol):
    """The texts of tokens."""

    def piece(self, token: int) -> tuple[bytes, bool]:
        """Return a token's bytes and whether it ends generation."""

    def token_text(self, token: int | None) -> str:
        """Return the text of a control token."""


def rank_tokens(
    logits: NDArray[np.float32], log_sum: float, count: int, vocabulary: Vocabulary
) -> tuple[LikelyToken, ...]:
    """Return the ``count`` most likely tokens, best first; of equal ones the lower number first.

    Args:
        logits: Logits of the whole vocabulary.
        log_sum: Log of the sum of their exponentials.
        count: Number of tokens; less than 1 returns none.
        vocabulary: The texts of the tokens.
    """
    import numpy as np

    count = min(count, len(logits))
    if count < 1:
        return ()
    likely = np.argpartition(logits, -count)[-count:]
    likely = likely[np.lexsort((likely, -logits[likely]))]
    return tuple(
        LikelyToken(
            int(token),
            vocabulary.piece(int(token))[0] or vocabulary.token_text(int(token)).encode(),
            float(logits[token]) - log_sum,
        )
        for token in likely
    )

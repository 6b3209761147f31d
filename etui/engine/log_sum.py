"""The normalisation of logits: the log of the sum of their exponentials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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

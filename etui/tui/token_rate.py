"""Joules per token of the last moments of an answer, beside the mean since its beginning."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

NOW_NS = 2_000_000_000
"""What counts as now: long enough for a counter to have moved several times."""


@dataclass(slots=True)
class RecentTokens:
    """How many tokens were there at each of the last looks."""

    looks: deque[tuple[int, int]] = field(default_factory=deque)

    def since(self, now_ns: int, output_tokens: int) -> tuple[int, int] | None:
        """Take a look; the beginning of what counts as now, and the tokens decoded since then.

        None until that long has passed since the first look, or without a token in it.
        """
        if self.looks and output_tokens < self.looks[-1][1]:
            self.looks.clear()  # another answer
        self.looks.append((now_ns, output_tokens))
        while len(self.looks) > 1 and self.looks[1][0] <= now_ns - NOW_NS:
            self.looks.popleft()
        start_ns, tokens = self.looks[0]
        if start_ns > now_ns - NOW_NS or output_tokens == tokens:
            return None
        return start_ns, output_tokens - tokens

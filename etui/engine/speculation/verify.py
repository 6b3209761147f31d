"""Verification of a draft: the model draws its own tokens, and the draft only saves computing them.

Why it is exact. Let x_1, x_2, ... be the tokens that the model draws without speculation: x_i comes
from its sampler chain, given the logits after the tokens before it and the state of the chain
(random numbers, penalties) after x_1 ... x_(i-1). A drafter proposes d_1 ... d_k deterministically.
The batch computes the logits after each d_i, given that d_1 ... d_(i-1) precede it. The chain draws
from the rows in order: from the first row x_1; if x_1 = d_1, the second row was computed after
exactly the right tokens, and the chain draws x_2 from it; and so on. At the first x_i != d_i the
later rows are void, nothing is drawn from them, and their cells are removed from the cache. So the
chain sees the same logits in the same order and accepts the same tokens as without speculation: not
only the distribution of the answer is the same, but for a given seed the answer itself. This needs
no rejection sampling as in Leviathan et al. ("Fast Inference from Transformers via Speculative
Decoding", 2023), which is for drafts that are drawn at random.

What remains is rounding: a batch of several rows is computed with other kernels than one row, as
prompts are. With quantised weights on a CPU, logits differ by up to 0.3 to 0.5 (measured with three
models), and a tie within that difference may fall the other way.

Rows are drawn from one by one, when the next token is asked for. Whatever ends the answer or
changes the sequence in between (a limit, a stop string, a hand-over, a probe, a cancel) finds it as
it would be without speculation; the rest of the draft is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from etui.events import Verified


@dataclass(slots=True)
class Verification:
    """A draft and the batch that verifies it, while tokens are drawn from its rows."""

    method: str  # `lookup`, `draft` or `mtp`
    tokens: tuple[int, ...]  # The drafted tokens, at least one
    classes: tuple[int, ...]  # Class of evidence of each, for the estimate of acceptance
    draft_start_ns: int
    draft_end_ns: int  # Equal to the start if no model took part
    start_ns: int = 0  # Of the batch; 0 before it was computed
    end_ns: int = 0
    accepted: int = 0  # Drafted tokens that the model drew too
    rejected: bool = False  # Whether the model drew another token than the next drafted one
    cost: float = 0.0  # Of drafting and verifying, in batches of one row

    @property
    def rows(self) -> int:
        """Rows of the batch: the last token and the drafted ones."""
        return 1 + len(self.tokens)

    @property
    def done(self) -> bool:
        """Whether the fate of every drafted token is known."""
        return self.rejected or self.accepted == len(self.tokens)

    def judge(self, token: int) -> bool:
        """Compare the token drawn from the next row with the drafted one; True if they agree."""
        assert not self.done
        self.rejected = token != self.tokens[self.accepted]
        self.accepted += not self.rejected
        return not self.rejected

    def event(self, stopped: str) -> Verified:
        """Build the event of the batch, with the reason why it is the last one; empty if not."""
        took_time = self.draft_end_ns > self.draft_start_ns
        return Verified(
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            draft_start_ns=self.draft_start_ns if took_time else self.start_ns,
            method=self.method,
            rows=self.rows,
            drafted=len(self.tokens),
            accepted=self.accepted,
            stopped=stopped,
        )

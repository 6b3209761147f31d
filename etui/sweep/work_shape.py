"""What one answer of a sweep computes, apart from its prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkShape:
    """How many tokens one answer draws, and in how many sequences.

    Attributes:
        think_tokens: Thinking tokens of each sequence, before its answer; 0 without thinking.
        answer_tokens: Most tokens of each answer after the thinking; None leaves the number to the
            workload.
        sequences: Sequences that are decoded in parallel, in one batch: the votes; 1 without.
        reads_letters: Whether the answer is read from the logits of the option letters: then
            nothing is decoded, and prefill is the whole work.
    """

    think_tokens: int = 0
    answer_tokens: int | None = None
    sequences: int = 1
    reads_letters: bool = False


PLAIN_WORK = WorkShape()
"""A model that answers at once, with as many tokens as the workload says."""

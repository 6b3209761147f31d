"""What one answer of a sweep computes, apart from its prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkShape:
    """How many tokens one answer draws, and in how many sequences."""

    think_tokens: int = 0  # Thinking tokens of each sequence, before its answer; 0 without thinking
    answer_tokens: int | None = None
    """Most tokens of each answer after the thinking; None leaves the number to the workload."""
    sequences: int = 1  # Sequences that are decoded in parallel, in one batch: the votes; 1 without
    reads_letters: bool = False
    """Whether the answer is read from the logits of the option letters: then nothing is decoded,
    and prefill is the whole work."""


PLAIN_WORK = WorkShape()
"""A model that answers at once, with as many tokens as the workload says."""

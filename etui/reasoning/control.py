"""What may end an answer early: the user, or a budget."""

from __future__ import annotations

from typing import Protocol

BUDGET = "the budget"
"""What the reason of an answer calls what ended it; whoever set it puts its own name there."""


class Control(Protocol):
    """Asked between tokens and between prefill batches; set from other threads."""

    def cancelled(self) -> bool:
        """The user stopped the answer: end it here."""

    def spent(self) -> bool:
        """A budget of the answer is spent: end the thought, answer with what is there."""

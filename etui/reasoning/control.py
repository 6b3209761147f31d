"""What may end an answer early: the user, or an energy budget."""

from __future__ import annotations

from typing import Protocol


class Control(Protocol):
    """Asked between tokens and between prefill batches; set from other threads."""

    def cancelled(self) -> bool:
        """The user stopped the answer: end it here."""

    def spent(self) -> bool:
        """The joules of the answer are spent: end the thought, answer with what is there."""

"""The interface that ends an answer early, for the user or for a budget."""

from __future__ import annotations

from typing import Protocol

BUDGET = "the budget"
"""Placeholder for the budget in a ``why`` text; the caller replaces it by the budget's name."""


class Control(Protocol):
    """Flags polled between tokens and between prefill batches; set from other threads."""

    def cancelled(self) -> bool:
        """Return whether the user stopped the answer, which then ends immediately."""

    def spent(self) -> bool:
        """Return whether a budget is spent, which ends the thinking so that the answer follows."""

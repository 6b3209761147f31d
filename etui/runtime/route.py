"""The route of the next questions: a policy, an arm of it, or a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """How the arm of the next questions is chosen."""

    policy: str
    model: str | None = None  # Model that answers without the policy; None leaves it to the policy
    arm: str | None = None
    """Arm of the policy that answers without its rules; None leaves it to the rules."""

    @property
    def description(self) -> str:
        """What answers, in words: ``qwen3-4b``, ``arm think of balanced``, ``policy balanced``."""
        if self.model is not None:
            return self.model
        return f"arm {self.arm} of {self.policy}" if self.arm else f"policy {self.policy}"

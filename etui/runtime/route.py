"""How the next questions find their arm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """How the next questions find their arm.

    Attributes:
        policy: Name of the policy that decides.
        model: Model that answers whatever the policy says; None leaves it to the policy.
        arm: Arm of the policy that answers whatever its rules say; None leaves it to them.
    """

    policy: str
    model: str | None = None
    arm: str | None = None

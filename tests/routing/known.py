"""A predictor with stated numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from etui.arm import Arm
from etui.chat import Query
from etui.routing.decision import PredictedAccuracy, PredictedAgreement, PredictedJoules


@dataclass
class Known:
    """States numbers: arm -> joules, and arm -> (p, low)."""

    spent: Mapping[str, float] = field(default_factory=dict)
    right: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float | None = 2.0
    resident: str | None = None
    load: float = 0.0
    odds: PredictedAgreement | None = None

    def agreement(self, arms: list[Arm]) -> PredictedAgreement | None:
        return self.odds

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        if arm.name not in self.spent:
            return None
        load = self.load if arm.model != self.resident else 0.0
        return PredictedJoules(load, 1.0, self.spent[arm.name] - 1.0, None, self.seconds, "test")

    def duration(self, arm: Arm, query: Query) -> float | None:
        return None

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        if arm.name not in self.right:
            return None
        return PredictedAccuracy(*self.right[arm.name], confidence, 40, "fitted")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        return confidence

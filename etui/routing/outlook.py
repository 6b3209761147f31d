"""What a decision may know of the future: the joules and the accuracy each arm is expected to have.

Routing is written against this protocol; what stands behind it (operating curves from the log,
heads fitted from outcomes) is put together by the front end.
"""

from __future__ import annotations

from typing import Protocol

from etui.arm import Arm
from etui.query import Query
from etui.routing.plan import PredictedAccuracy, PredictedJoules


class Outlook(Protocol):
    """Predictions for one machine, one policy and the state both are in now."""

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """What the arm would spend on the query; None where nothing is known of its model."""

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """How likely the arm is right; None where nothing was fitted and no prior is stated."""

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Probability that an answer with this raw confidence (and margin between first and second)
        is right; None where the answer carries neither."""

"""What a decision may know of the future: the joules and the accuracy each arm is expected to have.

Routing is written against this protocol; what stands behind it (operating curves from the log,
heads fitted from outcomes) is put together by the front end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from etui.arm import Arm
from etui.chat import Query


class Predictor(Protocol):
    """Predictions for one machine, one policy and the state both are in now."""

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """What the arm would spend on the query; None where nothing is known of its model."""

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """How likely the arm is right; None where nothing was fitted and no prior is stated."""

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Probability that an answer with this raw confidence (and margin between first and second)
        is right; None where the answer carries neither."""


@dataclass(frozen=True, slots=True)
class PredictedJoules:
    """What an arm is expected to spend on a query, gross joules by phase.

    Attributes:
        load: Joules of bringing its model into memory; 0.0 only where it is there already.
        prefill, decode: Joules of the two phases.
        uncertainty: Half width; None where it is not known.
        seconds: Expected duration, load included; None where it is not known.
        source: Where it is from, in words: ``operating curve``, or ``uncalibrated: 38 tok/s at 45
            W``.
    """

    load: float
    prefill: float
    decode: float
    uncertainty: float | None = None
    seconds: float | None = None
    source: str = ""

    @property
    def total(self) -> float:
        """Joules of the whole turn and its load."""
        return self.load + self.prefill + self.decode


@dataclass(frozen=True, slots=True)
class PredictedAccuracy:
    """How likely an arm is right on a query.

    Attributes:
        p: Probability of a correct answer.
        low: What it is at least, one-sided, at ``confidence``.
        confidence: Of the bound, 0..1.
        n: Graded answers behind it; 0 for a prior that nobody measured.
        source: ``fitted``, or ``prior``.
    """

    p: float
    low: float
    confidence: float
    n: int
    source: str

"""Predicted joules and accuracy of arms, as far as a decision needs them.

Routing depends on this protocol only; ``etui.runtime.log_predictor`` implements it with operating
curves from the log and accuracies fitted from graded outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.arm import Arm
from etui.chat import Query


class Predictor(Protocol):
    """Predictions for one policy on this machine in its current state."""

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """Predict what the arm spends on the query; None without data about its model."""

    def duration(self, arm: Arm, query: Query) -> float | None:
        """Predict how long the arm takes, load included, also where its joules are unknown."""

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """Predict how likely the arm is right; None without a fitted accuracy or a stated prior."""

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Compute the probability that an answer is right from its raw confidence.

        Args:
            confidence: Raw confidence of the answer; None if it has none.
            margin: Difference between the first and the second answer; None if it has none.

        Returns:
            The probability; None if the answer has neither value, or nothing was fitted for it.
        """

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        """Predict how likely an answer is right that the arms agree on; None without a fit.

        Args:
            arms: The arms; a single one agrees with itself if all of its votes do.
            raw: Confidence and margin of the answer of each; empty before they are known.
        """


RawConfidence = tuple[float | None, float | None]
"""Raw confidence of an answer, and its margin; None where it has none."""


@dataclass(frozen=True, slots=True)
class PredictedAgreement:
    """How likely arms are right that give the same answer, and where they do not.

    Attributes:
        low, high: Interval at 95 % of the share of all agreed answers that is right.
    """

    agreed: float
    """Probability that an agreed answer is right, by the margins of the answers if they are known.
    """
    low: float
    high: float
    n: int  # Number of agreed answers it was fitted on
    apart: tuple[float, ...]  # Probability that each arm is right where they differ
    known: bool = True
    """False if the fit knew only right and wrong, so that all probabilities are the least that they
    can be."""
    at_most: float = 1.0
    """The highest probability that the fit gives an agreed answer, at any margins."""


@dataclass(frozen=True, slots=True)
class PredictedJoules:
    """Predicted gross joules of an arm on a query, by phase.

    Attributes:
        prefill, decode: Joules of the two phases; None where only their sum is known.
    """

    load: float  # Joules to load its model; 0.0 only if the model is in memory
    prefill: float | None
    decode: float | None
    uncertainty: float | None = None  # Half width; None if unknown
    seconds: float | None = None  # Expected duration, load included; None if unknown
    source: str = ""
    """How it was predicted, in words: ``operating curve``, or ``uncalibrated: 38 tok/s at 45 W``.
    """
    whole: float | None = None  # Joules of both phases together, where the two are not known

    def __post_init__(self) -> None:
        """Check that either both phases or their sum are known.

        Raises:
            ValueError: Neither is known, or both are.
        """
        if (self.prefill is None or self.decode is None) == (self.whole is None):
            raise ValueError("either both phases or their sum must be known")

    @property
    def answer(self) -> float:
        """Joules of prefill and decode, without the load."""
        if self.prefill is None or self.decode is None:
            assert self.whole is not None
            return self.whole
        return self.prefill + self.decode

    @property
    def total(self) -> float:
        """Joules of the whole turn and its load."""
        return self.load + self.answer


@dataclass(frozen=True, slots=True)
class PredictedAccuracy:
    """The probability that an arm answers a query correctly."""

    p: float  # Probability of a correct answer
    low: float  # One-sided lower bound of `p` at `confidence`
    confidence: float  # Confidence of the bound, 0..1
    n: int  # Number of graded answers it is based on; 0 for a stated prior, which is not measured
    source: str  # `fitted`, or `prior`

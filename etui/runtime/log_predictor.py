"""What the arms of a policy are expected to spend and to get right on this machine.

Put together from the log (operating curves, speeds, what arms put out before) and from what was
fitted for the policy. Nothing is opened or read before somebody asks, and each model is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from etui.arm import Arm
from etui.chat import Query
from etui.errors import LogUnavailable, UsageError
from etui.routing.prediction import PredictedAccuracy, PredictedJoules
from etui.routing.signals.text_measures import TextFacts

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.joules_predictor import LoggedModelFacts
    from etui.routing.policy import Policy


class Heads(Protocol):
    """What was fitted from graded answers."""

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None: ...

    def calibrated(
        self, arm: Arm, confidence: float | None, margin: float | None
    ) -> float | None: ...


class LogPredictor:
    """The outlook of this machine; see :class:`etui.routing.prediction.Predictor`.

    Args:
        config: Whose log.
        catalogue: The models.
        resident: Name of the model in memory; None where it is not known or none is.
        read_heads: Reads what was fitted, when it is asked for first; None where nothing was.
    """

    def __init__(
        self,
        config: Config,
        catalogue: Catalogue,
        resident: str | None = None,
        read_heads: Callable[[], Heads | None] = lambda: None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._resident = resident
        self._read_heads = read_heads
        self._heads: tuple[Heads | None] | None = None
        self._facts: dict[str, LoggedModelFacts | None] = {}
        self._text: tuple[Query, TextFacts] | None = None

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """What the arm would spend; None where nothing is known of its model."""
        from etui.routing.joules_predictor import forecast

        facts = self._facts_of(arm.model)
        if facts is None:
            return None
        resident = arm.model == self._resident
        return forecast(arm, self._text_of(query), facts, resident=resident)

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """How likely the arm is right; None where nothing was fitted.

        Raises:
            InvalidFile: What was fitted is damaged.
        """
        heads = self._fitted()
        return heads.accuracy(arm, query, confidence) if heads is not None else None

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Probability that the answer is right; None where nothing was fitted.

        Raises:
            InvalidFile: What was fitted is damaged.
        """
        heads = self._fitted()
        return heads.calibrated(arm, confidence, margin) if heads is not None else None

    def _fitted(self) -> Heads | None:
        if self._heads is None:
            self._heads = (self._read_heads(),)
        return self._heads[0]

    def _text_of(self, query: Query) -> TextFacts:
        if self._text is None or self._text[0] is not query:
            self._text = (query, TextFacts(query))
        return self._text[1]

    def _facts_of(self, model: str) -> LoggedModelFacts | None:
        if model not in self._facts:
            self._facts[model] = self._read_facts(model)
        return self._facts[model]

    def _read_facts(self, model: str) -> LoggedModelFacts | None:
        """A log that cannot be read costs a prediction, not an answer."""
        from etui.log.model_facts import model_facts
        from etui.log.queries import LogReader
        from etui.models.files import recorded_sha256
        from etui.runtime.provenance import conditions

        try:
            spec = self._catalogue.get(model)
            sha256 = spec.sha256 or recorded_sha256(spec, self._config)
            with LogReader(self._config) as log:
                return model_facts(log, spec.name, sha256, conditions(self._config))
        except (LogUnavailable, UsageError):
            return None


def predictor_for(
    policy: Policy, config: Config, catalogue: Catalogue, resident: str | None = None
) -> LogPredictor:
    """The outlook of a policy, with what was fitted for it.

    Args:
        policy: Whose fit is read, when an accuracy is asked for first.
        config: Whose log.
        catalogue: The models.
        resident: Name of the model in memory; None where it is not known or none is.
    """

    def heads() -> Heads | None:
        from etui.routing.accuracy.predictor import load_heads

        return load_heads(policy, config)

    return LogPredictor(config, catalogue, resident, heads)

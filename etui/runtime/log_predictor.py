"""Predict the joules and the accuracy of a policy's arms on this machine.

The predictions come from the log (operating curves, speeds, earlier output lengths) and from the
policy's fit. Both are read at the first prediction that needs them, and each model once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError, LogUnavailable, UsageError
from etui.routing.decision import (
    PredictedAccuracy,
    PredictedAgreement,
    PredictedJoules,
    RawConfidence,
)
from etui.routing.joules import predict_joules, predict_seconds
from etui.routing.policy import find_weights
from etui.routing.text_measures import TextFacts
from etui.runtime.caches import read_log

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.datasets.questions import Suite
    from etui.learning.predictor import AccuracyPredictor
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue
    from etui.routing.joules import LoggedModelFacts
    from etui.routing.policy import Policy
    from etui.routing.similarity import EarlierQuestion, EarlierQuestions
    from etui.runtime.caches import LogCache

_MOST_QUESTIONS = 2000
"""How many of the newest questions are read from the log, and from the runs."""

_TURNS = """
    SELECT query, arm FROM turns INDEXED BY turns_by_time
    WHERE status IN ('complete', 'truncated', 'budget') AND query != '' AND tokens_output > 0
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

_ANSWERS = """
    SELECT answers.arm, answers.subject, answers.row, answers.correct, runs.config
    FROM answers JOIN runs USING (run_id) ORDER BY answers.id DESC LIMIT ?
"""


class NeighbourMemory:
    """Keeps the graded answers of bench runs, which change only by a bench run."""

    def __init__(self) -> None:
        self._graded: tuple[tuple[int, int], tuple[EarlierQuestion, ...]] | None = None

    def read_graded(self, log: LogReader, config: Config) -> tuple[EarlierQuestion, ...]:
        """Read the graded answers of bench runs, unless there are no others than before."""
        rows = log.select("SELECT COUNT(*) AS number, MAX(id) AS last FROM answers")
        key = (int(rows[0]["number"]), int(rows[0]["last"] or 0)) if rows else (0, 0)
        if self._graded is None or self._graded[0] != key:
            self._graded = (key, tuple(_read_graded(log, config)))
        return self._graded[1]


def read_neighbours(
    policy: Policy,
    config: Config,
    kept: LogCache | None = None,
    memory: NeighbourMemory | None = None,
) -> EarlierQuestions | None:
    """Read the earlier questions from the log and from bench runs, if the policy uses them.

    A bench run counts only if its question files are still in place; nothing is downloaded. None if
    no signal uses them, or the log cannot be read.
    """
    origins = {s.nearest.of for s in policy.signals.values() if s.nearest is not None}
    if not origins:
        return None
    from etui.routing.similarity import EarlierQuestion, EarlierQuestions

    known = NeighbourMemory() if memory is None else memory

    def read(log: LogReader) -> EarlierQuestions:
        return EarlierQuestions(
            tuple(EarlierQuestion(*row) for row in log.select(_TURNS, (_MOST_QUESTIONS,)))
            if "log" in origins
            else (),
            known.read_graded(log, config) if "runs" in origins else (),
        )

    try:
        return read_log(config, kept, ("earlier questions", frozenset(origins)), read)
    except EtuiError:
        return None  # the signals are then unknown, and the turn runs without them


def _read_graded(log: LogReader, config: Config) -> Iterator[EarlierQuestion]:
    from etui.routing.similarity import EarlierQuestion

    suites: dict[tuple[str, str, str | None], dict[tuple[str, int], str]] = {}
    for row in log.select(_ANSWERS, (_MOST_QUESTIONS,)):
        run = json.loads(row["config"])
        key = (run.get("suite"), run.get("split"), run.get("data_path"))
        if key not in suites:
            suite = _load_run_suite(*key, config)
            asked = suite.questions.values() if suite is not None else ()
            # By the row of the file: a file of several subjects counts across all of them.
            suites[key] = {(one.subject, one.row): one.text for rows in asked for one in rows}
        text = suites[key].get((row["subject"], row["row"]))
        if text is not None:
            yield EarlierQuestion(text, row["arm"], bool(row["correct"]))


def _load_run_suite(
    name: str | None, split: str | None, data_path: str | None, config: Config
) -> Suite | None:
    """Load the questions of a run; None if they are missing or would have to be downloaded."""
    from etui.datasets.suites import is_named_suite, load_suite

    if data_path is None or name is None or not Path(data_path).exists():
        return None
    try:
        if is_named_suite(name):
            return load_suite(name, split or "test", Path(data_path), config)
        return load_suite(data_path, split or "test", None, config)
    except EtuiError:
        return None


_T = TypeVar("_T")


class LogPredictor:
    """Predictor for this machine; see :class:`etui.routing.decision.Predictor`.

    The fit is read at the first prediction of an accuracy.
    """

    def __init__(
        self,
        config: Config,
        catalogue: Catalogue,
        resident: str | None = None,
        read_heads: Callable[[], AccuracyPredictor | None] = lambda: None,
        log: LogCache | None = None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._resident = resident
        self._read_heads = read_heads
        self._log = log
        self._heads: tuple[AccuracyPredictor | None] | None = None
        self._facts: dict[str, LoggedModelFacts | None] = {}
        self._text: tuple[Query, TextFacts] | None = None
        self._predicted: dict[tuple[Any, ...], Any] = {}

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """Predict the joules of an arm; None if nothing is known about its model."""
        return self._predict(predict_joules, arm, query)

    def duration(self, arm: Arm, query: Query) -> float | None:
        """Predict the duration of an arm, load included; None if its speed is unknown."""
        return self._predict(predict_seconds, arm, query)

    def _predict(self, predict: Callable[..., _T | None], arm: Arm, query: Query) -> _T | None:
        facts = self._find_facts(arm.model)
        if facts is None:
            return None
        if self._text is None or self._text[0] is not query:
            self._text = (query, TextFacts(query))
        spec = self._catalogue.models.get(arm.model)
        # It needs no load if it is in memory, or another machine's to load.
        resident = arm.model == self._resident or (spec is not None and spec.backend is not None)
        # A replay of the log asks many times for prompts of the same length, which is all that the
        # joules depend on.
        text = self._text[1]
        options = arm.readout == "choices" and text.measure("options") > 0
        key = (predict, arm, text.chat_tokens, options)
        if key not in self._predicted:
            self._predicted[key] = predict(arm, text, facts, resident=resident)
        found: _T | None = self._predicted[key]
        return found

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """Predict the probability that an arm is right; None without a fit.

        This and the next two read the fit: InvalidFile if it is damaged.
        """
        return self._ask_fit(
            lambda fit: (fit.accuracy(same, query, confidence) for same in self._list_same(arm))
        )

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Predict the probability that a given answer is right; None without a fit."""
        return self._ask_fit(
            lambda fit: (fit.calibrated(same, confidence, margin) for same in self._list_same(arm))
        )

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        """Predict how likely an answer is right that the arms agree on; None without a fit."""
        return self._ask_fit(
            lambda fit: (fit.agreement(same, raw) for same in product(*map(self._list_same, arms)))
        )

    def fit_notice(self) -> str:
        """Return what is to be said of the fit, if it was used; empty without anything."""
        heads = self._heads[0] if self._heads is not None else None
        return "" if heads is None else heads.notice

    def _list_same(self, arm: Arm) -> tuple[Arm, ...]:
        """Return the arm, and the arm on the entries whose weights its model has."""
        weights = find_weights(self._catalogue.models, arm.model)
        names = [
            name
            for name in self._catalogue.models
            if name != arm.model and find_weights(self._catalogue.models, name) == weights
        ]
        return (arm, *(replace(arm, model=name) for name in names))

    def _ask_fit(self, predict: Callable[[AccuracyPredictor], Iterable[_T | None]]) -> _T | None:
        """Return the first prediction of the fit that is known; None without one, or a fit."""
        if self._heads is None:
            self._heads = (self._read_heads(),)
        fit = self._heads[0]
        if fit is None:
            return None
        return next((found for found in predict(fit) if found is not None), None)

    def _find_facts(self, model: str) -> LoggedModelFacts | None:
        if model not in self._facts:
            self._facts[model] = self._read_facts(model)
        return self._facts[model]

    def _read_facts(self, model: str) -> LoggedModelFacts | None:
        """Read a model's facts from the log; None if the log cannot be read or has none.

        A log that cannot be read must not prevent an answer.
        """
        from etui.log.past_answers import read_model_facts
        from etui.models.files import content_sha256
        from etui.runtime.provenance import find_conditions

        try:
            spec = self._catalogue.get(model)
            sha256 = spec.sha256
            if spec.backend is None:
                sha256 = content_sha256(spec, self._config)

            def read(log: LogReader) -> LoggedModelFacts:
                now = find_conditions(log, spec, self._config)
                return read_model_facts(log, spec.name, sha256, now)

            return read_log(self._config, self._log, ("facts", spec, sha256), read)
        except (LogUnavailable, UsageError):
            return None

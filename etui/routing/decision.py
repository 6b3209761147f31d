"""The result of routing: the chosen arm and why it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, overload

from etui.arm import Arm
from etui.chat import Query
from etui.codec import to_document


class Predictor(Protocol):
    """Predictions for one policy on this machine in its current state."""

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """Predict what the arm spends on the query; None without data about its model."""

    def duration(self, arm: Arm, query: Query) -> float | None:
        """Predict how long the arm takes, load included, also where its joules are unknown."""

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """Predict how likely the arm is right; None without a fitted accuracy or a stated prior."""

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Compute the probability that an answer is right from its raw confidence."""

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        """Predict how likely an answer is right that the arms agree on; None without a fit.

        ``raw`` has the confidence and margin of the answer of each, once they are known.
        """


RawConfidence = tuple[float | None, float | None]
"""Raw confidence of an answer, and its margin; None where it has none."""


@dataclass(frozen=True, slots=True)
class PredictedAgreement:
    """How likely arms are right that give the same answer, and where they do not.

    ``low`` and ``high`` bound the share of all agreed answers that is right, at 95 %.
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


UNCALIBRATED = "uncalibrated"
"""How the source of a prediction begins that is based on the last answers, and not on a curve."""


@dataclass(frozen=True, slots=True)
class PredictedJoules:
    """Predicted gross joules of an arm on a query, by phase."""

    load: float  # Joules to load its model; 0.0 only if the model is in memory
    prefill: float | None
    decode: float | None
    uncertainty: float | None = None  # Half width; None if unknown
    seconds: float | None = None  # Expected duration, load included; None if unknown
    source: str = ""
    """How it was predicted, in words: ``operating curve``, or ``uncalibrated: 38 tok/s at 45 W``.
    """
    whole: float | None = None  # Joules of both phases together, where the two are not known
    range: tuple[float, float] | None = None
    """Joules of prefill and decode that four of five answers lie between, by the lengths of earlier
    ones; None if unknown."""

    def __post_init__(self) -> None:
        """Check that either both phases or their sum are known."""
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
    def calibrated(self) -> bool:
        """Whether it is based on more than the speed of the last answers."""
        return not self.source.startswith(UNCALIBRATED)

    @property
    def total(self) -> float:
        """Joules of the whole turn and its load."""
        return self.load + self.answer

    def trace(self) -> dict[str, Any]:
        """Return the prediction as plain JSON values."""
        document: dict[str, Any] = to_document(self)
        del document["whole"], document["range"]
        return {"total": self.total, **document}


@dataclass(frozen=True, slots=True)
class PredictedAccuracy:
    """The probability that an arm answers a query correctly."""

    p: float  # Probability of a correct answer
    low: float  # One-sided lower bound of `p` at `confidence`
    confidence: float  # Confidence of the bound, 0..1
    n: int  # Number of graded answers it is based on; 0 for a stated prior, which is not measured
    source: str  # `fitted`, or `prior`


EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Reasoning efforts that a client can ask for, as the OpenAI SDK names them."""

WhenSpent = Literal["degrade", "ask", "refuse"]
OnContextOverflow = Literal["truncate_thought", "drop_history", "fail"]
OnNoAnswer = Literal["ask_constrained", "next_arm", "keep"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A step of a cascade whose answer is accepted if all of its arms give the same one."""

    arms: tuple[str, ...]
    """Names of the arms, neighbours in the cascade and in its order. A single one draws votes, all
    of which must be the same."""
    accept_at: float  # Probability of being right from which the common answer is accepted
    odds: PredictedAgreement | None = None
    """How likely a common answer is right, before it is known; None without a fit."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the fit accepts no common answer, whatever its margins."""
        return self.odds is not None and self.odds.at_most < self.accept_at

    @property
    def is_in_vain(self) -> bool:
        """Whether that is certain: it follows from enough answers, which are known.

        The whole interval of the share that is right has to be below what is required.
        """
        odds = self.odds
        return (
            self.is_out_of_reach and odds is not None and odds.known and odds.high < self.accept_at
        )

    def trace(self) -> dict[str, Any]:
        """Return the step as plain JSON values."""
        odds = self.odds
        return {
            "arms": list(self.arms),
            "accept_at": self.accept_at,
            "odds": None if odds is None else {**to_document(odds), "apart": list(odds.apart)},
        }


@dataclass(frozen=True, slots=True)
class Cascade:
    """Arms tried one after the other until an answer is confident enough."""

    arms: tuple[Arm, ...]  # Cheapest first, at least two; each has a model on this machine
    accept_at: float  # Calibrated probability of being right from which an answer is accepted
    max_hops: int  # Maximum number of arms that answer
    max_joules: float | None = None
    """No further arm starts once the turn has spent, or is expected to spend, more."""
    agreements: tuple[Agreement, ...] = ()
    """The steps of several arms, in order; every other arm is a step of its own."""

    def find_agreement(self, name: str) -> Agreement | None:
        """Return the step of several answers that an arm belongs to; None for a plain arm."""
        return next((step for step in self.agreements if name in step.arms), None)

    def number_step(self, name: str) -> int | None:
        """Return the number, from 1, of the step that an arm belongs to; None for no arm of it."""
        steps: list[object] = []
        for arm in self.arms:
            step = self.find_agreement(arm.name) or arm.name
            if step not in steps:
                steps.append(step)
            if arm.name == name:
                return steps.index(step) + 1
        return None

    def trace(self) -> dict[str, Any]:
        """Return the cascade as plain JSON values."""
        document = {
            "arms": [_name_arm(arm) for arm in self.arms],
            "accept_at": self.accept_at,
            "max_hops": self.max_hops,
            "max_joules": self.max_joules,
        }
        return document | (
            {"agreements": [step.trace() for step in self.agreements]} if self.agreements else {}
        )


@dataclass(frozen=True, slots=True)
class TurnBudget:
    """The most one turn may spend; at the limit the turn answers with what it has.

    None is no limit. ``tokens`` counts output tokens; ``seconds`` excludes the load.
    """

    joules: float | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PeriodBudget:
    """The most that all turns of the last hour, or of the day, may spend together."""

    period: Literal["hour", "day"]
    joules: float
    when_exceeded: WhenSpent


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What to do when an answer cannot be produced as planned."""

    load_failed: Arm | None = None
    """Arm that answers when the model of another cannot be loaded; None raises the error."""
    context_overflow: OnContextOverflow = "truncate_thought"
    """What to cut when question and thinking do not fit into the context."""
    no_answer: OnNoAnswer = "keep"  # What to do when a multiple choice or a vote yields no answer
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm -> its models at other machines (the same weights) that are available, in the order they
    are tried when the place of the arm cannot answer."""

    def trace(self) -> dict[str, Any]:
        """Return the fallbacks as plain JSON values; places are not among them."""
        return {
            "load_failed": None if self.load_failed is None else self.load_failed.name,
            "context_overflow": self.context_overflow,
            "no_answer": self.no_answer,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """One arm an objective considered, at one of the machines that serve its model."""

    arm: Arm  # The arm, with the model of that place
    joules: PredictedJoules | None  # Its predicted joules; None if unknown
    accuracy: PredictedAccuracy | None
    """Its predicted accuracy, which is the same at every place; None if unknown."""
    failed: str | None  # The bound it misses; None if it qualifies
    backend: str | None = None  # Name of the backend that would answer; None for this machine
    seconds: float | None = None  # Expected duration, load included; None if unknown

    def trace(self) -> dict[str, Any]:
        """Return the candidate as plain JSON values; ``machine`` is None for this one."""
        return {
            **_name_arm(self.arm),
            "machine": self.backend,
            "seconds": self.seconds,
            "joules": None if self.joules is None else self.joules.trace(),
            "accuracy": to_document(self.accuracy),
            "failed": self.failed,
        }


T = TypeVar("T")

NO_RULE_MATCHED = "no rule matched"
"""The reason of the rule that takes the remaining questions."""


class Deferred(Sequence[T], Generic[T]):
    """A sequence that is built when it is first read: most traces never are."""

    def __init__(self, make: Callable[[], tuple[T, ...]]) -> None:
        self._make = make

    @cached_property
    def _items(self) -> tuple[T, ...]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True, slots=True)
class SignalValue:
    """One signal and its value for a query."""

    name: str
    holds: bool
    value: float | str | None  # A number, a language or a model; None if unknown
    boundary: float | str | None
    """Where it would change: the nearest end of its range, or the required word."""
    test: str = ""  # The requirement in words ("at least 3")
    detail: str = ""  # What was found, where a number alone says little ("calculate, how many")

    @property
    def distance(self) -> float | None:
        """Distance of the value from its boundary; None if either is not a number."""
        if isinstance(self.value, str | None) or isinstance(self.boundary, str | None):
            return None
        return abs(self.value - self.boundary)

    def trace(self) -> dict[str, Any]:
        """Return the signal as plain JSON values."""
        document = to_document(self)
        last = {key: document.pop(key) for key in ("test", "detail")}
        return {**document, "distance": self.distance, **last}


@dataclass(frozen=True, slots=True)
class RuleTried:
    """One rule that was tried; ``failed`` names the first condition that failed."""

    name: str
    priority: int
    matched: bool
    failed: str | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """The decision of a shadow policy for the same query; it is logged and not carried out."""

    policy: str
    arm: Arm | None  # The arm it chose; None if it could not decide
    rule: str | None
    why: str  # Why it decided so, or why it could not
    predicted_joules: float | None = None
    """Predicted joules of that arm, its load excluded; None if unknown."""

    def trace(self) -> dict[str, Any]:
        """Return the decision as plain JSON values."""
        arm = self.arm
        return {
            "policy": self.policy,
            "rule": self.rule,
            "arm": None if arm is None else arm.name,
            "model": None if arm is None else arm.model,
            "reasoning": None if arm is None else arm.reasoning,
            "why": self.why,
            "predicted_joules": self.predicted_joules,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """The arm for one query, and why it was chosen."""

    arm: Arm
    policy: str | None  # Name of the policy; None if the command line specified the arm in full
    rule: str | None  # Name of the rule that matched; None without a policy
    why: str  # The reason in one line ("math-thinks: calc (2 keywords), symbolic (4 of 3)")
    signals: Sequence[SignalValue] = ()
    """The signals that were evaluated; all of them for ``policy explain``."""
    rules: Sequence[RuleTried] = ()  # The rules that were tried, in order
    predicted_joules: float | None = None
    predicted_range: tuple[float, float] | None = None
    """Joules, without a load, that four of five such answers lie between; None if unknown."""
    predicted_accuracy: float | None = None
    shadow: Shadow | None = None  # The decision of the shadow policy; None without one
    cascade: Cascade | None = None
    """The arms to try in turn; ``arm`` is the first. None for a single arm."""
    candidates: tuple[Candidate, ...] = ()
    """The candidates of an objective, cheapest first; empty without one."""
    margin_joules: float | None = None
    """Joules that the runner-up would cost more; None without one."""
    budget: TurnBudget | None = None  # What the turn may spend; None is no limit
    fallbacks: Fallbacks = field(default_factory=Fallbacks)
    """What to do when the answer cannot be produced as planned."""
    notices: tuple[str, ...] = ()
    """Messages for the user, such as that a budget led to a cheaper arm."""

    def trace(self) -> dict[str, Any]:
        """Return the decision as plain JSON values, as the log and ``--json`` have it."""
        return {
            **_name_arm(self.arm),
            "policy": self.policy,
            "rule": self.rule,
            "why": self.why,
            "signals": [signal.trace() for signal in self.signals],
            "rules": [to_document(rule) for rule in self.rules],
            "predicted": {
                "joules": self.predicted_joules,
                "range": None if self.predicted_range is None else list(self.predicted_range),
                "accuracy": self.predicted_accuracy,
            },
            "cascade": None if self.cascade is None else self.cascade.trace(),
            "candidates": [candidate.trace() for candidate in self.candidates],
            "margin_joules": self.margin_joules,
            "budget": to_document(self.budget),
            "fallbacks": self.fallbacks.trace(),
            "notices": list(self.notices),
            "shadow": None if self.shadow is None else self.shadow.trace(),
        }


def _name_arm(arm: Arm) -> dict[str, str]:
    return {"arm": arm.name, "model": arm.model}

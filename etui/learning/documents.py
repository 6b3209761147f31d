"""Typed documents of ``etui policy replay --json``; the text output is formatted from them."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Spread(TypedDict):
    """A value and its 95 % interval; None for an infinite end."""

    value: float
    low: float | None
    high: float | None


class Corner(TypedDict):
    """An arm on the upper hull of cost and accuracy."""

    arm: str
    cost: float
    accuracy: float


class SingleArm(TypedDict):
    """One arm for all questions; ``cost_per_correct`` is None without a right answer."""

    accuracy: float
    accuracy_interval: list[float]
    cost: float
    cost_per_correct: float | None


class SecondRun(TypedDict):
    """The oracle's choices on the first run, evaluated on the answers of a second run."""

    accuracy: float
    cost: float


class OracleFigures(TypedDict):
    """The cheapest right arm of each question; ``reproducible`` is None without a second run."""

    accuracy: float
    cost: float
    shares: dict[str, float]
    apgr: float | None
    reproducible: SecondRun | None


class McNemar(TypedDict):
    """Questions that only one of two answered right, and the exact p-value."""

    only_this: int
    only_arm: int
    p_value: float


class RouterChoice(TypedDict):
    """A router against the best random mixture; ``saved`` is None if no mixture is as accurate."""

    accuracy: float
    cost: float
    cost_per_correct: float | None
    mixture_accuracy: float
    difference: Spread
    saved: Spread | None
    mcnemar: dict[str, McNemar]


class AtBudget(RouterChoice):
    """A router at a budget of ``share`` of the way from the weak to the strong arm's cost."""

    budget: float
    share: float
    shares: dict[str, float]


class AtHull(RouterChoice):
    """A router at a corner of the hull, or at the geometric middle of two neighbouring corners."""

    kind: Literal["corner", "middle"]
    arms: list[str]
    budget: float
    shares: dict[str, float]


class JudgedPolicy(RouterChoice):
    """A replayed policy: the arms that answered, the hops, the rules that matched."""

    shares: dict[str, float]
    mean_hops: float
    rules: dict[str, int]
    notes: list[str]


class RouterEnergy(TypedDict):
    """A router over cost instead of calls; keys of ``cost_at_pgr`` are percent of the gain."""

    apgr: float
    cost_at_pgr: dict[str, float | None]
    at_budget: list[AtBudget]
    at_hull: list[AtHull]


class Router(TypedDict):
    """A router; keys that are not required are absent if no arm gains over the cheapest."""

    apgr: float | None
    ece: dict[str, float]
    apgr_interval: NotRequired[list[float | None] | None]
    cpt50: NotRequired[float | None]
    cpt80: NotRequired[float | None]
    cpt95: NotRequired[float | None]
    energy: NotRequired[RouterEnergy]
    curve: list[list[float]]


class RandomRouter(TypedDict):
    """The figures of a random router, known by definition."""

    apgr: float
    cpt50: float
    cpt80: float
    cpt95: float


class ReplayDocument(TypedDict):
    """A replay over graded answers; the top-level figures are those of the best ``router``."""

    n: int
    unit: str
    kinds: list[str]
    arms: dict[str, SingleArm]
    weak: str
    strong: str
    hull: list[Corner]
    random: RandomRouter
    oracle: OracleFigures
    router: str | None
    apgr: float | None
    apgr_interval: list[float | None] | None
    cpt50: float | None
    cpt80: float | None
    cpt95: float | None
    energy: RouterEnergy | None
    routers: dict[str, Router]
    policies: dict[str, JudgedPolicy]
    notes: NotRequired[list[str]]


Move = TypedDict("Move", {"from": str, "to": str, "n": int})
"""Number of questions that would move from one arm to another."""


class MovedJoules(TypedDict):
    """Joules of the turns; the predicted sums cover turns with both predictions."""

    measured: float | None
    measured_turns: int
    kinds: list[str]
    predicted_turns: int
    predicted_before: float | None
    predicted_after: float | None


class MovedAccuracy(TypedDict):
    """Mean predicted accuracies over the turns with both predictions."""

    predicted_turns: int
    predicted_before: float | None
    predicted_after: float | None


class ArmOfTurn(TypedDict):
    """The arm and the model that answered."""

    arm: str
    model: str


class ReplayedTurn(TypedDict):
    """One replayed turn; ``after`` is None if the policy finds no arm."""

    turn_id: str
    before: ArmOfTurn
    after: ArmOfTurn | None
    moves: bool
    joules: float | None
    kind: str | None
    predicted_before: float | None
    predicted_after: float | None
    right_before: float | None
    right_after: float | None
    why: str


class TurnsDocument(TypedDict):
    """A replay of the log."""

    policy: str
    n: int
    moved: int
    undecided: int
    cascades: int
    moves: list[Move]
    joules: MovedJoules
    accuracy: MovedAccuracy
    turns: list[ReplayedTurn]

"""The documents of ``etui policy replay --json``: their keys, typed; the text forms read them."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Spread(TypedDict):
    """A figure and its 95 % interval; None where an end lies at infinity."""

    value: float
    low: float | None
    high: float | None


class Corner(TypedDict):
    """An arm on the upper hull of cost and accuracy."""

    arm: str
    cost: float
    accuracy: float


class SingleArm(TypedDict):
    """One arm that answers every question; ``cost_per_correct`` is None without a right answer."""

    accuracy: float
    accuracy_interval: list[float]
    cost: float
    cost_per_correct: float | None


class SecondRun(TypedDict):
    """The oracle's choice of the first run, judged on the answers of a second."""

    accuracy: float
    cost: float


class OracleFigures(TypedDict):
    """The cheapest arm that is right; ``reproducible`` is None without a second run."""

    accuracy: float
    cost: float
    shares: dict[str, float]
    apgr: float | None
    reproducible: SecondRun | None


class McNemar(TypedDict):
    """Questions just one of two got right, and the exact p-value."""

    only_this: int
    only_arm: int
    p_value: float


class RouterChoice(TypedDict):
    """A way to choose against the best random mixture; ``saved`` is None where none is as good."""

    accuracy: float
    cost: float
    cost_per_correct: float | None
    mixture_accuracy: float
    difference: Spread
    saved: Spread | None
    mcnemar: dict[str, McNemar]


class AtBudget(RouterChoice):
    """What a router does where ``share`` of the way from the weak to the strong cost is spent."""

    budget: float
    share: float
    shares: dict[str, float]


class JudgedPolicy(RouterChoice):
    """What a policy did with the questions: arms that answered, hops, rules that matched."""

    shares: dict[str, float]
    mean_hops: float
    rules: dict[str, int]
    notes: list[str]


class RouterEnergy(TypedDict):
    """A router over cost instead of calls; ``cost_at_pgr`` is by per cent of the gain."""

    apgr: float
    cost_at_pgr: dict[str, float | None]
    at_budget: list[AtBudget]


class Router(TypedDict):
    """A router; what is not required is absent where no arm gains over the cheapest."""

    apgr: float | None
    ece: dict[str, float]
    apgr_interval: NotRequired[list[float | None] | None]
    cpt50: NotRequired[float | None]
    cpt80: NotRequired[float | None]
    cpt95: NotRequired[float | None]
    energy: NotRequired[RouterEnergy]
    curve: list[list[float]]


class RandomRouter(TypedDict):
    """What a random router reaches by definition."""

    apgr: float
    cpt50: float
    cpt80: float
    cpt95: float


class ReplayDocument(TypedDict):
    """A replay over graded answers; the figures at the top are those of the best ``router``."""

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
"""How many questions would go from one arm to another."""


class MovedJoules(TypedDict):
    """Joules of the turns; sums of the predicted are over the turns known on both sides."""

    measured: float | None
    measured_turns: int
    kinds: list[str]
    predicted_turns: int
    predicted_before: float | None
    predicted_after: float | None


class MovedAccuracy(TypedDict):
    """Mean predicted accuracies over the turns known on both sides."""

    predicted_turns: int
    predicted_before: float | None
    predicted_after: float | None


class ArmOfTurn(TypedDict):
    """What answered."""

    arm: str
    model: str


class ReplayedTurn(TypedDict):
    """One turn again; ``after`` is None where the policy comes to no arm."""

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

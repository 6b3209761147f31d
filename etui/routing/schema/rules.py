"""Arms and rules of the policy file: conditions, and the arm, cascade or objective they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from etui.yaml.load import Strict, refuse

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", max_length=100)
]
"""A name in models.yaml, where ``big@desk`` is usual for a model of another machine."""
Joules = Annotated[float, Field(gt=0, le=1e9)]


class StopEntry(Strict):
    """When to stop drawing votes because the majority is certain enough."""

    rule: Literal["all", "lead", "flip", "adaptive", "unanimous"] = Field(
        "flip",
        description="all draws every vote; lead stops when the remaining votes cannot change the "
        "winner; flip and adaptive stop earlier, at a configured risk; unanimous stops at the "
        "first vote that differs.",
    )
    eps: float | None = Field(
        None, gt=0, lt=1, description="flip: risk that the winner would change (default 0.05)."
    )
    threshold: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="adaptive: required certainty of the leading answer (default 0.95).",
    )

    @model_validator(mode="after")
    def _check_risk(self) -> Self:
        for key, rule in (("eps", "flip"), ("threshold", "adaptive")):
            if getattr(self, key) is not None and self.rule != rule:
                refuse(f"{key} has no effect with rule: {self.rule}; use rule: {rule}", key)
        return self


class EarlyExitEntry(Strict):
    """When to end thinking before its budget is used up because its answer is stable."""

    every: int = Field(48, ge=8, le=10_000, description="Thinking tokens between two checks.")
    min_p: float = Field(0.9, gt=0, le=1, description="Minimum probability of the answer.")
    stable: int = Field(
        2, ge=1, le=100, description="Consecutive checks that must give the same answer."
    )


ONLY_OF = {
    "think_tokens": ("cot", "vote"),
    "style": ("cot", "vote"),
    "early_exit": ("cot",),
    "exchange": ("cot",),
    "votes": ("vote",),
    "batch": ("vote",),
    "stop": ("vote",),
    "weight": ("vote",),
}
"""Keys that have an effect only with these reasoning methods."""


def check_effect(entry: Strict, reasoning: str) -> None:
    """Refuse keys that have no effect with a reasoning method."""
    given = {key: ways for key, ways in ONLY_OF.items() if getattr(entry, key, None) is not None}
    if getattr(entry, "readout", None) == "choices":
        given["readout"] = ("direct",)
    for key, ways in given.items():
        if reasoning not in ways:
            use = " or ".join(ways)
            refuse(f"{key} has no effect with reasoning: {reasoning}; use {use}", key)


class ArmEntry(Strict):
    """A model, a reasoning method, and what an answer may spend."""

    model: ModelName = Field(description="A role of `models`, or a name in models.yaml.")
    reasoning: Literal["direct", "cot", "vote"] = Field(
        "direct",
        description="direct answers without thinking; cot thinks first, within think_tokens; vote "
        "takes the majority of several answers.",
    )
    think_tokens: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Thinking budget in tokens (cot, vote; default 256); with 0 a vote answers "
        "without thinking.",
    )
    max_tokens: int = Field(
        512, ge=1, le=100_000, description="Maximum tokens of the answer, thinking excluded."
    )
    style: Literal["auto", "plain", "draft", "native"] | None = Field(
        None,
        description="How thinking is requested (cot, vote): native uses the model's own think "
        "tags, plain and draft ask in words; auto is native if the model has tags, else plain.",
    )
    readout: Literal["text", "choices", "letter"] | None = Field(
        None,
        description="choices takes the option letter with the highest probability and decodes "
        "nothing (direct); letter takes it behind the decoded answer; default text.",
    )
    early_exit: EarlyExitEntry | None = Field(
        None, description="Ends thinking once its answer is stable (cot)."
    )
    exchange: Joules | None = Field(
        None,
        description="Joules that a percentage point of confidence is worth; thinking that costs "
        "more is not started (cot).",
    )
    votes: int | None = Field(
        None, ge=1, le=64, description="Maximum number of answers drawn (default 7)."
    )
    batch: int | None = Field(
        None, ge=1, le=64, description="Maximum number of answers decoded together (default 8)."
    )
    stop: StopEntry | None = Field(None, description="When to stop drawing answers.")
    weight: Literal["none", "probability"] | None = Field(
        None, description="Weight of a vote: one, or the probability of its answer."
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=5,
        description="0 takes the most probable token; default: what the model asks for, else 0, "
        "for vote 0.7.",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Probability mass of the nucleus; 1 keeps all tokens. Default: what the model "
        "asks for, else 0.95.",
    )
    top_k: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Tokens kept; 0 keeps all. Default: what the model asks for, else 40.",
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Minimum probability, relative to the most probable token; 0 keeps all. "
        "Default: what the model asks for, else 0.05.",
    )
    repeat_penalty: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Makes tokens that were used lately less probable; 1 is off. Default: what "
        "the model asks for, else 1.",
    )
    repeat_last_n: int | None = Field(
        None,
        ge=-1,
        le=10_000_000,
        description="Last tokens of prompt and answer in which the penalties look; -1 is the "
        "whole context. Default: what the model asks for, else 64.",
    )
    presence_penalty: float | None = Field(
        None,
        ge=-2,
        le=2,
        description="Subtracted from the logit of tokens that were used lately; 0 is off. Default: "
        "what the model asks for, else 0.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed of the sampler.")
    loop_guard: bool | None = Field(
        None,
        description="Whether an answer that repeats itself is ended; default: as in config.yaml.",
    )
    max_joules: Joules | None = Field(
        None, description="The most one answer may spend; at the limit it is ended early."
    )
    speculate: Literal["off", "lookup", "draft", "mtp", "auto"] | None = Field(
        None,
        description="Where drafted tokens come from, which the model verifies in batches (direct, "
        "cot): lookup copies them from the prompt and the answer, draft asks the model's draft "
        "model, mtp its own heads, auto takes what pays; default that of the model, else off.",
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        check_effect(self, self.reasoning)
        if self.reasoning == "cot" and self.think_tokens == 0:
            refuse("think_tokens: 0 means no thinking; use reasoning: direct", "think_tokens")
        if self.reasoning == "vote" and self.votes != 1 and self.temperature == 0:
            refuse("votes drawn at temperature 0 are identical; use about 0.7", "temperature")
        if self.reasoning == "vote" and self.speculate not in (None, "off"):
            refuse(
                f"speculate: {self.speculate} and reasoning: vote exclude each other: votes share "
                "each batch already; remove one of them",
                "speculate",
            )
        return self


DEFAULT_CONFIDENCE = 0.9
"""Confidence of an accuracy bound if the policy does not set one."""


class Tree(Strict):
    """One of all, any and not."""

    all: tuple[Condition, ...] | None = Field(None, min_length=1, max_length=100)
    any: tuple[Condition, ...] | None = Field(None, min_length=1, max_length=100)
    negated: Condition | None = Field(None, alias="not")

    @model_validator(mode="after")
    def _check_one_key(self) -> Self:
        given = [key for key in ("all", "any", "negated") if getattr(self, key) is not None]
        if len(given) != 1:
            refuse(
                "give one of all, any, not; nest them to combine them, as in {all: [a, {not: b}]}",
                *(["not" if given[1] == "negated" else given[1]] if given else []),
            )
        return self


def _condition_kind(data: Any) -> str | None:
    if isinstance(data, str):
        return "a signal"
    return "a tree" if isinstance(data, dict | Tree) else None


Condition = Annotated[
    Annotated[Name, Tag("a signal")] | Annotated[Tree, Tag("a tree")],
    Discriminator(
        _condition_kind,
        custom_error_type="condition",
        custom_error_message="a condition is the name of a signal, or {all: [...]}, {any: [...]}, "
        "{not: ...}",
    ),
]

Tree.model_rebuild()


class AgreeEntry(Strict):
    """A step of a cascade that accepts an answer if all of its arms give it."""

    agree: tuple[Name, ...] = Field(
        min_length=1,
        max_length=5,
        description="Two arms or more, in the order they are asked, or one with reasoning: vote.",
    )
    accept: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability of being right from which the common answer is accepted; default "
        "accept_at of the cascade.",
    )


def _step_kind(data: Any) -> str | None:
    if isinstance(data, str):
        return "an arm"
    return "an agreement" if isinstance(data, dict | AgreeEntry) else None


CascadeStep = Annotated[
    Annotated[Name, Tag("an arm")] | Annotated[AgreeEntry, Tag("an agreement")],
    Discriminator(
        _step_kind,
        custom_error_type="cascade_step",
        custom_error_message="a step of a cascade is the name of an arm, or {agree: [ARM, ARM]}",
    ),
]


class CascadeEntry(Strict):
    """Arms tried one after the other until an answer is confident enough."""

    arms: tuple[CascadeStep, ...] = Field(
        min_length=1,
        max_length=20,
        description="In the order they are tried, cheapest first; {agree: [ARM, ARM]} asks several "
        "and accepts the answer that all of them give.",
    )
    accept_at: float = Field(
        gt=0, lt=1, description="Probability of being right from which an answer is accepted."
    )
    max_hops: int | None = Field(
        None, ge=2, description="Maximum number of arms that answer; default all of them."
    )
    max_joules: Joules | None = Field(
        None,
        description="No further arm starts once the turn has spent, or would spend, more.",
    )

    def places(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        """Return every arm in the order they are tried, as (path below the cascade, arm)."""
        found: list[tuple[tuple[str | int, ...], str]] = []
        for index, step in enumerate(self.arms):
            if isinstance(step, str):
                found.append((("arms", index), step))
            else:
                found += [(("arms", index, "agree", at), arm) for at, arm in enumerate(step.agree)]
        return tuple(found)

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if len(self.arms) == 1:
            if isinstance(self.arms[0], str):
                refuse(f"a cascade needs two arms or more; use `use: {self.arms[0]}`", "arms")
            refuse("nothing follows where the arms of `agree` differ; add a larger arm", "arms")
        if not isinstance(self.arms[-1], str):
            refuse(
                "a cascade cannot end with `agree`: nothing follows where its arms differ; add a "
                "larger arm",
                *("arms", len(self.arms) - 1),
            )
        arms = len(self.places())
        if self.max_hops is not None and self.max_hops > arms:
            refuse(f"max_hops: there are only {arms} arms", "max_hops")
        return self


class AccuracyFloor(Strict):
    """The accuracy that a candidate must reach."""

    at_least: float = Field(gt=0, lt=1, description="Minimum probability of a right answer.")
    confidence: float = Field(
        DEFAULT_CONFIDENCE, gt=0, lt=1, description="One-sided confidence of that minimum."
    )


class JoulesCap(Strict):
    """The joules that a candidate is expected to spend at most."""

    at_most: Joules = Field(description="Gross joules of the turn, model load included.")


class SecondsCap(Strict):
    """The seconds that a candidate is expected to take at most."""

    at_most: float = Field(gt=0, le=1e6, description="Seconds of the turn, model load included.")


class ObjectiveEntry(Strict):
    """The goal by which a candidate is chosen, and the bounds that each must meet."""

    minimize: Literal["joules"] | None = Field(
        None, description="Chooses the cheapest candidate that qualifies."
    )
    maximize: Literal["accuracy"] | None = Field(
        None, description="Chooses the most accurate candidate that qualifies."
    )
    accuracy: AccuracyFloor | None = Field(None, description="Minimum accuracy.")
    joules: JoulesCap | None = Field(None, description="Maximum joules.")
    seconds: SecondsCap | None = Field(None, description="Maximum seconds.")
    exchange: Joules | None = Field(
        None,
        description="With maximize: joules that a percentage point of accuracy is worth; a gain "
        "that costs more is not taken.",
    )
    prior: Mapping[Name, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None,
        min_length=1,
        description="Arm -> probability of being right, used where nothing was fitted.",
    )

    @model_validator(mode="after")
    def _check_goal(self) -> Self:
        if self.minimize is None and self.maximize is None:
            refuse("an objective needs a goal: minimize: joules, or maximize: accuracy")
        if self.minimize is not None and self.maximize is not None:
            refuse(
                "minimize and maximize cannot be combined; put a bound on the other one instead",
                "maximize",
            )
        if self.exchange is not None and self.maximize is None:
            refuse("exchange has no effect with minimize: joules; use maximize", "exchange")
        return self


class RuleEntry(Strict):
    """A condition, and the arm, cascade or objective that answers when it holds."""

    name: Name
    priority: int = Field(
        0,
        ge=-1_000_000,
        le=1_000_000,
        description="Rules of higher priority are tried first.",
    )
    when: Condition | None = Field(
        None, description="The condition; the last rule has none and matches every question."
    )
    use: Name | None = Field(None, description="The arm that answers.")
    cascade: CascadeEntry | None = Field(
        None, description="Arms that answer in turn until one is confident enough."
    )
    objective: ObjectiveEntry | None = Field(
        None, description="Goal and bounds; the candidate that meets them best answers."
    )
    arms: tuple[Name, ...] | None = Field(
        None, min_length=1, max_length=50, description="Candidates of the objective."
    )
    switch_margin_joules: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="With an objective: the model in memory is kept unless another saves more "
        "than this.",
    )
    otherwise: Name | None = Field(
        None,
        description="With an objective: the arm that answers if no candidate qualifies or nothing "
        "was fitted.",
    )

    def ends(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        """Return every arm the rule names and its place, as (path below the rule, arm)."""
        found: list[tuple[tuple[str | int, ...], str]] = []
        if self.use is not None:
            found.append((("use",), self.use))
        if self.cascade is not None:
            found += [(("cascade", *path), arm) for path, arm in self.cascade.places()]
        found += [(("arms", i), arm) for i, arm in enumerate(self.arms or ())]
        if self.otherwise is not None:
            found.append((("otherwise",), self.otherwise))
        return tuple(found)

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        ends = [key for key in ("use", "cascade", "objective") if getattr(self, key) is not None]
        if not ends:
            refuse("a rule needs one of use, cascade, objective, as in `use: ARM`")
        if len(ends) > 1:
            refuse(f"{ends[0]} and {ends[1]} cannot be combined; use one of them", ends[1])
        if self.objective is None:
            for key in ("arms", "switch_margin_joules", "otherwise"):
                if getattr(self, key) is not None:
                    refuse(f"{key} needs an objective; it has no effect with {ends[0]}", key)
            return self
        if self.arms is None:
            refuse(
                "an objective needs candidates: `arms: [quick, large]` in its rule",
                "objective",
            )
        if self.switch_margin_joules is not None and self.objective.minimize is None:
            refuse(
                "switch_margin_joules has no effect with maximize: accuracy", "switch_margin_joules"
            )
        for arm in self.objective.prior or ():
            if arm not in self.arms:
                refuse(f"'{arm}' is not a candidate of this rule", "objective", "prior", arm)
        return self

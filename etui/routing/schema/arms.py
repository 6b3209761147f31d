"""Arms of the policy file: how a model answers, and what one answer may spend."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

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

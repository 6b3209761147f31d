"""Arms of the policy file: how a model answers, and what an answer may spend."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from etui.yaml.load import Strict, refuse

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Joules = Annotated[float, Field(gt=0, le=1e9)]


class StopEntry(Strict):
    """When a majority is certain enough to draw no further votes."""

    rule: Literal["all", "lead", "flip", "adaptive"] = Field(
        "flip",
        description="all draws every vote; lead stops when the votes left cannot change the "
        "winner; flip and adaptive stop earlier, at a stated risk.",
    )
    eps: float | None = Field(
        None, gt=0, lt=1, description="flip: the risk that the winner changes (default 0.05)."
    )
    threshold: float | None = Field(
        None, gt=0.5, lt=1, description="adaptive: how certain the leader is (default 0.95)."
    )

    @model_validator(mode="after")
    def _risk_of_its_rule(self) -> Self:
        for key, rule in (("eps", "flip"), ("threshold", "adaptive")):
            if getattr(self, key) is not None and self.rule != rule:
                refuse(f"{key} has no effect with rule: {self.rule}; it belongs to {rule}", key)
        return self


class EarlyExitEntry(Strict):
    """When a thought has come to its answer before its budget is used up."""

    every: int = Field(48, ge=8, le=10_000, description="Thought tokens between two looks.")
    min_p: float = Field(0.9, gt=0, le=1, description="Probability the answer must have.")
    stable: int = Field(2, ge=1, le=100, description="Looks running that give the same answer.")


ONLY_OF = {
    "think_tokens": ("cot", "vote"),
    "style": ("cot", "vote"),
    "early_exit": ("cot",),
    "exchange": ("cot",),
    "votes": ("vote",),
    "batch": ("vote",),
    "stop": ("vote",),
    "weight": ("vote",),
    "readout": ("direct",),
}
"""Keys that say something only with these ways of reasoning."""


class ArmEntry(Strict):
    """A model, a way of reasoning, and what it may spend."""

    model: Name = Field(description="A role of `models`, or a name in models.yaml.")
    reasoning: Literal["direct", "cot", "vote"] = Field(
        "direct",
        description="direct answers at once; cot thinks first, within think_tokens; vote takes the "
        "majority of several answers.",
    )
    think_tokens: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Budget of the thought in tokens (cot, vote; default 256); with 0 a vote "
        "answers at once.",
    )
    max_tokens: int = Field(
        512, ge=1, le=100_000, description="Tokens of the answer, beside the thought."
    )
    style: Literal["auto", "plain", "draft", "native"] | None = Field(
        None,
        description="How thought is asked for (cot, vote): native uses the model's own think tags, "
        "plain and draft ask in words; auto is native where the model has tags, else plain.",
    )
    readout: Literal["text", "choices"] | None = Field(
        None,
        description="choices reads the letters of a multiple choice from their probabilities and "
        "decodes nothing (direct); default text.",
    )
    early_exit: EarlyExitEntry | None = Field(
        None, description="Ends the thought once its answer is stable (cot)."
    )
    exchange: Joules | None = Field(
        None,
        description="Joules a percentage point of confidence is worth; dearer thought is not begun "
        "(cot).",
    )
    votes: int | None = Field(None, ge=1, le=64, description="Most answers drawn (default 7).")
    batch: int | None = Field(None, ge=1, le=64, description="Most decoded at a time (default 8).")
    stop: StopEntry | None = Field(None, description="When no further answers are drawn.")
    weight: Literal["none", "probability"] | None = Field(
        None, description="What a vote counts: one, or the probability of its answer."
    )
    temperature: float | None = Field(
        None, ge=0, le=5, description="0 takes the likeliest token; default 0, for vote 0.7."
    )
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus mass kept; 1 keeps all.")
    top_k: int = Field(40, ge=0, le=1_000_000, description="Candidates kept; 0 keeps all.")
    min_p: float = Field(0.05, ge=0, le=1, description="Least probability kept; 0 keeps all.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the draw.")
    max_joules: Joules | None = Field(
        None, description="The most one answer may spend; it then answers with what it has."
    )

    @model_validator(mode="after")
    def _keys_of_its_reasoning(self) -> Self:
        for key, ways in ONLY_OF.items():
            if getattr(self, key) is None:
                continue
            if self.reasoning not in ways:
                use = " or ".join(ways)
                refuse(f"{key} has no effect with reasoning: {self.reasoning}; use {use}", key)
        if self.reasoning == "cot" and self.think_tokens == 0:
            refuse("a thought of 0 tokens is none; write reasoning: direct", "think_tokens")
        if self.reasoning == "vote" and self.votes != 1 and self.temperature == 0:
            refuse("votes drawn at temperature 0 are all the same; give 0.7 or so", "temperature")
        return self

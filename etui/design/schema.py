"""The design file as pydantic models: its keys, types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from etui.bench.arms import ANSWER_TOKENS
from etui.bench.config import BLOCK
from etui.routing.schema.arms import ONLY_OF, EarlyExitEntry, ModelName, Name, StopEntry
from etui.yaml.load import Strict, refuse

VERSION = 1
"""The only version of designs so far."""

MOST_ARMS = 200

Line = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=4000)]
ThinkTokens = Annotated[int, Field(ge=0, le=100_000)]
Votes = Annotated[int, Field(ge=1, le=64)]
AnswerTokens = Annotated[int, Field(ge=1, le=100_000)]
PromptTokens = Annotated[int, Field(ge=1, le=1_000_000)]
OutputTokens = Annotated[int, Field(ge=2, le=1_000_000)]
StopRule = Literal["all", "lead", "flip", "adaptive"]

LISTED = ("votes", "think_tokens", "max_tokens")
"""Keys of an arm that may be lists, in the order in which their values name its arms."""


class DesignArmEntry(Strict):
    """One way to answer, for every role of `models`; a list makes one arm of each of its values."""

    model: Name | None = Field(
        None, description="The only role of `models` that answers so; without it, every role."
    )
    reasoning: Literal["direct", "cot", "vote"] = Field(
        "direct",
        description="direct answers without thinking; cot thinks first, within think_tokens; vote "
        "takes the majority of several answers.",
    )
    think_tokens: ThinkTokens | tuple[ThinkTokens, ...] | None = Field(
        None,
        description="Thinking budget in tokens (cot, vote; default 256), or a list of budgets; "
        "with 0 a vote answers without thinking.",
    )
    votes: Votes | tuple[Votes, ...] | None = Field(
        None, description="Maximum number of answers drawn (vote; default 7), or a list of them."
    )
    max_tokens: AnswerTokens | tuple[AnswerTokens, ...] = Field(
        ANSWER_TOKENS, description="Maximum tokens of the answer, thinking excluded, or a list."
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Maximum number of votes decoded together (vote; default 8); 1 draws them one "
        "by one, as the paper does.",
    )
    stop: StopRule | StopEntry | None = Field(
        None, description="When to stop drawing votes (vote; default flip): a rule, or a mapping."
    )
    weight: Literal["none", "probability"] | None = Field(
        None, description="Weight of a vote: one, or the probability of its answer."
    )
    style: Literal["auto", "plain", "draft", "native"] | None = Field(
        None, description="How thinking is requested (cot, vote); default auto."
    )
    early_exit: EarlyExitEntry | None = Field(
        None, description="Ends thinking once its answer is stable (cot)."
    )
    readout: Literal["text", "choices"] | None = Field(
        None,
        description="choices takes the option letter with the highest probability and decodes "
        "nothing (direct); default text.",
    )
    temperature: float | None = Field(
        None, ge=0, le=5, description="0 takes the most probable token; default 0, for vote 0.7."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Mass of the nucleus; default 0.95.")
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="Tokens kept; default 40.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Minimum relative probability of a token; default 0.05."
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        for key, ways in ONLY_OF.items():
            if getattr(self, key, None) is not None and self.reasoning not in ways:
                use = " or ".join(ways)
                refuse(f"{key} has no effect with reasoning: {self.reasoning}; use {use}", key)
        for key in LISTED:
            value = getattr(self, key)
            if isinstance(value, tuple):
                if not value:
                    refuse(f"{key} is empty, so that it makes no arm; list at least one value", key)
                if len(set(value)) < len(value):
                    refuse(f"{key} lists a value twice", key)
        if self.reasoning == "cot" and 0 in _as_tuple(self.think_tokens):
            refuse("think_tokens: 0 means no thinking; use reasoning: direct", "think_tokens")
        if self.reasoning == "vote" and self.temperature == 0 and _as_tuple(self.votes) != (1,):
            refuse("votes drawn at temperature 0 are identical; use about 0.7", "temperature")
        return self


class QuestionsEntry(Strict):
    """Which questions are asked, and how."""

    suite: Annotated[str, StringConstraints(min_length=1, max_length=1000)] = Field(
        description="mmlu, sample, another suite, or the path of a file beside this one."
    )
    split: Literal["test", "val", "dev"] = Field("test", description="Split of the questions.")
    format: str = Field("chat", description="Prompt format, as --format of etui bench.")
    shots: int | None = Field(
        None, ge=0, le=5, description="Number of worked examples; default: that of the format."
    )
    order: Literal["balanced"] = Field(
        "balanced", description="Every prefix of the run is a stratified random sample."
    )
    block: int = Field(
        BLOCK,
        ge=1,
        le=1000,
        description="Number of questions that every arm answers before the next ones are asked.",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the questions, of the orders and of the sampling."
    )


class CurvesEntry(Strict):
    """Lengths of the operating curves, measured in every combination between the blocks."""

    prompt_tokens: tuple[PromptTokens, ...] = Field(
        min_length=2, max_length=20, description="Prompt lengths, at least two."
    )
    output_tokens: tuple[OutputTokens, ...] = Field(
        min_length=2, max_length=20, description="Output lengths, at least two, each at least 2."
    )
    repeats: int = Field(3, ge=1, le=100, description="Measurements of each combination.")
    window_seconds: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Least seconds of a phase; a shorter one is repeated, since meters are slow.",
    )
    cool_down_seconds: float = Field(
        0.0, ge=0, le=600, description="Idle seconds before each measurement."
    )

    @field_validator("prompt_tokens", "output_tokens")
    @classmethod
    def _check_lengths(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(lengths)) < len(lengths):
            refuse("it lists a length twice")
        return lengths


class DesignFile(Strict):
    """A design: the arms of a study, its questions, and its operating curves."""

    version: int = Field(description="Version of the language: 1.")
    title: Line = Field(description="What the study measures, in a line.")
    summary: Text = Field("", description="What it is for.")
    models: Mapping[Name, tuple[ModelName, ...]] = Field(
        min_length=1,
        max_length=20,
        description="Role -> names in models.yaml in order of preference, smallest role first; the "
        "first one on this machine serves.",
    )
    arms: Mapping[Name, DesignArmEntry] = Field(
        min_length=1, max_length=MOST_ARMS, description="Ways to answer, each for every role."
    )
    questions: QuestionsEntry
    curves: CurvesEntry | None = Field(
        None, description="Operating curves to measure on the way; none without this key."
    )

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: int) -> int:
        if version != VERSION:
            refuse(f"unsupported version {version}; this etui reads version {VERSION}")
        return version

    @field_validator("models")
    @classmethod
    def _check_models(cls, models: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for role, names in models.items():
            if not names:
                refuse(f"role {role!r} has no models; list at least one", role)
        return models


def json_schema() -> dict[str, Any]:
    """Build the JSON Schema (2020-12) of a design file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etui bench design",
        **DesignFile.model_json_schema(by_alias=True),
    }


def _as_tuple(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)

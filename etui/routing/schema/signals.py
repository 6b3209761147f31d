"""Signals of the policy file: named facts, and the ranges in which they hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from etui.routing.schema.rules import ModelName, Name
from etui.routing.text_measures import MEASURES
from etui.yaml.load import Strict, refuse

BandName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)]
Keyword = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


class Bounds(Strict):
    """A range of numbers with at least one end."""

    at_least: float | None = Field(None, description="Holds for this number and above.")
    above: float | None = Field(None, description="Holds above this number.")
    at_most: float | None = Field(None, description="Holds for this number and below.")
    below: float | None = Field(None, description="Holds below this number.")

    def given(self) -> dict[str, float]:
        """Return the ends that are given, by name."""
        ends = ("at_least", "above", "at_most", "below")
        return {end: value for end in ends if (value := getattr(self, end)) is not None}

    def check_ends(self, *, wraps: bool = False) -> None:
        """Refuse two lower ends, two upper ends, and an empty range, unless it wraps (hours)."""
        ends = self.given()
        for one, other in (("at_least", "above"), ("at_most", "below")):
            if one in ends and other in ends:
                refuse(f"{one} and {other} cannot be combined; use one of them", other)
        low, high = _end(ends, "at_least", "above"), _end(ends, "at_most", "below")
        if low and high and not wraps:
            open_ended = "above" in ends or "below" in ends
            if low[1] > high[1] or (low[1] == high[1] and open_ended):
                refuse(f"no number is both {low[0]} {low[1]:g} and {high[0]} {high[1]:g}", high[0])


def _end(ends: Mapping[str, float], *names: str) -> tuple[str, float] | None:
    return next(((name, ends[name]) for name in names if name in ends), None)


class Range(Bounds):
    """The range of a number counted in the question."""

    def meets(self, other: Range) -> bool:
        """Check whether the two ranges overlap."""
        ends = [*self.given().items(), *other.given().items()]
        low = max((v for name, v in ends if name in ("at_least", "above")), default=-math.inf)
        high = min((v for name, v in ends if name in ("at_most", "below")), default=math.inf)
        touching_is_out = any(
            (name == "above" and v == low) or (name == "below" and v == high) for name, v in ends
        )
        return low < high or (low == high and not touching_is_out)

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.given():
            refuse("give at_least, above, at_most or below, as in {at_least: 3}")
        self.check_ends()
        return self


class NearestEntry(Strict):
    """Which earlier questions are searched, and which of them are counted."""

    of: Literal["log", "runs"] = Field(
        description="log: answered turns of the log; runs: graded questions of bench runs."
    )
    by: Name | None = Field(
        None,
        description="An arm. With of: log (required there), its answers are counted; with of: "
        "runs, only its answers are searched.",
    )
    was: Literal["correct", "wrong"] | None = Field(
        None, description="With of: runs, which answers are counted (default wrong)."
    )
    k: int = Field(50, ge=5, le=1000, description="Number of most similar questions to look at.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.of == "log" and self.was is not None:
            refuse("turns in the log are not graded; use `was` with of: runs", "was")
        if self.of == "log" and self.by is None:
            refuse("name the arm whose answers are counted, as in {of: log, by: large}")
        return self


MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataText = Annotated[str, StringConstraints(max_length=512)]
"""Limits of the OpenAI API."""


class MetadataEntry(Strict):
    """What a key of a request's metadata has to be; only requests of `etui serve` have any."""

    key: MetadataKey = Field(description="The key.")
    equals: MetadataText | None = Field(None, description="Its value.")
    one_of: tuple[MetadataText, ...] | None = Field(
        None, min_length=1, max_length=100, description="Its possible values."
    )
    matches: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="A regular expression that is found in its value.",
    )
    exists: bool | None = Field(None, description="true: the request has the key.")

    @model_validator(mode="after")
    def _check_test(self) -> Self:
        tests = ("equals", "one_of", "matches", "exists")
        given = [test for test in tests if getattr(self, test) is not None]
        if not given:
            refuse("say what it has to be: equals, one_of, matches, or exists: true")
        if len(given) > 1:
            refuse(f"{given[0]} and {given[1]} in one signal; use one of them", given[1])
        if self.exists is False:
            refuse(
                "exists: false has no effect; use exists: true, and {not: SIGNAL} in the rule",
                "exists",
            )
        return self


HostField = Literal[
    "battery_percent",
    "hour",
    "free_memory_gb",
    "gpu_free_memory_gb",
    "gpu_temperature",
    "watts",
    "on_battery",
    "resident",
]


class SignalEntry(Bounds):
    """A named fact about the query or the machine, of exactly one kind."""

    keywords: tuple[Keyword, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Whole words or phrases, case-insensitive; the bound applies to the number of "
        "different ones found (default at_least: 1).",
    )
    regex: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="A regular expression; the bound applies to the number of its matches "
        "(default at_least: 1).",
    )
    language: str | None = Field(None, description="Code of the question's language, as in de.")
    score: Mapping[Name, float] | None = Field(
        None,
        min_length=1,
        description="Other signals and their weights; the score is the sum of the weights of those "
        "that hold.",
    )
    bands: Mapping[BandName, Range] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="With a score: a name for each part of its range; conditions refer to it as "
        "SIGNAL.BAND.",
    )
    nearest: NearestEntry | None = Field(
        None,
        description="The earlier questions most similar to this one; the bound applies to the "
        "share of them that is counted.",
    )
    metadata: MetadataEntry | None = Field(
        None, description="A fact that the client of `etui serve` gives with its request."
    )
    host: HostField | None = Field(None, description="A fact about the machine.")
    equals: ModelName | None = Field(
        None,
        alias="is",
        description="With host: resident, the role or model that must be in memory.",
    )
    tokens: Range | None = Field(None, description="Length of the question in tokens.")
    chat_tokens: Range | None = Field(None, description="Length of the conversation in tokens.")
    characters: Range | None = Field(None, description="Length of the question in characters.")
    words: Range | None = Field(None, description="Number of words.")
    sentences: Range | None = Field(None, description="Number of sentence ends.")
    lines: Range | None = Field(None, description="Number of lines.")
    turns: Range | None = Field(None, description="Questions in the chat, this one included.")
    options: Range | None = Field(None, description="Options A), B), ... of a multiple choice.")
    question_marks: Range | None = Field(None, description="Number of question marks.")
    question_words: Range | None = Field(
        None, description="Number of question words: what, which, who, how, why, ..."
    )
    negations: Range | None = Field(
        None, description="Number of negations: not, except, never, ..."
    )
    statements: Range | None = Field(
        None, description="Number of statements: 'Statement 1', or lines I., II., ..."
    )
    blanks: Range | None = Field(None, description="Number of blanks ___ to fill in.")
    digits: Range | None = Field(None, description="Number of digits.")
    numbers: Range | None = Field(None, description="Number of runs of digits.")
    math_symbols: Range | None = Field(
        None, description="Number of symbols such as =, +, ^, √, \\frac."
    )
    code_blocks: Range | None = Field(
        None, description="Number of blocks between ``` fences; text, txt, md, rst, log are prose."
    )
    mean_word_length: Range | None = Field(None, description="Mean letters per word.")

    def kinds(self) -> list[str]:
        """Return the kinds that are given; a valid entry has one."""
        names = ("keywords", "regex", "language", "score", "host", "nearest", "metadata", *MEASURES)
        return [name for name in names if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The kind of the signal."""
        return self.kinds()[0]

    @model_validator(mode="after")
    def _check_kind_and_bounds(self) -> Self:
        kinds = self.kinds()
        if not kinds:
            refuse(
                "a signal needs a kind: keywords, regex, tokens, options, language, score, "
                "nearest, metadata, host"
            )
        if len(kinds) > 1:
            refuse(f"{kinds[0]} and {kinds[1]} in one signal; split it into two signals", kinds[1])
        (kind,) = kinds
        bounds = self.given()
        words = ("language", "metadata")
        if bounds and (kind in MEASURES or kind in words or self._is_yes_or_no()):
            end, value = next(iter(bounds.items()))
            if kind in MEASURES:
                refuse(
                    f"`{end}` belongs under `{kind}`, as in {{{kind}: {{{end}: {value:g}}}}}", end
                )
            refuse(f"{end} has no effect: this signal is not a number", end)
        if self.bands is not None:
            self._check_bands(kind)
        elif not bounds and (
            kind in ("score", "nearest") or (kind == "host" and not self._is_yes_or_no())
        ):
            refuse(f"give a bound, as in {{{kind}: ..., at_least: 0.5}}", kind)
        if self.equals is not None and self.host != "resident":
            refuse("`is` has an effect only with host: resident", "is")
        if self.host == "resident" and self.equals is None:
            refuse("name the model, as in {host: resident, is: large}", "host")
        self.check_ends(wraps=self.host == "hour")
        return self

    def _check_bands(self, kind: str) -> None:
        if kind != "score":
            refuse(f"bands need a score; they have no effect with {kind}", "bands")
        if self.given():
            refuse(
                "bands and a bound cannot be combined; turn the bound into a band",
                next(iter(self.given())),
            )
        bands = list((self.bands or {}).items())
        for index, (name, band) in enumerate(bands):
            for other, earlier in bands[:index]:
                if band.meets(earlier):
                    refuse(f"bands '{other}' and '{name}' overlap", "bands", name)

    def _is_yes_or_no(self) -> bool:
        return self.host in ("on_battery", "resident")

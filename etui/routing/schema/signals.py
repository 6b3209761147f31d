"""Signals of the policy file: named facts, and the ranges they are asked to lie in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from etui.routing.schema.arms import Name
from etui.routing.signals.text_measures import MEASURES
from etui.yaml.load import Strict, refuse

BandName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)]
Keyword = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


class Bounds(Strict):
    """A range of numbers; at least one end is given."""

    at_least: float | None = Field(None, description="Holds from this number on.")
    above: float | None = Field(None, description="Holds above this number.")
    at_most: float | None = Field(None, description="Holds up to this number.")
    below: float | None = Field(None, description="Holds below this number.")

    def given(self) -> dict[str, float]:
        """The ends that are given, by name."""
        ends = ("at_least", "above", "at_most", "below")
        return {end: value for end in ends if (value := getattr(self, end)) is not None}

    def check_ends(self, *, wraps: bool = False) -> None:
        """Refuse two lower ends, two upper ends, and a range that nothing lies in."""
        ends = self.given()
        for one, other in (("at_least", "above"), ("at_most", "below")):
            if one in ends and other in ends:
                refuse(f"{one} and {other} together; give one of them", other)
        low, high = _end(ends, "at_least", "above"), _end(ends, "at_most", "below")
        if low and high and not wraps:
            open_ended = "above" in ends or "below" in ends
            if low[1] > high[1] or (low[1] == high[1] and open_ended):
                refuse(f"no number is {low[0]} {low[1]:g} and {high[0]} {high[1]:g}", high[0])


def _end(ends: Mapping[str, float], *names: str) -> tuple[str, float] | None:
    return next(((name, ends[name]) for name in names if name in ends), None)


class Range(Bounds):
    """The range of a counted thing."""

    def meets(self, other: Range) -> bool:
        """Whether some number lies in both."""
        ends = [*self.given().items(), *other.given().items()]
        low = max((v for name, v in ends if name in ("at_least", "above")), default=-math.inf)
        high = min((v for name, v in ends if name in ("at_most", "below")), default=math.inf)
        touching_is_out = any(
            (name == "above" and v == low) or (name == "below" and v == high) for name, v in ends
        )
        return low < high or (low == high and not touching_is_out)

    @model_validator(mode="after")
    def _some_end(self) -> Self:
        if not self.given():
            refuse("give at_least, above, at_most or below, as in {at_least: 3}")
        self.check_ends()
        return self


class NearestEntry(Strict):
    """Which earlier questions are looked at, and what is counted of them."""

    of: Literal["log", "runs"] = Field(
        description="log: turns that were answered; runs: graded questions of bench runs."
    )
    by: Name | None = Field(
        None,
        description="An arm: of the log, what it answered is counted (needed there); of runs, only "
        "its answers are looked at.",
    )
    was: Literal["correct", "wrong"] | None = Field(
        None, description="Of runs: which answers are counted (default wrong)."
    )
    k: int = Field(50, ge=5, le=1000, description="Most similar questions looked at.")

    @model_validator(mode="after")
    def _what_it_counts(self) -> Self:
        if self.of == "log" and self.was is not None:
            refuse("nobody graded the turns of the log; `was` goes with of: runs", "was")
        if self.of == "log" and self.by is None:
            refuse("say whose answers are counted, as in {of: log, by: large}")
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
    """A named fact about the query or the machine; exactly one kind of it."""

    keywords: tuple[Keyword, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Words or phrases, whole and without regard to case; the number of different "
        "ones found is bounded, by at_least: 1 if nothing else is said.",
    )
    regex: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="A pattern; the number of its matches is bounded, by at_least: 1 if nothing "
        "else is said.",
    )
    language: str | None = Field(None, description="Code of the question's language, as in de.")
    score: Mapping[Name, float] | None = Field(
        None,
        min_length=1,
        description="Other signals and their weights; the weights of those that hold are added.",
    )
    bands: Mapping[BandName, Range] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="With a score: a name for each part of its range; a condition names it as "
        "SIGNAL.BAND.",
    )
    nearest: NearestEntry | None = Field(
        None,
        description="Earlier questions most like this one; the share of them that is counted is "
        "bounded.",
    )
    host: HostField | None = Field(None, description="A fact about the machine.")
    equals: Name | None = Field(
        None,
        alias="is",
        description="With host: resident, a role or a model; it is the one in memory.",
    )
    tokens: Range | None = Field(None, description="Length of the question in tokens.")
    chat_tokens: Range | None = Field(None, description="Length of the conversation in tokens.")
    characters: Range | None = Field(None, description="Length of the question in characters.")
    words: Range | None = Field(None, description="Words of the question.")
    sentences: Range | None = Field(None, description="Sentence ends.")
    lines: Range | None = Field(None, description="Lines of the question.")
    turns: Range | None = Field(None, description="Questions of the chat, this one included.")
    options: Range | None = Field(None, description="Options A), B), ... of a multiple choice.")
    question_marks: Range | None = Field(None, description="Question marks.")
    question_words: Range | None = Field(None, description="what, which, who, how, why, ...")
    negations: Range | None = Field(None, description="not, except, never, ...")
    statements: Range | None = Field(None, description="'Statement 1', or lines I., II., ...")
    blanks: Range | None = Field(None, description="Blanks ___ to fill in.")
    digits: Range | None = Field(None, description="Digits.")
    numbers: Range | None = Field(None, description="Runs of digits.")
    math_symbols: Range | None = Field(None, description="Signs such as =, +, ^, √, \\frac.")
    code_blocks: Range | None = Field(None, description="Blocks between ``` fences.")
    mean_word_length: Range | None = Field(None, description="Letters per word.")

    def kinds(self) -> list[str]:
        """The kinds that are given; a valid entry has one."""
        names = ("keywords", "regex", "language", "score", "host", "nearest", *MEASURES)
        return [name for name in names if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The one kind it has."""
        return self.kinds()[0]

    @model_validator(mode="after")
    def _one_kind_with_its_bounds(self) -> Self:
        kinds = self.kinds()
        if not kinds:
            refuse(
                "a signal needs a kind: keywords, regex, tokens, options, language, score, "
                "nearest, host"
            )
        if len(kinds) > 1:
            refuse(f"{kinds[0]} and {kinds[1]} in one signal; make two signals of it", kinds[1])
        (kind,) = kinds
        bounds = self.given()
        if bounds and (kind in MEASURES or kind == "language" or self._is_yes_or_no()):
            end, value = next(iter(bounds.items()))
            if kind in MEASURES:
                refuse(f"{end} belongs below {kind}, as in {{{kind}: {{{end}: {value:g}}}}}", end)
            refuse(f"{end} has no effect: this signal is no number", end)
        if self.bands is not None:
            self._check_bands(kind)
        elif not bounds and (
            kind in ("score", "nearest") or (kind == "host" and not self._is_yes_or_no())
        ):
            refuse(f"give a bound, as in {{{kind}: ..., at_least: 0.5}}", kind)
        if self.equals is not None and self.host != "resident":
            refuse("`is` goes with host: resident only", "is")
        if self.host == "resident" and self.equals is None:
            refuse("say which model, as in {host: resident, is: large}", "host")
        self.check_ends(wraps=self.host == "hour")
        return self

    def _check_bands(self, kind: str) -> None:
        if kind != "score":
            refuse(f"bands go with a score, not with {kind}", "bands")
        if self.given():
            refuse("bands and a bound of the whole; make a band of it", next(iter(self.given())))
        bands = list((self.bands or {}).items())
        for index, (name, band) in enumerate(bands):
            for other, earlier in bands[:index]:
                if band.meets(earlier):
                    refuse(f"bands '{other}' and '{name}' overlap", "bands", name)

    def _is_yes_or_no(self) -> bool:
        return self.host in ("on_battery", "resident")

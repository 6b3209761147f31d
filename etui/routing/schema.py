"""The policy file as pydantic models: what may stand where, and in which range.

What one file must agree on with itself and with the machine (names, order, reachability) is checked
in ``etui.routing.check``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from etui.routing.arm_schema import NOT_YET, ArmEntry, Name
from etui.routing.features import MEASURES
from etui.yamlfile import Strict, refuse

VERSION = 1
"""The only version of the language so far."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Keyword = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


def _later(instead: str, *keys: str) -> Mapping[str, str]:
    return dict.fromkeys(keys, f"{NOT_YET}; {instead}")


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

    @model_validator(mode="after")
    def _some_end(self) -> Self:
        if not self.given():
            refuse("give at_least, above, at_most or below, as in {at_least: 3}")
        self.check_ends()
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

    later: ClassVar = _later("use keywords, regex or a score", "nearest")

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
        names = ("keywords", "regex", "language", "score", "host", *MEASURES)
        return [name for name in names if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The one kind it has."""
        return self.kinds()[0]

    @model_validator(mode="after")
    def _one_kind_with_its_bounds(self) -> Self:
        kinds = self.kinds()
        if not kinds:
            refuse("a signal needs a kind: keywords, regex, tokens, options, language, score, host")
        if len(kinds) > 1:
            refuse(f"{kinds[0]} and {kinds[1]} in one signal; make two signals of it", kinds[1])
        (kind,) = kinds
        bounds = self.given()
        if bounds and (kind in MEASURES or kind == "language" or self._is_yes_or_no()):
            end, value = next(iter(bounds.items()))
            if kind in MEASURES:
                refuse(f"{end} belongs below {kind}, as in {{{kind}: {{{end}: {value:g}}}}}", end)
            refuse(f"{end} has no effect: this signal is no number", end)
        if not bounds and (kind == "score" or (kind == "host" and not self._is_yes_or_no())):
            refuse(f"give a bound, as in {{{kind}: ..., at_least: 0.5}}", kind)
        if self.equals is not None and self.host != "resident":
            refuse("`is` goes with host: resident only", "is")
        if self.host == "resident" and self.equals is None:
            refuse("say which model, as in {host: resident, is: large}", "host")
        self.check_ends(wraps=self.host == "hour")
        return self

    def _is_yes_or_no(self) -> bool:
        return self.host in ("on_battery", "resident")


class Tree(Strict):
    """One of all, any, not."""

    all: tuple[Condition, ...] | None = Field(None, min_length=1, max_length=100)
    any: tuple[Condition, ...] | None = Field(None, min_length=1, max_length=100)
    negated: Condition | None = Field(None, alias="not")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("all", "any", "negated") if getattr(self, key) is not None]
        if len(given) != 1:
            refuse(
                "one of all, any, not; nest them to combine, as in {all: [a, {not: b}]}",
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


class RuleEntry(Strict):
    """When its condition holds, its arm answers."""

    later: ClassVar = _later(
        "end the rule in `use: ARM`",
        *("cascade", "objective", "arms", "switch_margin_joules", "otherwise"),
    )

    name: Name
    priority: int = Field(
        0, ge=-1_000_000, le=1_000_000, description="Higher ones are tried first."
    )
    when: Condition | None = Field(
        None, description="The condition; the last rule has none and takes every question."
    )
    use: Name = Field(description="The arm that answers.")


class ProbeHost(Strict):
    """The machine a probe imagines; what is left out is not known."""

    battery_percent: float | None = None
    on_battery: bool | None = None
    hour: float | None = Field(None, ge=0, lt=24)
    free_memory_gb: float | None = None
    gpu_free_memory_gb: float | None = None
    gpu_temperature: float | None = None
    watts: float | None = None
    resident: Name | None = None


class ProbeEntry(Strict):
    """A question and what must come of it: a test of the policy."""

    query: Text
    rule: Name | None = Field(None, description="The rule that must match.")
    not_rule: Name | None = Field(None, description="A rule that must not match.")
    arm: Name | None = Field(None, description="The arm that must answer.")
    not_arm: Name | None = Field(None, description="An arm that must not answer.")
    signals: Mapping[Name, bool] | None = Field(
        None, min_length=1, description="Signals that must hold (true) or must not (false)."
    )
    host: ProbeHost | None = Field(None, description="The state of the machine.")

    @model_validator(mode="after")
    def _expects_something(self) -> Self:
        if all(getattr(self, k) is None for k in ("rule", "not_rule", "arm", "not_arm", "signals")):
            refuse("a probe expects something: rule, not_rule, arm, not_arm or signals")
        return self


class ShadowEntry(Strict):
    """A policy on trial: it decides every question too, and nothing follows from it."""

    policy: Name = Field(description="Its name.")


class PolicyFile(Strict):
    """A routing policy: signals, arms, and the rules that lead from the one to the other."""

    later: ClassVar = _later("leave it out", "budgets", "fallbacks")

    version: int = Field(description="Version of the language: 1.")
    description: str = Field("", max_length=500, description="One line for `etui policy list`.")
    models: Mapping[Name, Annotated[tuple[Name, ...], Field(min_length=1, max_length=50)]] = Field(
        default_factory=dict,
        description="Role -> names in models.yaml, best first; the first that is on this machine "
        "serves.",
    )
    arms: Mapping[Name, ArmEntry] = Field(min_length=1, description="Arm -> how it answers.")
    signals: Mapping[Name, SignalEntry] = Field(
        default_factory=dict, description="Signal -> the fact it stands for."
    )
    rules: tuple[RuleEntry, ...] = Field(
        min_length=1,
        max_length=2000,
        description="Tried by priority, highest first; equal ones in the order of the file.",
    )
    shadow: ShadowEntry | None = Field(
        None, description="Another policy whose decisions are logged beside this one's."
    )
    probes: tuple[ProbeEntry, ...] = Field(
        (), max_length=2000, description="Tests of the policy: `etui policy test`."
    )

    @field_validator("version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        if version != VERSION:
            refuse(f"version {version} is not known here; this etui reads version {VERSION}")
        return version


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a policy file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etui routing policy",
        **PolicyFile.model_json_schema(by_alias=True),
    }

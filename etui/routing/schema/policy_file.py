"""The policy file as pydantic models: its keys, types and ranges.

Consistency within the file and with the machine (names, order, reachability) is checked in
``etui.routing.check``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from etui.routing.decision import EFFORTS, OnContextOverflow, OnNoAnswer, WhenSpent
from etui.routing.schema.rules import ArmEntry, Joules, ModelName, Name, RuleEntry
from etui.routing.schema.signals import MetadataText, SignalEntry
from etui.yaml.load import Strict, refuse


class TurnBudgetEntry(Strict):
    """The most one turn may spend, all arms that answer in it together."""

    joules: Joules | None = Field(None, description="Gross joules, model load excluded.")
    tokens: int | None = Field(None, ge=1, le=1_000_000, description="Output tokens.")
    seconds: float | None = Field(None, gt=0, le=1e6, description="Seconds, model load excluded.")
    when_exceeded: Literal["answer_now"] = Field(
        "answer_now", description="The turn ends early and answers with what it has."
    )

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.joules is None and self.tokens is None and self.seconds is None:
            refuse("a budget needs a limit: joules, tokens or seconds")
        return self


class PeriodBudgetEntry(Strict):
    """The most that all turns of a period may spend together."""

    joules: Joules = Field(description="Gross joules of the turns and model loads of the period.")
    when_exceeded: WhenSpent = Field(
        "degrade",
        description="degrade answers with the cheapest arm, ask requires confirmation, refuse does "
        "not answer.",
    )


class BudgetsEntry(Strict):
    """Budgets of a turn, of the last hour and of the day."""

    turn: TurnBudgetEntry | None = Field(None, description="Budget of one turn.")
    hour: PeriodBudgetEntry | None = Field(None, description="Budget of the last hour.")
    day: PeriodBudgetEntry | None = Field(None, description="Budget of the day.")
    degrade_to: Name | None = Field(
        None,
        description="Arm that answers once the hourly or daily budget is spent; default: the arm "
        "expected to spend least.",
    )

    @model_validator(mode="after")
    def _check_budgets(self) -> Self:
        if self.turn is None and self.hour is None and self.day is None:
            refuse("budgets needs turn, hour or day, as in {turn: {joules: 400}}")
        periods = [entry for entry in (self.hour, self.day) if entry is not None]
        if self.degrade_to is not None and all(e.when_exceeded != "degrade" for e in periods):
            refuse(
                "degrade_to has no effect: no hour or day has when_exceeded: degrade", "degrade_to"
            )
        return self


class FallbacksEntry(Strict):
    """What to do when an answer cannot be produced as planned."""

    load_failed: Name | None = Field(
        None, description="Arm that answers when the model of another cannot be loaded."
    )
    context_overflow: OnContextOverflow = Field(
        "truncate_thought",
        description="What to cut when question and thinking do not fit into the context.",
    )
    no_answer: OnNoAnswer = Field(
        "keep", description="What to do when a multiple choice or a vote yields no answer."
    )


class AuditJoulesEntry(Strict):
    """The most that the audits of a day may spend together."""

    day: Joules = Field(
        description="Gross joules of the audits of a day and of the model loads for them."
    )
    reserve: Joules | None = Field(
        None,
        description=(
            "Joules that must be left of the day for a load that was never measured on this "
            "machine. Default: half of `day`."
        ),
    )

    @model_validator(mode="after")
    def _check_reserve(self) -> AuditJoulesEntry:
        if self.reserve is not None and self.reserve >= self.day:
            refuse(
                f"`reserve` ({self.reserve:g} J) must be less than `day` ({self.day:g} J), "
                "or no audit begins"
            )
        return self


class AuditEntry(Strict):
    """A drawn share of the turns is answered by one more arm, while nothing else runs."""

    share: float = Field(
        description="Share of the turns that are drawn, above 0 and at most 1.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 1},
    )
    arm: Name = Field(description="The arm that answers the drawn turns as well.")
    joules: AuditJoulesEntry = Field(description="What the audits of a day may spend.")
    when: Literal["cheap", "clean"] | None = Field(
        None,
        description="Wait for the time of the next 24 hours at which electricity is cheapest, or "
        "has the least carbon, by the tariff of config.yaml.",
    )

    @field_validator("share")
    @classmethod
    def _check_share(cls, share: float) -> float:
        if share == 0:
            refuse("a share of 0 audits nothing; write `audit: off`")
        if not 0 < share <= 1:
            refuse(f"the share of audited turns is above 0 and at most 1, not {share:g}")
        return share


def _find_branch(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping | AuditEntry) else "word"


def _check_word(value: Any) -> Any:
    if value != "off":
        refuse("audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}")
    return value


Audit = Annotated[
    Annotated[AuditEntry, Tag("mapping")]
    | Annotated[Literal["off"], BeforeValidator(_check_word), Tag("word")],
    Discriminator(_find_branch),
]
"""The entry, or ``off``; errors are those of the branch that was written."""

VERSION = 1
"""The only version of the policy language so far."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


class ProbeHost(Strict):
    """The assumed state of the machine; a field left out is unknown."""

    battery_percent: float | None = None
    on_battery: bool | None = None
    hour: float | None = Field(None, ge=0, lt=24)
    free_memory_gb: float | None = None
    gpu_free_memory_gb: float | None = None
    gpu_temperature: float | None = None
    watts: float | None = None
    resident: ModelName | None = None


class ProbeMessage(Strict):
    """One message of the chat that a question belongs to."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ProbeEntry(Strict):
    """A test of the policy: a question and the decision expected for it."""

    query: Text | None = Field(None, description="The question; or give `messages`.")
    messages: tuple[ProbeMessage, ...] | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="A chat that ends with the question, in place of `query`.",
    )
    metadata: Mapping[str, MetadataText] | None = Field(
        None, min_length=1, description="Metadata of the request, by key."
    )
    rule: Name | None = Field(None, description="The rule that must match.")
    not_rule: Name | None = Field(None, description="A rule that must not match.")
    arm: Name | None = Field(None, description="The arm that must answer.")
    not_arm: Name | None = Field(None, description="An arm that must not answer.")
    signals: Mapping[Name, bool] | None = Field(
        None, min_length=1, description="Signals that must hold (true) or must not (false)."
    )
    host: ProbeHost | None = Field(None, description="The state of the machine.")

    @model_validator(mode="after")
    def _check_expectations(self) -> Self:
        if all(getattr(self, k) is None for k in ("rule", "not_rule", "arm", "not_arm", "signals")):
            refuse("a probe needs an expectation: rule, not_rule, arm, not_arm or signals")
        if (self.query is None) == (self.messages is None):
            refuse("a probe needs either query or messages")
        if self.messages is not None:
            if self.messages[-1].role != "user":
                refuse("the last message is the question, so its role is user", "messages")
            if any(message.role == "system" for message in self.messages[1:]):
                refuse("only the first message can have the role system", "messages")
        return self


class CaseEntry(ProbeEntry):
    """A line of a cases file: a probe with a name, tags and a group."""

    id: Name | None = Field(None, description="A name that no other case has.")
    tags: tuple[Name, ...] = Field(
        (), max_length=20, description="What the case tests: paraphrase, negative, collision, ..."
    )
    group: Name | None = Field(None, description="Cases that ask the same in other words.")


class ShadowEntry(Strict):
    """A policy on trial: it decides every question too, but its decisions are only logged."""

    policy: Name = Field(description="Name of the policy.")


Candidates = Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=50)]


class PolicyFile(Strict):
    """A routing policy: signals, arms, and the rules that lead from signals to arms."""

    version: int = Field(description="Version of the language: 1.")
    description: str = Field("", max_length=500, description="One line for `etui policy list`.")
    models: Mapping[Name, Candidates] = Field(
        default_factory=dict,
        description="Role -> names in models.yaml, best first; the first one on this machine is "
        "used.",
    )
    arms: Mapping[Name, ArmEntry] = Field(min_length=1, description="Arm -> how it answers.")
    signals: Mapping[Name, SignalEntry] = Field(
        default_factory=dict, description="Signal -> the fact it represents."
    )
    rules: tuple[RuleEntry, ...] = Field(
        min_length=1,
        max_length=2000,
        description="Tried by priority, highest first; equal ones in the order of the file.",
    )
    budgets: BudgetsEntry | None = Field(None, description="What may be spent.")
    fallbacks: FallbacksEntry | None = Field(
        None, description="What to do when an answer cannot be produced as planned."
    )
    efforts: Mapping[str, Name] = Field(
        default_factory=dict,
        description="Reasoning effort that a client of `etui serve` asks for -> arm that answers; "
        "efforts: none, minimal, low, medium, high, xhigh, max.",
        json_schema_extra={"propertyNames": {"enum": list(EFFORTS)}},
    )
    shadow: ShadowEntry | None = Field(
        None, description="Another policy whose decisions are logged next to this one's."
    )
    audit: Audit = Field(
        "off",
        description="Answers of another arm to a drawn share of the turns, made while nothing else "
        "runs, from which `etui policy fit --log` learns.",
    )
    probes: tuple[ProbeEntry, ...] = Field(
        (), max_length=2000, description="Tests of the policy: `etui policy test`."
    )

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: int) -> int:
        if version != VERSION:
            refuse(f"unsupported version {version}; this etui reads version {VERSION}")
        return version


def json_schema() -> dict[str, Any]:
    """Build the JSON Schema (2020-12) of a policy file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etui routing policy",
        **PolicyFile.model_json_schema(by_alias=True),
    }

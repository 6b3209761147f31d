"""The policy file as pydantic models: what may stand where, and in which range.

What one file must agree on with itself and with the machine (names, order, reachability) is checked
in ``etui.routing.check.checker``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from etui.routing.schema.arms import ArmEntry, Name
from etui.routing.schema.budgets import BudgetsEntry, FallbacksEntry
from etui.routing.schema.rules import RuleEntry
from etui.routing.schema.signals import SignalEntry
from etui.yaml.load import Strict, refuse

VERSION = 1
"""The only version of the language so far."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


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
    budgets: BudgetsEntry | None = Field(None, description="What may be spent.")
    fallbacks: FallbacksEntry | None = Field(
        None, description="What follows when an answer cannot be had as planned."
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

"""Audits in the policy file: which share of the turns another arm answers as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from etui.routing.schema.arms import Joules, Name
from etui.yaml.load import Strict, refuse


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

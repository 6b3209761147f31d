"""Budgets and fallbacks of the policy file: what a turn, an hour and a day may spend."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from etui.routing.limits import OnContextOverflow, OnNoAnswer, WhenSpent
from etui.routing.schema.arms import Joules, Name
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

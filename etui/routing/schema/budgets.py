"""Budgets and fallbacks of the policy file: what a turn, an hour and a day may spend."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from etui.routing.limits import OnContextOverflow, OnNoAnswer, WhenSpent
from etui.routing.schema.arms import Joules, Name
from etui.yaml.load import Strict, refuse


class TurnBudgetEntry(Strict):
    """The most one turn may spend, over all arms that answer in it."""

    joules: Joules | None = Field(None, description="Gross joules, the load excluded.")
    tokens: int | None = Field(None, ge=1, le=1_000_000, description="Output tokens.")
    seconds: float | None = Field(None, gt=0, le=1e6, description="Seconds, the load excluded.")
    when_exceeded: Literal["answer_now"] = Field(
        "answer_now", description="The turn answers with what it has."
    )

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.joules is None and self.tokens is None and self.seconds is None:
            refuse("a budget needs a limit: joules, tokens or seconds")
        return self


class PeriodBudgetEntry(Strict):
    """The most all turns of a period may spend together."""

    joules: Joules = Field(description="Gross joules of its turns and loads.")
    when_exceeded: WhenSpent = Field(
        "degrade",
        description="degrade answers with the cheapest arm, ask asks first, refuse answers "
        "nothing.",
    )


class BudgetsEntry(Strict):
    """Budgets of a turn, of the last hour and of the day."""

    turn: TurnBudgetEntry | None = Field(None, description="Of one turn.")
    hour: PeriodBudgetEntry | None = Field(None, description="Of the last hour.")
    day: PeriodBudgetEntry | None = Field(None, description="Of the day.")
    degrade_to: Name | None = Field(
        None,
        description="Arm that answers once an hour or day is spent; default the one expected to "
        "spend least.",
    )

    @model_validator(mode="after")
    def _some_budget(self) -> Self:
        if self.turn is None and self.hour is None and self.day is None:
            refuse("budgets: give turn, hour or day, as in {turn: {joules: 400}}")
        periods = [entry for entry in (self.hour, self.day) if entry is not None]
        if self.degrade_to is not None and all(e.when_exceeded != "degrade" for e in periods):
            refuse("degrade_to has no effect: no hour or day degrades", "degrade_to")
        return self


class FallbacksEntry(Strict):
    """What follows when an answer cannot be had as planned."""

    load_failed: Name | None = Field(
        None, description="Arm that answers when the model of another cannot be loaded."
    )
    context_overflow: OnContextOverflow = Field(
        "truncate_thought", description="What gives way when question and thought do not fit."
    )
    no_answer: OnNoAnswer = Field(
        "keep", description="What follows when a choice or a vote came to no answer."
    )

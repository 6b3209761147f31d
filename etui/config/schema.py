"""The schema of the user's ``config.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from etui.yaml.load import Strict, refuse

Watts = Annotated[float, Field(ge=0, le=10_000)]


class Settings(Strict):
    """What a user may set in ``config.yaml``; every key may be left out."""

    policy: str = Field(
        "balanced",
        min_length=1,
        description="The policy that routes when none is named: a shipped one, one in "
        "ETUI_HOME/policies, or a file.",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="The model that answers every question without a policy being asked.",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads of llama.cpp; default: the physical cores."
    )
    context_tokens: int | None = Field(
        None,
        ge=128,
        le=10_000_000,
        description="The most tokens a context may hold, to save memory; default: the model's own.",
    )
    keep_warm_seconds: float | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="How long the app keeps a model in memory after its last answer; default: "
        "until another model needs the memory.",
    )
    sample_hz: float = Field(
        20.0, gt=0, le=200, description="Readings a second of every power channel."
    )
    cpu_idle_watts: Watts | None = Field(
        None, description="Power of the idle CPU, the lower end of the labelled estimate."
    )
    cpu_limit_watts: Watts | None = Field(
        None, description="Power of the fully used CPU, the upper end of the labelled estimate."
    )
    estimate: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: estimate only where nothing can be measured; always: show the estimate "
        "beside what is measured; never: leave it unmeasured.",
    )
    carbon_g_per_kwh: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Grams of CO2 equivalent of a kilowatt-hour where you are; without it no "
        "carbon is shown.",
    )
    price_per_kwh: float | None = Field(
        None, ge=0, description="Price of a kilowatt-hour; without it no cost is shown."
    )
    currency: str = Field("", max_length=8, description="Currency of the price.")
    theme: str = Field(
        "etui-dark",
        min_length=1,
        description="Theme of the app: etui-dark, etui-light, or one of Textual's.",
    )
    quiet: bool = Field(
        False, description="Begin in quiet mode: the app draws less often, to draw less power."
    )
    ascii: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: the app draws with ASCII alone where the locale cannot show Unicode.",
    )
    keymap: Mapping[str, str] = Field(
        default_factory=dict,
        description="Binding of the app -> the keys that trigger it, separated by commas.",
    )

    @model_validator(mode="after")
    def _watts_in_order(self) -> Settings:
        idle, limit = self.cpu_idle_watts, self.cpu_limit_watts
        if idle is not None and limit is not None and limit <= idle:
            refuse(
                f"cpu_limit_watts must be greater than cpu_idle_watts ({idle:g}), found {limit:g}",
                "cpu_limit_watts",
            )
        return self

"""The schema of the user's ``config.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from etui.config.backend_spec import (
    BackendKind,
    BackendSpec,
    EnergyUnit,
    WallMeterSpec,
    WallMeterType,
    find_url_problem,
    is_exposed,
)
from etui.config.week_prices import parse_week
from etui.yaml.load import Strict, refuse

LEAST_PANEL_COLUMNS = 46
"""Fewer columns cut the rows of the panel's channels."""

_LEAST_HZ = 0.001
"""A reading every quarter of an hour; the period of a slower one need not fit into an integer."""
Watts = Annotated[float, Field(ge=0, le=10_000)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Wait = Annotated[float, Field(gt=0, le=86_400)]
Seconds = Annotated[float, Field(ge=1, le=10_000_000)]
Price = Annotated[float, Field(ge=-1_000_000_000, le=1_000_000_000, allow_inf_nan=False)]
Alias = Annotated[str, Field(min_length=1, max_length=200)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,19}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}")
_ENTITY = re.compile(r"sensor\.[a-z0-9_]{1,200}")


class BackendEntry(Strict):
    """A server that answers over HTTP; only ``url`` is required."""

    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    kind: BackendKind = "openai"
    key_env: str | None = None
    meter: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None
    meter_key_env: str | None = None
    plain_key: bool = False
    connect_seconds: Wait = 5.0
    silent_seconds: Wait = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    fallbacks: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> BackendEntry:
        for name, url, key in (
            ("url", self.url, self.key_env),
            ("meter", self.meter, self.meter_key_env),
        ):
            problem = None if url is None else find_url_problem(url)
            if problem is not None:
                refuse(f"{name}: {problem}", name)
            if url is not None and key and not self.plain_key and is_exposed(url):
                key_name = "key_env" if name == "url" else "meter_key_env"
                refuse(
                    f"{key_name}: the key would be sent unencrypted to another machine over "
                    f"http://; use https://, a tunnel to 127.0.0.1, or set plain_key: true",
                    key_name,
                )
        if self.meter_key_env and self.meter is None:
            refuse("meter_key_env has no effect without `meter`", "meter_key_env")
        for name in ("key_env", "meter_key_env"):
            given = getattr(self, name)
            if given is not None and not _VARIABLE.fullmatch(given):
                # The value is not shown: it may be the key itself.
                refuse(
                    f"{name} names an environment variable (letters, digits and '_'), not the key",
                    name,
                )
        return self

    def spec(self, name: str) -> BackendSpec:
        """Convert the entry."""
        values = {**self.model_dump(), "name": name, "url": self.url.rstrip("/")}
        if self.meter is not None:
            values["meter"] = self.meter.rstrip("/")
        return BackendSpec(**values)


class WallMeterEntry(Strict):
    """A plug or sensor at the wall; ``type`` and ``url`` are required."""

    type: WallMeterType
    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    output: Annotated[int, Field(ge=0, le=63)] = 0
    entity: str = ""
    path: Annotated[str, Field(max_length=400)] = ""
    unit: EnergyUnit | None = None
    user: Annotated[str, Field(min_length=1, max_length=100)] = "admin"
    key_env: str | None = None
    key_file: Annotated[str, Field(min_length=1, max_length=4_000)] | None = None
    plain_key: bool = False
    accuracy_percent: Annotated[float, Field(ge=0, le=50)] = 1.0
    limit_watts: Annotated[float, Field(gt=0, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _check(self) -> WallMeterEntry:
        is_url, is_home = self.type == "url", self.type == "home-assistant"
        problem = find_url_problem(self.url.partition("?")[0] if is_url else self.url)
        if problem is not None or "#" in self.url:
            refuse(f"url: {problem or 'must not contain #'}", "url")
        if is_url != bool(self.path) or is_url != (self.unit is not None):
            refuse(
                "path and unit belong to type: url, which needs both (path: data.power, unit: W)"
            )
        if is_home != bool(self.entity):
            refuse("entity belongs to type: home-assistant, which needs it (entity: sensor.desk)")
        if is_home and not _ENTITY.fullmatch(self.entity):
            refuse("entity: must be the id of a sensor, such as sensor.desk_power", "entity")
        if self.key_env and self.key_file:
            refuse("pass only one of key_env and key_file", "key_file")
        if self.key_env is not None and not _VARIABLE.fullmatch(self.key_env):
            # The value is not shown: it may be the key itself.
            refuse("key_env names an environment variable, not the key", "key_env")
        if is_home and not (self.key_env or self.key_file):
            refuse("a sensor of Home Assistant needs a token: set key_env or key_file")
        if self.spec("").sends_key and not self.plain_key and is_exposed(self.url):
            refuse(
                "the key would be sent unencrypted over http://; use https://, or set "
                "plain_key: true if you trust the network",
                "key_env" if self.key_env else "key_file",
            )
        return self

    def spec(self, name: str) -> WallMeterSpec:
        """Convert the entry."""
        url = self.url if self.type == "url" else self.url.rstrip("/")
        values = {**self.model_dump(), "name": name, "url": url}
        return WallMeterSpec(**{**values, "unit": self.unit or "W"})


class ToolServerEntry(Strict):
    """An MCP server: a command that etui starts, or the URL of one that runs."""

    command: tuple[Annotated[str, Field(min_length=1, max_length=4_000)], ...] = ()
    url: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None
    env: Mapping[str, str] = Field(default_factory=dict)
    key_env: str | None = None
    plain_key: bool = False
    timeout_seconds: Wait = 30.0

    @model_validator(mode="after")
    def _check(self) -> ToolServerEntry:
        if bool(self.command) == (self.url is not None):
            refuse("name either a command or a url")
        problem = None if self.url is None else find_url_problem(self.url)
        if problem is not None:
            refuse(f"url: {problem}", "url")
        if self.key_env is not None:
            if self.url is None or not _VARIABLE.fullmatch(self.key_env):
                # The value is not shown: it may be the key itself.
                refuse("key_env names an environment variable with the key of a url", "key_env")
            if not self.plain_key and is_exposed(self.url):
                refuse("key_env: the key would be sent unencrypted; use https://", "key_env")
        return self


class ToolsEntry(Strict):
    """The tools that a model may call, and the limits of a question that uses them."""

    folder: Annotated[str, Field(min_length=1, max_length=4_000)] | None = None
    calls: Annotated[int, Field(ge=1, le=1_000)] = 16
    joules: Annotated[float, Field(gt=0, le=1_000_000_000)] | None = 5_000.0
    result_characters: Annotated[int, Field(ge=100, le=200_000)] = 8_000
    servers: Mapping[str, ToolServerEntry] = Field(default_factory=dict)

    @field_validator("servers")
    @classmethod
    def _check_servers(
        cls, servers: Mapping[str, ToolServerEntry]
    ) -> Mapping[str, ToolServerEntry]:
        for name in servers:
            if not _SERVER.fullmatch(name):
                refuse(f"{name!r} cannot name a server: up to 20 letters, digits and '-'", name)
        return servers


def _check_zone(zone: str | None) -> None:
    from zoneinfo import ZoneInfo

    try:
        if zone is not None:
            ZoneInfo(zone)
    except (ValueError, OSError, LookupError):  # ZoneInfoNotFoundError is a KeyError
        refuse(f"{zone!r} is no time zone: write one such as Europe/Berlin or UTC", "zone")


class SeriesEntry(Strict):
    """A CSV file of prices or of carbon intensities; only ``file`` is required."""

    file: Annotated[str, Field(min_length=1, max_length=4_000)]
    column: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    unit: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    zone: str | None = None
    surcharge: Price = 0.0

    @model_validator(mode="after")
    def _check(self) -> SeriesEntry:
        _check_zone(self.zone)
        return self


class TariffEntry(Strict):
    """Prices by time, or files of prices and of carbon."""

    zone: str | None = None
    times: Mapping[str, Price] = Field(default_factory=dict)
    prices: SeriesEntry | None = None
    carbon: SeriesEntry | None = None

    @field_validator("prices", "carbon", mode="before")
    @classmethod
    def _accept_path(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> TariffEntry:
        _check_zone(self.zone)
        if self.times and self.prices is not None:
            refuse("state either times or a file of prices, not both", "prices")
        if self.carbon is not None and self.carbon.surcharge:
            refuse("a surcharge is added to prices, not to carbon", "carbon", "surcharge")
        try:
            parse_week(self.times)
        except ValueError as error:
            key, why = error.args
            refuse(f"{key!r}: {why}", "times", key)
        return self


class Settings(Strict):
    """The keys of ``config.yaml``; all are optional."""

    policy: str = Field(
        "balanced",
        min_length=1,
        description="The policy that routes when none is named: a shipped policy, one in "
        "ETUI_HOME/policies, or a file.",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="The model that answers every question, without a policy.",
    )
    threads: Threads | Literal["auto"] | None = Field(
        None,
        description="Number of llama.cpp threads, at most one for each CPU; auto, the default: at "
        "most the number of physical cores, and fewer while other processes use them.",
    )
    context_tokens: int | None = Field(
        None,
        ge=128,
        le=10_000_000,
        description="Upper limit on a context in tokens, to save memory; default: the model's.",
    )
    keep_warm: Seconds | Literal["auto", "always"] = Field(
        "always",
        description="How long the app keeps a model in memory after its last answer: seconds, "
        "always (until another model needs the memory), or auto (until idling has cost more "
        "joules than loading it again).",
    )
    keep_warm_seconds: Seconds | None = Field(
        None, description="Earlier name of keep_warm, for seconds only."
    )
    loop_guard: bool = Field(
        True,
        description="End an answer that has begun to repeat itself, and show its first round; an "
        "arm of a policy can decide for itself.",
    )
    name_chats: bool = Field(
        False,
        description="Let the smallest model name chats (F5 in their list), which costs joules each "
        "time; otherwise a chat has the words of its first question.",
    )
    cache: Literal["on", "off"] = Field(
        "on",
        description="Keep the KV cache of a chat that has left the context, in memory and on disk, "
        "so that going on with it computes nothing twice.",
    )
    cache_disk_gb: float = Field(
        2.0,
        ge=0,
        le=100_000,
        description="The most gigabytes of KV caches on disk, at most a tenth of what is free; 0 "
        "keeps them in memory only.",
    )
    sample_hz: float = Field(
        20.0, gt=0, le=200, description="Readings per second of every power channel."
    )
    cpu_idle_watts: Watts | None = Field(
        None, description="Power of the idle CPU in watts, the lower end of the CPU estimate."
    )
    cpu_limit_watts: Watts | None = Field(
        None, description="Power of the fully used CPU in watts, the upper end of the CPU estimate."
    )
    estimate: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: estimate only if nothing can be measured; always: show the estimate "
        "next to the measured channels; never: leave the energy unmeasured.",
    )
    carbon_g_per_kwh: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Grams of CO2 equivalent per kilowatt-hour where you are; without it no "
        "carbon is shown.",
    )
    price_per_kwh: float | None = Field(
        None,
        ge=0,
        le=1_000_000_000,
        description="Price of a kilowatt-hour; without it no cost is shown.",
    )
    currency: str = Field("", max_length=8, description="Currency of the prices.")
    tariff: TariffEntry | None = Field(
        None,
        description="Prices by weekday and time, or CSV files of day-ahead prices and of carbon; "
        "price_per_kwh holds at all times that `times` leaves out.",
    )
    pue: float = Field(
        1.0,
        ge=1,
        le=100,
        description="Power usage effectiveness of the place: energy of the building over that of "
        "its computers; 1 at home. Joules are those of the machine whatever it is: energy records "
        "have both.",
    )
    theme: str = Field(
        "etui-dark",
        min_length=1,
        description="Theme of the app: etui-dark, etui-light, or one of Textual's; the app keeps "
        "here the one that is chosen in it.",
    )
    panel_columns: int | None = Field(
        None,
        ge=LEAST_PANEL_COLUMNS,
        le=1_000,
        description="Width of the panel beside the chat, at most 60 % of the terminal's; the app "
        "keeps here what `{` and `}` choose. Default: by the width of the terminal.",
    )
    quiet: bool = Field(
        False, description="Start in quiet mode: the app redraws less often, to save power."
    )
    ascii: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: the app draws with ASCII only if the locale cannot show Unicode.",
    )
    keymap: Mapping[str, str] = Field(
        default_factory=dict,
        description="Binding id -> the keys that trigger it, separated by commas.",
    )

    backends: Mapping[str, BackendEntry] = Field(
        default_factory=dict,
        description="Name -> server that answers over HTTP; models.yaml refers to the name.",
    )
    aliases: Mapping[Alias, Alias] = Field(
        default_factory=dict,
        description="Name that clients of etui serve ask for -> the policy, arm or model that "
        "answers; * matches any text: gpt-4o: balanced, claude-*: best.",
    )

    wall_meters: Mapping[str, WallMeterEntry] = Field(
        default_factory=dict,
        description="Name -> plug or sensor that measures the whole machine at the wall: a "
        "cross-check of the meter, never a part of a total.",
    )

    tools: ToolsEntry | None = Field(
        None,
        description="Tools that a model may call: MCP servers, the folder of read_file, and the "
        "limits of a question in calls and joules.",
    )
    tool_permissions: Mapping[str, Literal["allow", "ask", "deny"]] = Field(
        default_factory=dict,
        description="Name or pattern of a tool -> whether it runs without asking, asks before each "
        "call (the default), or never runs.",
    )

    @field_validator("backends")
    @classmethod
    def _check_backends(cls, backends: Mapping[str, BackendEntry]) -> Mapping[str, BackendEntry]:
        for name in backends:
            if not _NAME.fullmatch(name):
                refuse(f"{name!r} cannot name a backend: letters, digits, '.', '_' and '-'", name)
        return backends

    @field_validator("wall_meters")
    @classmethod
    def _check_wall_meters(
        cls, meters: Mapping[str, WallMeterEntry]
    ) -> Mapping[str, WallMeterEntry]:
        seen: dict[tuple[object, ...], str] = {}
        for name, entry in meters.items():
            if not _SERVER.fullmatch(name):
                refuse(f"{name!r} cannot name a meter: up to 20 letters, digits and '-'", name)
            place = (entry.url.rstrip("/").lower(), entry.output, entry.entity, entry.path)
            if (other := seen.setdefault(place, name)) != name:
                refuse(f"{name} reads the same output as {other}; remove one of them", name)
        return meters

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.sample_hz < _LEAST_HZ:
            refuse(f"sample_hz must be at least {_LEAST_HZ}, found {self.sample_hz:g}", "sample_hz")
        if {"keep_warm", "keep_warm_seconds"} <= self.model_fields_set:
            refuse(
                "keep_warm_seconds is the earlier name of keep_warm: pass only one of them",
                "keep_warm_seconds",
            )
        tariff = self.tariff
        if tariff is not None and tariff.prices is not None and self.price_per_kwh is not None:
            refuse(
                "price_per_kwh has no effect beside tariff.prices: a time that the file leaves out "
                "has no known price",
                "price_per_kwh",
            )
        idle, limit = self.cpu_idle_watts, self.cpu_limit_watts
        if idle is not None and limit is not None and limit <= idle:
            refuse(
                f"cpu_limit_watts must be greater than cpu_idle_watts ({idle:g}), found {limit:g}",
                "cpu_limit_watts",
            )
        return self

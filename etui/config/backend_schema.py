"""The schema of ``backends`` in config.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from etui.config.backend_spec import BackendKind, BackendSpec, find_url_problem, is_exposed
from etui.yaml.load import Strict, refuse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}")

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class BackendEntry(Strict):
    """A server that answers over HTTP; only ``url`` is required."""

    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    kind: BackendKind = "openai"
    key_env: str | None = None
    meter: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None
    meter_key_env: str | None = None
    plain_key: bool = False
    connect_seconds: Seconds = 5.0
    silent_seconds: Seconds = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    fallbacks: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()

    @model_validator(mode="after")
    def _check_urls(self) -> BackendEntry:
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
        return self

    @model_validator(mode="after")
    def _check_keys(self) -> BackendEntry:
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
        return BackendSpec(
            name=name,
            url=self.url.rstrip("/"),
            kind=self.kind,
            key_env=self.key_env,
            meter=self.meter.rstrip("/") if self.meter is not None else None,
            meter_key_env=self.meter_key_env,
            plain_key=self.plain_key,
            connect_seconds=self.connect_seconds,
            silent_seconds=self.silent_seconds,
            retries=self.retries,
            fallbacks=self.fallbacks,
        )


def check_names(backends: Mapping[str, BackendEntry]) -> None:
    """Check the names of backends, inside a pydantic validator of the whole mapping."""
    for name in backends:
        if not _NAME.fullmatch(name):
            refuse(f"{name!r} cannot name a backend: letters, digits, '.', '_' and '-'", name)

"""Description of a remote backend: a server on this or another machine that answers over HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_KEY = re.compile(r"[!-~]+")

BackendKind = Literal["openai", "llama-server", "vllm", "ollama", "etui"]


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One entry of ``backends`` in config.yaml."""

    name: str  # Its name, which models.yaml refers to
    url: str  # Base URL of its API, `/v1` included
    kind: BackendKind = "openai"
    """Which server it is, which decides what it can do; ``openai`` is any other one."""
    key_env: str | None = None  # Environment variable with its key; None for a server without keys
    meter: str | None = None
    """URL of the meter of its machine (``etui power serve``, or an etui); None leaves its joules
    unmeasured."""
    meter_key_env: str | None = None
    """Environment variable with the meter's key; None for one without keys."""
    plain_key: bool = False  # Whether the keys may be sent over `http://` beyond this machine
    connect_seconds: float = 5.0  # Longest time for a connection
    silent_seconds: float = 120.0  # Longest time without a byte of an answer
    retries: int = 2  # How often a request that the server has not begun is sent again
    fallbacks: tuple[str, ...] = ()
    """Names of the models that answer while the backend cannot, best first."""


def read_key(variable: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the key in an environment variable; None for no variable.

    A line break behind it, as of a file, is not a part of it.
    """
    return None if variable is None else environ.get(variable, "").strip()


def find_key_problem(variable: str | None, environ: Mapping[str, str]) -> str:
    """Find why a key cannot be sent; empty if it can, or if none is needed."""
    key = read_key(variable, environ)
    if key is None or _KEY.fullmatch(key):
        return ""
    if not key:
        return f"the environment variable {variable} with its key is not set"
    return f"the key in the environment variable {variable} has characters that no key has"

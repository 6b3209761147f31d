"""Description of a remote backend: a server on this or another machine that answers over HTTP."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit


def find_url_problem(url: str) -> str | None:
    """Find why a base URL cannot be used; None if it can."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return "must not contain a name or a password; put the key into an environment variable"
    if not host or port == 0 or any(char.isspace() or ord(char) < 32 for char in url):
        return "is not a URL with a host"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "must not contain '?' or '#'"
    return None


def is_exposed(url: str) -> bool:
    """Return whether a request to a URL leaves this machine unencrypted."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: ``localhost``, 127.0.0.0/8 or ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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

"""Descriptions of what etui asks over HTTP: remote backends, and wall meters."""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """Return the stripped key in an environment variable; None for no variable."""
    return None if variable is None else environ.get(variable, "").strip()


def find_key_problem(variable: str | None, environ: Mapping[str, str]) -> str:
    """Find why a key cannot be sent; empty if it can, or if none is needed."""
    key = read_key(variable, environ)
    if key is None or _KEY.fullmatch(key):
        return ""
    if not key:
        return f"the environment variable {variable} with its key is not set"
    return f"the key in the environment variable {variable} has characters that no key has"


WallMeterType = Literal["shelly", "shelly-gen1", "tasmota", "home-assistant", "url"]
EnergyUnit = Literal["W", "kW", "Wh", "kWh", "J"]


@dataclass(frozen=True, slots=True)
class WallMeterSpec:
    """One entry of ``wall_meters`` in config.yaml: a plug that supplies the whole machine."""

    name: str  # Its name, which follows ``wall:`` in the id of its channel
    type: WallMeterType  # Its interface; ``shelly`` is Gen2 and later
    url: str  # Base URL of the device, or of the document for ``url``
    output: int = 0  # Number of the output that the machine is plugged into, from 0
    entity: str = ""  # Entity of Home Assistant
    path: str = ""  # Path of the number in the document of a ``url``, with dots
    unit: EnergyUnit = "W"  # Unit of that number
    user: str = "admin"  # Name that goes with a password
    key_env: str | None = None  # Environment variable with its password or token
    key_file: str | None = None  # File with it, which no other user can read
    plain_key: bool = False  # Whether the key may be sent over `http://` beyond this machine
    accuracy_percent: float = 1.0  # What its maker states, in per cent of the reading
    limit_watts: float | None = None  # The most that the machine can draw, if over 4 kW

    @property
    def sends_key(self) -> bool:
        """Whether requests contain the key itself: Shelly Gen2 proves by a digest that it has it.

        https://shelly-api-docs.shelly.cloud/gen2/General/Authentication
        """
        return bool(self.key_env or self.key_file) and self.type != "shelly"


def read_wall_key(spec: WallMeterSpec, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the password or token of a wall meter, and why it cannot be used; empty if it can."""
    if spec.key_file is None:
        return read_key(spec.key_env, environ), find_key_problem(spec.key_env, environ)
    path = Path(spec.key_file).expanduser()
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                return None, f"other users can read {path}: chmod 600 {path}"
            key = file.read(4096).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        return None, f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not text'}"
    return key, "" if _KEY.fullmatch(key) else f"{path} has no key, or one with odd characters"

"""Settings of Ray that etui insists on: where it listens, who may connect, what it reports.

They are environment variables, which Ray reads when it is imported and passes to its processes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from etui.errors import UsageError

LOCAL = "local"
LOOPBACK = "127.0.0.1"
_DEFAULT_PORT = 6379
_DOCS = "see docs/studies.md"

USAGE_STATS = "RAY_USAGE_STATS_ENABLED"
AUTH_MODE = "RAY_AUTH_MODE"
AUTH_TOKEN = "RAY_AUTH_TOKEN"
AUTH_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
ON_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Whether Ray uses the machine's network address even where only 127.0.0.1 is named."""


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The address of a cluster's head."""

    host: str  # Name or IP address; `127.0.0.1` for every name of this machine's loopback
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this machine."""
        return self.host == LOOPBACK

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ClusterAddress | None:
    """Parse what ``--cluster`` was given: HOST, HOST:PORT or ``local``, which is None.

    Raises:
        UsageError: It is none of these.
    """
    given = text.strip()
    if given == LOCAL:
        return None
    if "://" in given:
        raise UsageError(
            f"--cluster {given} is a URL",
            f"give the head's HOST:PORT, as `ray start --head` prints it (port {_DEFAULT_PORT})",
        )
    if given.startswith("["):
        host, closed, rest = given[1:].partition("]")
        port_text = rest.removeprefix(":")
        good = bool(closed) and (not rest or rest.startswith(":"))
    else:
        host, _, port_text = given.partition(":")
        good = True
    port = _parse_port(port_text) if port_text else _DEFAULT_PORT
    if not host or not good or port is None or any(char.isspace() or char == "/" for char in host):
        raise UsageError(
            f"--cluster {given!r} is not an address",
            "give HOST:PORT of the cluster's head, or 'local'",
        )
    return ClusterAddress(LOOPBACK if _is_loopback(host) else host, port)


def _parse_port(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        return None
    return int(text) if 0 < int(text) < 65536 else None


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def build_environment(
    address: ClusterAddress | None, environ: Mapping[str, str], home: Path
) -> dict[str, str]:
    """Build the variables to set before Ray is imported.

    Args:
        address: The head; None starts Ray on this machine.
        home: The user's home folder, which may hold a token of Ray.

    Returns:
        The variables to set. On this machine alone, a token for this run keeps other users of it
        out.

    Raises:
        UsageError: The address is beyond this machine, and no token is set.
    """
    found = {
        USAGE_STATS: "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if address is None:
        return {
            **found,
            ON_NETWORK: "0",
            AUTH_MODE: "token",
            AUTH_TOKEN: secrets.token_hex(32),
            "RAY_worker_niceness": "0",  # a measured process competes like any other
        }
    if address.is_loopback:
        return {**found, ON_NETWORK: "0"}
    if environ.get(AUTH_MODE) != "token" or not has_token(environ, home):
        raise UsageError(
            f"the cluster at {address} is beyond this machine, and no token of Ray is set: without "
            "one, whoever reaches it can run programs on every node",
            f"start Ray on every node with {AUTH_MODE}=token and one {AUTH_TOKEN}, and set both "
            f"here; {_DOCS}",
        )
    return found


def has_token(environ: Mapping[str, str], home: Path) -> bool:
    """Return whether Ray finds a token: in the environment, or in a file."""
    if environ.get(AUTH_TOKEN):
        return True
    named = environ.get(AUTH_TOKEN_PATH)
    path = Path(named).expanduser() if named else home / ".ray" / "auth_token"
    try:
        return bool(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return False

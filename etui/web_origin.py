"""Decide which web pages and host names a server on this machine answers; compare secrets.

A page on the internet can send requests to servers on this machine, and a name of its own can be
made to resolve to this machine's address (DNS rebinding). The ``Host`` header then has that name,
and ``Origin`` names the page.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_HTTP_PORT = 80
_HOST = r"(?:\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::[0-9]{1,5})?"
_HOST_PATTERN = re.compile(_HOST, re.IGNORECASE)
_ORIGIN_PATTERN = re.compile(rf"https?://{_HOST}")


def build_hosts(names: Iterable[str], port: int) -> frozenset[str]:
    """Build the values of ``Host`` that are allowed.

    Args:
        names: Host names and addresses of the server, IPv6 in brackets; one with a port of its own
            (``example:8080``) is allowed with that port only.
        port: Port of the server. Clients leave it out if it is 80.
    """
    hosts: set[str] = set()
    for name in map(str.lower, names):
        if _has_port(name):
            hosts.add(name)
            continue
        hosts.add(f"{name}:{port}")
        if port == _HTTP_PORT:
            hosts.add(name)
    return frozenset(hosts)


def is_allowed(
    host: str | None,
    origin: str | None,
    hosts: Collection[str],
    origins: Collection[str] = (),
) -> bool:
    """Return whether a request is for this server, and comes from its own or a named page.

    Args:
        host: ``Host`` header of the request.
        origin: ``Origin`` header; programs send none, and browsers none when a page is opened by
            hand.
        hosts: Allowed values of ``Host``, of :func:`build_hosts`.
        origins: Origins of other pages that are allowed.
    """
    if host is None or host.lower() not in hosts:
        return False
    return origin is None or origin.lower() == f"http://{host.lower()}" or origin in origins


def is_origin(text: str) -> bool:
    """Return whether a text is an origin of HTTP, ``https://chat.example``, without a path."""
    return _ORIGIN_PATTERN.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Return whether a text is a host name or an address (IPv6 in brackets), maybe with a port."""
    return _HOST_PATTERN.fullmatch(text) is not None


def is_secret(given: str, secret: str) -> bool:
    """Return whether a text is the secret, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _has_port(name: str) -> bool:
    return name.rpartition("]")[2].rpartition(":")[2].isdecimal() and ":" in name.rpartition("]")[2]

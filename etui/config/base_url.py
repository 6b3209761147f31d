"""Check the base URLs of other servers, and whether a request to one leaves this machine."""

from __future__ import annotations

import ipaddress
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

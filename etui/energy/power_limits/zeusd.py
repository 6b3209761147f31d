"""Client of zeusd, the daemon of Zeus that sets GPU power limits for programs without root.

The protocol is HTTP/1.1 over the Unix socket that ``ZEUSD_SOCK_PATH`` names, as in zeusd 0.5
(ml-energy/zeus: zeusd/src/routes/gpu.rs, routes/server.rs, auth.rs, error.rs):

- ``GET /discover`` -> ``{"gpus": [{"id", "name", "pci_address", ...}], "enabled_api_groups": [...],
  "auth_required": bool}``, without a token;
- ``GET /auth/whoami`` -> ``{"sub", "scopes": [...]}``, only with a token (``ZEUSD_TOKEN``, sent as
  ``Authorization: Bearer ...``);
- ``POST /gpu/set_power_limit?gpu_ids=0&power_limit_mw=300000&block=true``: arguments are in the
  query, not in a body; 200 with an empty body when the driver has taken the limit;
- errors: 400, 401, 403, 404 or 500 with ``{"error": text}``, ``{"errors": {id: text}}`` or text.

The daemon's GPU numbers are its own, so a GPU is found by its PCI address, which zeusd before 0.5
does not state.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from etui.energy.power_limits.types import WriteRefused

TIMEOUT_S = 10.0
"""A driver takes milliseconds to set a limit; a daemon that is silent for this long has failed."""

_CONTROL = "gpu-control"
_MOST_BYTES = 1 << 20


class ZeusdError(Exception):
    """zeusd cannot be reached, or its answer cannot be used."""


class ZeusdSilent(ZeusdError):
    """No answer came; the request may have been carried out, or may be later."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Zeusd:
    """A running zeusd.

    Args:
        token: Token for a daemon that requires one; empty without.
        timeout_s: Longest wait for an answer, seconds.
    """

    def __init__(self, socket_path: str, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.socket_path = socket_path
        self._token = token
        self._timeout_s = timeout_s

    def find_gpus(self) -> Mapping[str, ZeusdGpu]:
        """Find the GPUs whose limit this user may set: PCI address -> GPU.

        Raises:
            ZeusdError: There are none; the message says why.
        """
        server = self._ask("GET", "/discover")
        groups = server.get("enabled_api_groups")
        if not isinstance(groups, list) or _CONTROL not in groups:
            raise ZeusdError(f"it does not serve the API group {_CONTROL!r}")
        if server.get("auth_required"):
            self._check_token()
        gpus = server.get("gpus")
        if not isinstance(gpus, list):
            raise ZeusdError("it does not list PCI addresses: update zeusd to 0.5 or newer")
        found: dict[str, ZeusdGpu] = {}
        for gpu in gpus:
            address = gpu.get("pci_address") if isinstance(gpu, dict) else None
            number = gpu.get("id") if isinstance(gpu, dict) else None
            if isinstance(address, str) and isinstance(number, int):
                found[address.lower()] = ZeusdGpu(self, number)
        return found

    def set_power_limit(self, number: int, watts: float) -> None:
        """Set the limit of a GPU, and wait until the driver has taken it.

        Raises:
            ZeusdError: zeusd or the driver refused, or nothing answered.
        """
        query = {"gpu_ids": number, "power_limit_mw": round(watts * 1e3), "block": "true"}
        self._request("POST", f"/gpu/set_power_limit?{urlencode(query)}")

    def _check_token(self) -> None:
        if not self._token:
            raise ZeusdError("it requires a token: set ZEUSD_TOKEN")
        scopes = self._ask("GET", "/auth/whoami").get("scopes")
        if not isinstance(scopes, list) or _CONTROL not in scopes:
            raise ZeusdError(f"the token in ZEUSD_TOKEN lacks the scope {_CONTROL!r}")

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        body = self._request(method, path)
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ZeusdError(f"its answer to {path} is not a JSON object")
        return document

    def _request(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self.socket_path, self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read(_MOST_BYTES)
        except TimeoutError:
            raise ZeusdSilent(f"it did not answer within {self._timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ZeusdSilent(f"it cannot be reached ({why.lower()})") from error
        except ValueError as error:  # a token with a line end, a path too long for a socket
            raise ZeusdError(str(error)) from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ZeusdError(parse_error(response.status, body))
        return body


@dataclass(frozen=True, slots=True)
class ZeusdGpu:
    """One GPU of a running zeusd."""

    daemon: Zeusd
    number: int

    def set_power_limit(self, watts: float) -> None:
        """Set the limit.

        Raises:
            WriteRefused: zeusd or the driver refused, or nothing answered.
        """
        try:
            self.daemon.set_power_limit(self.number, watts)
        except ZeusdError as error:
            late = isinstance(error, ZeusdSilent)
            raise WriteRefused(f"zeusd: {error}", may_follow=late) from error


def parse_error(status: int, body: bytes) -> str:
    """Build one line from an error of zeusd: the texts of its JSON, or its plain text."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict):
        errors = document.get("errors")
        if isinstance(errors, dict) and errors:
            text = "; ".join(str(value) for value in errors.values())
        elif document.get("error"):
            text = str(document["error"])
    text = " ".join(text.split())[:200].rstrip(".")
    return f"{text or 'no reason given'} (HTTP {status})"

"""Ports for servers that are started by a number."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

_WORKERS = 16
_PORTS = range(20_000, 32_000, _WORKERS)
"""Below those that systems give to whoever asks for any, so that no other program gets one."""


def find_free_port() -> int:
    """Find a port of loopback that is free, and remains so until a server of the test has it.

    One that was bound as any and closed may be given to another program meanwhile.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    for port in random.sample(_PORTS, len(_PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port + worker)):
            return port + worker
    raise AssertionError("no port is free")

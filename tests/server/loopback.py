"""Serve an application on a free port of loopback, in a thread, and stop it again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

LIMIT_SECONDS = 60.0
"""Longest wait of a test, so that a fault fails instead of hanging."""


def bind_loopback() -> socket.socket:
    """Bind a free port; its number is known before the server starts."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


@contextmanager
def serving(app: Any, bound: socket.socket) -> Iterator[str]:
    """Serve an application on a bound socket; yield its URL without a path."""
    server = uvicorn.Server(
        uvicorn.Config(app, http="h11", log_config=None, lifespan="off", server_header=False)
    )
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[bound])), daemon=True
    )
    bound.listen()
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(LIMIT_SECONDS)
        bound.close()
        assert not thread.is_alive()

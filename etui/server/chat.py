"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

    from etui.server.context import ServerContext


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""
    return []

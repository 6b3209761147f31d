"""``GET /health``: whether the server answers; it needs no key and says nothing of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.server.context import ServerContext


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""

    async def health(request: Request) -> JSONResponse:
        status = context.pool.status()
        if not status.accepting:
            return JSONResponse(
                {"status": "shutting_down"}, status_code=503, headers={"Retry-After": "5"}
            )
        loading = status.loading is not None
        return JSONResponse({"status": "loading" if loading else "ok", "loading": loading})

    return [Route("/health", health)]

"""Errors of the API with the right status, in the form of the dialect that they answer.

Most have OpenAI's form: ``{"error": {message, type, param, code}}``.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from etui.errors import (
    BudgetSpent,
    ContextOverflow,
    EngineFailed,
    EtuiError,
    InvalidRequest,
    ModelUnavailable,
    QueueFull,
    RemoteFailed,
    Stopped,
    UsageError,
)
from etui.text import one_line

if TYPE_CHECKING:
    from starlette.types import Scope

_PATH = re.compile(
    r"(?<![\w:/.])(?!/v1/)(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\:;,'\"]+)+[/\\]([^\s/\\:;,'\"]*)"
)
"""A path of a file with its last part; not the path of a URL, nor that of a route."""

_URL = re.compile(r"https?://[^\s,;]+")
"""An address, which in errors of backends is of the owner's network."""

_log = logging.getLogger("etui.server")

_MOST_CHARACTERS = 2_000
_MOST_PARAM_CHARACTERS = 200

DO_NOT_RETRY = {"x-should-retry": "false"}
"""The official clients repeat 5xx and 429 twice; each repetition would spend again."""

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "api_error",
    501: "not_supported_error",
    502: "api_error",
    503: "unavailable_error",
}
"""Status -> ``type`` of the error; other statuses say that the request is invalid."""

_ANTHROPIC_KINDS = _KINDS | {
    404: "not_found_error",
    413: "request_too_large",
    501: "api_error",
    503: "api_error",
    529: "overloaded_error",
}
_OVERLOADED = frozenset({"queue_full", "shutting_down", "too_many_connections", "body_memory_full"})
"""Codes of errors that pass by themselves: Anthropic's clients know them by the status 529."""


class ApiError(Exception):
    """A response with an error, whose message has no paths or tracebacks.

    ``param`` is the field of the request that is wrong; None if it is none.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = shorten(message, _MOST_CHARACTERS)
        self.kind = _KINDS.get(status, "invalid_request_error")
        self.code = code
        self.param = None if param is None else shorten(param, _MOST_PARAM_CHARACTERS)
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Build the body of the response."""
        error = {"message": self.message, "type": self.kind}
        return {"error": {**error, "param": self.param, "code": self.code}}


def quote(text: str, most_characters: int = 64) -> str:
    """Return the beginning of a client's text in ASCII, to name it in an error or a header."""
    return text[:most_characters].encode("ascii", "backslashreplace").decode()


def shorten(text: str, most_characters: int) -> str:
    """Cut off what a message quotes of a request, which may be long."""
    return text if len(text) <= most_characters else f"{text[:most_characters]}…"


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Create the error of an invalid request, status 400."""
    return ApiError(400, message, code, param)


def unsupported(param: str, message: str = "") -> ApiError:
    """Create the error of a parameter that etui does not support, status 400."""
    return invalid(message or f"{param} is not supported", param, "unsupported_parameter")


def rename_param(error: ApiError, rename: Callable[[str], str]) -> ApiError:
    """Return an error that names the parameter as the client did."""
    if error.param is None:
        return error
    param = rename(error.param)
    message = error.message.replace(error.param, param)
    return ApiError(error.status, message, error.code, param, error.headers)


def model_not_found(message: str) -> ApiError:
    """Create the error of a model id that does not exist, status 404."""
    return ApiError(404, message, "model_not_found", "model")


def shutting_down() -> ApiError:
    """Create the error of a request while the server ends, status 503."""
    headers = {"Retry-After": "5"}
    return ApiError(503, "the server is shutting down", "shutting_down", headers=headers)


def to_api_error(error: BaseException) -> ApiError:
    """Convert an error of etui into one of the API; an unexpected one says nothing of itself."""
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, EtuiError):
        return ApiError(500, "internal error", "internal_error", headers=DO_NOT_RETRY)
    # What is wrong and how to fix it, without the folders of this machine.
    text = "; ".join(part for part in (error.what, error.fix) if part)
    text = _PATH.sub(lambda found: f"…/{found[1]}", text)
    match error:
        case ContextOverflow():
            asked = error.prompt_tokens + error.reserved_tokens
            text = (
                f"This model's maximum context length is {error.context_tokens} tokens. However, "
                f"you requested {asked} tokens ({error.prompt_tokens} in the messages, "
                f"{error.reserved_tokens} in the completion)."
            )
            return ApiError(400, text, "context_length_exceeded", "messages")
        case InvalidRequest(param="model"):
            return model_not_found(text)
        case InvalidRequest():
            return invalid(text, error.param or None)
        case QueueFull():
            return ApiError(429, text, "queue_full", headers=_retry_after(error.retry_seconds))
        case BudgetSpent():
            seconds = getattr(error, "retry_seconds", None)
            wait = _retry_after(3600 if seconds is None else seconds)
            return ApiError(429, text, "energy_budget_exceeded", headers=wait | DO_NOT_RETRY)
        case Stopped():
            return shutting_down()
        case ModelUnavailable():
            text = _URL.sub("…", text)
            return ApiError(503, text, "model_unavailable", headers=DO_NOT_RETRY)
        case RemoteFailed():
            return ApiError(502, text, "backend_failed", headers=DO_NOT_RETRY)
        case UsageError():
            return invalid(text)
    # The text of an engine quotes llama.cpp's log, which names files: it is for the owner only.
    failed = isinstance(error, EngineFailed)
    what = "the engine failed" if failed else "a request failed"
    _log.warning("%s: %s", what, one_line(next(iter(error.what.splitlines()), "")))
    text = "the request failed; see the server's log"
    if failed:
        text = "the engine failed while answering"
    code = "engine_failed" if failed else "internal_error"
    return ApiError(500, text, code, headers=DO_NOT_RETRY)


def anthropic_error(api: ApiError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the document of an error in Anthropic's form."""
    status = 529 if api.code in _OVERLOADED else api.status
    error = {
        "type": _ANTHROPIC_KINDS.get(status, "invalid_request_error"),
        "message": api.message,
        "param": api.param,
        "code": api.code,
    }
    return status, {"type": "error", "error": error, "request_id": request_id}


_FORMS: Mapping[str, Callable[[ApiError, str], tuple[int, dict[str, Any]]]] = {
    "/v1/messages": anthropic_error,
    "/api/": lambda api, _: (api.status, {"error": api.message}),  # Ollama
}
"""Begin of a path -> what builds the status and the body of its errors, with the request's id."""


def error_response(error: BaseException, scope: Scope) -> JSONResponse:
    """Build the response of an error in the form of the dialect that was asked."""
    api = to_api_error(error)
    status, document = api.status, api.document()
    for begin, form in _FORMS.items():
        if scope.get("path", "").startswith(begin):
            status, document = form(api, scope.get("state", {}).get("request_id", ""))
    return JSONResponse(document, status_code=status, headers=api.headers)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}

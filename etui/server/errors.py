"""Errors of the API: ``{"error": {message, type, param, code}}`` with the right status."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

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


class ApiError(Exception):
    """A response with an error.

    Args:
        message: What is wrong and how to fix it; without paths or tracebacks.
        kind: ``type`` of the error in the response.
        code: ``code`` of the error; None for none.
        param: The field of the request that is wrong; None if it is none.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = shorten(message, _MOST_CHARACTERS)
        self.kind = kind
        self.code = code
        self.param = None if param is None else shorten(param, _MOST_PARAM_CHARACTERS)
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Build the body of the response."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def quote(text: str, most_characters: int = 64) -> str:
    """Return the beginning of a client's text in ASCII, to name it in an error or a header."""
    return text[:most_characters].encode("ascii", "backslashreplace").decode()


def shorten(text: str, most_characters: int) -> str:
    """Cut off what a message quotes of a request, which may be long."""
    return text if len(text) <= most_characters else f"{text[:most_characters]}…"


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Create the error of an invalid request, status 400."""
    return ApiError(400, message, code=code, param=param)


def unsupported(param: str, message: str = "") -> ApiError:
    """Create the error of a parameter that etui does not support, status 400."""
    return ApiError(
        400,
        message or f"{param} is not supported",
        code="unsupported_parameter",
        param=param,
    )


def model_not_found(message: str) -> ApiError:
    """Create the error of a model id that does not exist, status 404."""
    return ApiError(404, message, code="model_not_found", param="model")


def shutting_down() -> ApiError:
    """Create the error of a request while the server ends, status 503."""
    return ApiError(
        503,
        "the server is shutting down",
        kind="unavailable_error",
        code="shutting_down",
        headers={"Retry-After": "5"},
    )


def to_api_error(error: BaseException) -> ApiError:
    """Convert an error of etui into one of the API; an unexpected one says nothing of itself."""
    match error:
        case ApiError():
            return error
        case ContextOverflow():
            return ApiError(
                400,
                f"This model's maximum context length is {error.context_tokens} tokens. However, "
                f"you requested {error.prompt_tokens + error.reserved_tokens} tokens "
                f"({error.prompt_tokens} in the messages, {error.reserved_tokens} in the "
                "completion).",
                code="context_length_exceeded",
                param="messages",
            )
        case InvalidRequest(param="model"):
            return model_not_found(_text_of(error))
        case InvalidRequest():
            return invalid(_text_of(error), param=error.param or None)
        case QueueFull():
            return ApiError(
                429,
                _text_of(error),
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(max(1, math.ceil(error.retry_seconds)))},
            )
        case BudgetSpent():
            return ApiError(
                429,
                _text_of(error),
                kind="rate_limit_error",
                code="energy_budget_exceeded",
                headers={"Retry-After": str(_retry_seconds(error)), **DO_NOT_RETRY},
            )
        case Stopped():
            return shutting_down()
        case ModelUnavailable():
            return ApiError(
                503,
                _URL.sub("…", _text_of(error)),
                kind="unavailable_error",
                code="model_unavailable",
                headers=DO_NOT_RETRY,
            )
        case RemoteFailed():
            return ApiError(
                502, _text_of(error), kind="api_error", code="backend_failed", headers=DO_NOT_RETRY
            )
        case UsageError():
            return invalid(_text_of(error))
        case EngineFailed():
            # Its text quotes llama.cpp's log, which names files: it is for the owner only.
            _log.warning("the engine failed: %s", _first_line(error))
            return _internal("the engine failed while answering", "engine_failed")
        case EtuiError():
            _log.warning("a request failed: %s", _first_line(error))
            return _internal("the request failed; see the server's log", "internal_error")
        case _:
            return _internal("internal error", "internal_error")


def error_response(error: BaseException) -> JSONResponse:
    """Build the response of an error."""
    api = to_api_error(error)
    return JSONResponse(api.document(), status_code=api.status, headers=api.headers)


def _internal(message: str, code: str) -> ApiError:
    return ApiError(500, message, kind="api_error", code=code, headers=DO_NOT_RETRY)


def _first_line(error: EtuiError) -> str:
    """Return the first line of an error for the log, which may quote a request."""
    return one_line(next(iter(error.what.splitlines()), ""))


def _retry_seconds(error: BudgetSpent) -> int:
    seconds = getattr(error, "retry_seconds", None)
    return 3600 if seconds is None else max(1, math.ceil(seconds))


def _text_of(error: EtuiError) -> str:
    """Return what is wrong and how to fix it, without the folders of this machine."""
    text = "; ".join(part for part in (error.what, error.fix) if part)
    return _PATH.sub(lambda found: f"…/{found[1]}", text)

"""Validate requests with pydantic, with errors in the form of the API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from etui.server.errors import invalid, quote, shorten

M = TypeVar("M", bound=BaseModel)

MOST_SCHEMA_DEPTH = 32
"""Most levels of a JSON schema: grammars are built from it by recursion."""

MOST_TOKENS = 2**20
"""Largest limit of tokens that is passed on; each model cuts it to its context."""

_MOST_INPUT = 80


class Body(BaseModel):
    """Base of the bodies: no conversion of types, no field that is not named."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Lenient(BaseModel):
    """Base of parts to which clients add facts of their own, which are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def validate(kind: type[M], document: dict[str, Any]) -> M:
    """Validate a request.

    Raises:
        ApiError: It is not valid, status 400; ``param`` is the path of the first wrong field.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = format_path(first["loc"])
        if first["type"] == "extra_forbidden":
            raise invalid(f"unknown parameter: {param}", param, "unknown_parameter") from None
        if first["type"] == "missing":
            raise invalid(f"{param} is missing", param) from None
        found = _format_input(first["input"])
        raise invalid(f"{param}: {_lower(first['msg'])}; got {found}", param) from None


def format_path(path: Sequence[str | int]) -> str:
    """Format the path of a field: ``messages[0].content``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = quote(part)
            text += f".{shown}" if text else shown
    return text


def dump_schema(schema: object, limit_bytes: int, param: str) -> str:
    """Return a JSON schema, or a list of tools with schemas, as JSON text.

    Args:
        limit_bytes: Largest size of the text.
        param: Its field, for errors.

    Raises:
        ApiError: It is too large or too deep, or refers to another document; status 400.
    """
    _check_schema(schema, param)
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if len(text.encode()) > limit_bytes:
        raise invalid(f"{param} has more than {limit_bytes} bytes", param)
    return text


def _check_schema(schema: object, param: str) -> None:
    level: list[object] = [schema]
    for _ in range(MOST_SCHEMA_DEPTH):
        if not level:
            return
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                reference = value.get("$ref")
                if isinstance(reference, str) and not reference.startswith("#"):
                    raise invalid(f"{param}: $ref may only refer to the schema itself (#/…)", param)
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = [value for value in below if isinstance(value, dict | list)]
    if level:
        raise invalid(f"{param} is nested more than {MOST_SCHEMA_DEPTH} levels deep", param)


def refuse_more(count: int, most: int, param: str, what: str) -> None:
    """Refuse more than some number of things.

    Raises:
        ApiError: There are more, status 400.
    """
    if count > most:
        raise invalid(f"{param}: at most {most} {what} are accepted; got {count}", param)


def read_stop(stops: Sequence[str], most: int, most_characters: int) -> tuple[str, ...]:
    """Return the stop strings of a request.

    Raises:
        ApiError: There are too many, or one is empty or too long; status 400.
    """
    refuse_more(len(stops), most, "stop", "stop strings")
    for index, text in enumerate(stops):
        if not text or len(text) > most_characters:
            param = f"stop[{index}]"
            raise invalid(f"{param}: a stop string has 1 to {most_characters} characters", param)
    return tuple(stops)


def _format_input(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return shorten(quote(text, _MOST_INPUT + 1), _MOST_INPUT)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]

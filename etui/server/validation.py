"""Read the bodies of requests: bounded JSON, validated with errors in the form of the API."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from etui.server.bodies import LARGE_BYTES
from etui.server.errors import invalid, quote, shorten

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.server.bodies import IncomingBody

MOST_DEPTH = 64
"""Most levels of objects and arrays."""

MOST_VALUES = 400_000
"""Most objects, arrays and items of them: a request with more tokens than any context has fewer."""

MOST_KEYS = 10_000
"""Most keys of one object."""

MOST_SCHEMA_DEPTH = 32
"""Most levels of a JSON schema: grammars are built from it by recursion."""

_MOST_SCHEMA_BYTES = 256 * 2**10  # And of a list of tools
_MOST_DIGITS = 20
_MOST_INPUT = 80

_TEXTS_AT_ONCE = 50_000
"""Removing all texts at once takes far more memory than the body, and lets no other thread run."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request) -> dict[str, Any]:
    """Read the body of a request, a JSON object; ApiError if it is none, or cannot be received."""
    body: IncomingBody = request.state.body
    document, size = await body.call(_parse_measured, await body.read())
    body.grow(size)
    return document


def _parse_measured(body: bytearray) -> tuple[dict[str, Any], int]:
    """Return the document of a body and, if that is large, its bytes in memory."""
    document = parse_object(body)
    if len(body) <= LARGE_BYTES:
        return document, 0
    return document, sum(sum(map(sys.getsizeof, level)) for level in _iter_levels(document))


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object.

    ApiError if it is not valid JSON in UTF-8, no object, has a key twice, a number that is not
    finite or has too many digits, half a surrogate pair, too many values, or is nested too deeply.
    """
    _check_values(body)
    too_deep = invalid(f"the body is nested more than {MOST_DEPTH} levels deep")
    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_build_object,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start}") from None
    except RecursionError:
        raise too_deep from None
    except json.JSONDecodeError as error:
        raise invalid(
            f"the body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    if not isinstance(document, dict):
        raise invalid("the body has to be a JSON object")
    for depth, level in enumerate(_iter_levels(document)):
        if depth >= MOST_DEPTH and any(isinstance(value, dict | list) for value in level):
            raise too_deep
        for value in level:
            _check_texts((value,) if isinstance(value, str) else value)
    return document


def _check_values(body: bytes | bytearray) -> None:
    """Bound the values of a body before they are built: each takes far more memory than its text.

    It counts what begins a value outside of texts, so at least all values of valid JSON.
    """
    marks = (b",", b"[", b"{")
    if sum(map(body.count, marks)) <= MOST_VALUES:  # with those within texts
        return
    texts, found = 0, _TEXTS_AT_ONCE
    while found == _TEXTS_AT_ONCE and texts <= 2 * MOST_VALUES:  # a key and a value each
        body, found = _STRING.subn(b"", body, _TEXTS_AT_ONCE)
        texts += found
    if texts > 2 * MOST_VALUES or sum(map(body.count, marks)) > MOST_VALUES:
        raise invalid(f"the body has more than {MOST_VALUES} values")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise invalid(f"an object has more than {MOST_KEYS} keys")
    built = dict(pairs)
    if len(built) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise invalid(f"the body has the key {quote(key)} twice", quote(key))
            seen.add(key)
    return built


def _refuse_constant(name: str) -> NoReturn:
    raise invalid(f"{name} is no JSON number")


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise invalid(f"a number has more than {_MOST_DIGITS} digits")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise invalid("a number is too large")
    return number


def _iter_levels(document: object) -> Iterator[list[Any]]:
    """Yield the values of a document level by level, without recursion."""
    level: list[Any] = [document]
    while level:
        yield level
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = below


def _check_texts(value: object) -> None:
    """Check a text in a tuple, or the keys of an object, for half of a character."""
    if not isinstance(value, dict | tuple):
        return
    try:
        for text in value:
            text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid("a text has half a surrogate pair, which is no character") from None


class Body(BaseModel):
    """Base of the bodies: no conversion of types; fields that are not known are named."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class Lenient(BaseModel):
    """Base of parts to which clients add facts of their own, which are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def validate(kind: type[M], document: dict[str, Any]) -> M:
    """Validate a request; ApiError (400) with the path of the first wrong field as ``param``."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        param, text = describe_invalid(error)
        raise invalid(text, param) from None


def describe_invalid(error: ValidationError) -> tuple[str, str]:
    """Return the path of the first wrong field, and a sentence that says what is wrong with it."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = _format_path(first["loc"])
    if first["type"] == "missing":
        return param, f"{param} is missing"
    given, what = first["input"], first["msg"][:1].lower() + first["msg"][1:]
    found = repr(given) if isinstance(given, str | int | float) else type(given).__name__
    found = shorten(quote(found, _MOST_INPUT + 1), _MOST_INPUT)
    return param, f"{param}: {what}; got {found}"


def list_unknown(body: BaseModel, path: str = "") -> Iterator[str]:
    """Yield the fields of a body, and of the bodies in it, that are not known and have a value."""
    for name, value in body:
        place = f"{path}{quote(name)}"
        if name in (body.model_extra or ()):
            if value is not None:
                yield place
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                yield from list_unknown(each, f"{place}.")


def _format_path(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{quote(part)}" if text else quote(part)
    return text


def dump_schema(schema: object, param: str) -> str:
    """Return a JSON schema, or a list of tools with schemas, as JSON text.

    ApiError (400) if it is too large or too deep, or refers to another document; ``param`` is its
    field.
    """
    for depth, level in enumerate(_iter_levels(schema)):
        if depth >= MOST_SCHEMA_DEPTH and any(isinstance(value, dict | list) for value in level):
            raise invalid(f"{param} is nested more than {MOST_SCHEMA_DEPTH} levels deep", param)
        for value in level:
            reference = value.get("$ref") if isinstance(value, dict) else None
            if isinstance(reference, str) and not reference.startswith("#"):
                raise invalid(f"{param}: $ref may only refer to the schema itself (#/…)", param)
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if len(text.encode()) > _MOST_SCHEMA_BYTES:
        raise invalid(f"{param} has more than {_MOST_SCHEMA_BYTES} bytes", param)
    return text


def refuse_more(count: int, most: int, param: str, what: str) -> None:
    """Refuse more than some number of things, with status 400."""
    if count > most:
        raise invalid(f"{param}: at most {most} {what} are accepted; got {count}", param)

"""Dataclasses to JSON documents and back, checked against their annotations.

A document is what ``json.loads`` returns and ``json.dumps`` takes. The text itself is written and
read with ``json``, because msgspec uses other spacing and refuses the NaN that a log-probability
may be. msgspec is imported on the first use, so that importing this module costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class DocumentError(ValueError):
    """A document that does not hold the expected value; the message names the place in it."""


def to_document(value: object) -> Any:
    """Convert a value to plain JSON values; a dataclass becomes a dict in field order.

    Tuples stay tuples, enumerations become their values, and a subclass of float (numpy's) becomes
    a float. TypeError if it holds a type that JSON cannot represent.
    """
    import msgspec

    return msgspec.to_builtins(value, enc_hook=_convert_plain)


def from_document(
    kind: type[T], document: object, *, extra: Literal["refuse", "ignore"] = "refuse"
) -> T:
    """Build a dataclass, or a container of them, from a document.

    A list becomes a tuple and an integer a float where the annotation says so; nothing else is
    converted. Fields with a default may be missing.

    Raises:
        DocumentError: A field is missing, of another type, or (with ``refuse``) unknown.
    """
    import msgspec

    try:
        value = msgspec.convert(document, kind)
    except ValueError as error:  # msgspec's own error, or a lone surrogate where a name is expected
        raise DocumentError(str(error)) from error
    if extra == "refuse":
        _refuse_unknown(value, document, "$")
    return value


def finite(number: float | None) -> float | None:
    """Return a number that JSON can hold; None for any other, and without one."""
    return number if number is not None and math.isfinite(number) else None


def pick(value: object, *names: str) -> dict[str, Any]:
    """Return some fields or properties of a value by their names, for a document."""
    return {name: getattr(value, name) for name in names}


def _convert_plain(value: object) -> object:
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _refuse_unknown(value: Any, document: object, path: str) -> None:
    """Compare the keys of a document with the fields of the dataclasses built from it."""
    if isinstance(document, dict):
        named = is_dataclass(value)
        unknown = document.keys() - value.__dataclass_fields__.keys() if named else ()
        if unknown:
            key = next(key for key in document if key in unknown)
            raise DocumentError(f"Object contains unknown field `{key}` - at `{path}`")
        for key, item in document.items():
            if isinstance(item, (dict, list)):
                inner = getattr(value, key) if named else value[key]
                _refuse_unknown(inner, item, f"{path}.{key}")
    elif isinstance(document, list) and isinstance(value, (list, tuple)):
        for inner, item in zip(value, document, strict=True):
            _refuse_unknown(inner, item, f"{path}[...]")

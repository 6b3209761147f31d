"""A validator of JSON schemas for tests: the keywords that etui accepts, read independently."""

from __future__ import annotations

import re
from typing import Any

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
_DATE = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_FORMATS = {
    "date": _DATE,
    "date-time": _DATE + r"T[0-2]\d:[0-5]\d:[0-5]\d(\.\d+)?(Z|[-+][0-2]\d:[0-5]\d)",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}


def matches(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether a value matches a schema."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return matches(value, target, root)
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(matches(value, each, root) for each in schema[key]):
            return False
    if not all(matches(value, each, root) for each in schema.get("allOf", [])):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    types = schema.get("type", list(_TYPES))
    types = types if isinstance(types, list) else [types]
    if not any(_is_of(value, name) for name in types):
        return False
    if isinstance(value, dict):
        return _object(value, schema, root)
    if isinstance(value, list):
        return _array(value, schema, root)
    if isinstance(value, str):
        pattern = schema.get("pattern")
        length = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30)
        form = _FORMATS.get(schema.get("format", ""))
        if form is not None and re.fullmatch(form, value) is None:
            return False
        return length and (pattern is None or re.search(pattern, value) is not None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(
            schema.get("minimum", value) <= value <= schema.get("maximum", value)
            and schema.get("exclusiveMinimum", float("-inf")) < value
            and value < schema.get("exclusiveMaximum", float("inf"))
        )
    return True


def _is_of(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _object(value: dict[str, Any], schema: Any, root: Any) -> bool:
    properties = schema.get("properties", {})
    if not set(schema.get("required", [])) <= set(value):
        return False
    for name, each in value.items():
        inner = properties.get(name, schema.get("additionalProperties", True))
        if not matches(each, inner, root):
            return False
    return True


def _array(value: list[Any], schema: Any, root: Any) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30):
        return False
    prefix = schema.get("prefixItems", [])
    return all(
        matches(each, prefix[i] if i < len(prefix) else schema.get("items", True), root)
        for i, each in enumerate(value)
    )

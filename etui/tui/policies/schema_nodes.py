"""Find what a JSON Schema says of a value by its path, and describe it in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from etui.tui.policies.outline import Path

Schema: TypeAlias = Mapping[str, Any]
"""A JSON Schema, or a part of one."""

_DEEPEST = 8
"""Longest chain of references and alternatives that is followed."""

_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "array": "list",
    "object": "mapping",
}


def find_nodes(schema: Schema, path: Path) -> list[Schema]:
    """Find what the schema says of the value at a path; several parts if it allows several."""
    nodes: list[Schema] = [schema]
    for part in path:
        nodes = [below for node in expand(schema, nodes) for below in _below(node, part)]
    return nodes


def expand(schema: Schema, nodes: Sequence[Schema], depth: int = _DEEPEST) -> list[Schema]:
    """Follow references and alternatives to the parts that describe one type."""
    found: list[Schema] = []
    for node in nodes:
        inner = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
        if "$ref" in node:
            inner.append(schema.get("$defs", {}).get(str(node["$ref"]).rpartition("/")[2], {}))
        if inner and depth:
            found += expand(schema, inner, depth - 1)
        else:
            found.append(node)
    return found


def fixed_values(node: Schema) -> list[str]:
    """Return the values that a part allows, as they are written in YAML; empty if any."""
    if node.get("type") == "boolean":
        return ["true", "false"]
    values = [node["const"]] if "const" in node else list(node.get("enum", ()))
    return [str(value) for value in values]


def type_text(schema: Schema, node: Schema) -> str:
    """Describe the values that a part allows: ``whole number, 1 to 64``, ``direct, cot, vote``."""
    parts = [one for one in expand(schema, [node]) if one.get("type") != "null"]
    texts = [", ".join(fixed_values(one)) or _range_text(one) for one in parts]
    if node.get("default") not in (None, (), [], {}):
        texts[-1:] = [f"{texts[-1]}, default {_yaml_text(node['default'])}" if texts else ""]
    return " or ".join(dict.fromkeys(text for text in texts if text))


def detail_text(schema: Schema, node: Schema) -> str:
    """Return the description of a part, or else its type."""
    return str(node.get("description") or type_text(schema, node))


def _range_text(node: Schema) -> str:
    name = _TYPES.get(str(node.get("type", "")), "")
    low = node.get("minimum", node.get("exclusiveMinimum"))
    high = node.get("maximum", node.get("exclusiveMaximum"))
    if name not in ("number", "whole number") or (low is None and high is None):
        return name
    if high is None:
        return f"{name}, {'above' if 'exclusiveMinimum' in node else 'at least'} {low:,g}"
    if low is None:
        return f"{name}, {'below' if 'exclusiveMaximum' in node else 'at most'} {high:,g}"
    return f"{name}, {low:,g} to {high:,g}"


def _yaml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _below(node: Schema, part: str | int) -> Iterator[Schema]:
    if isinstance(part, int):
        if isinstance(node.get("items"), Mapping):
            yield node["items"]
        return
    if part in node.get("properties", {}):
        yield node["properties"][part]
        return
    yield from node.get("patternProperties", {}).values()
    if isinstance(node.get("additionalProperties"), Mapping):
        yield node["additionalProperties"]

"""Read a client's JSON schema into nodes that a grammar can be made of.

Only what the grammar keeps exactly is accepted; a keyword that it cannot keep is refused by name,
never ignored. The bounds are checked before any of it reaches native code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etui.engine.grammar.schema_nodes import (
    AnyOf,
    Array,
    Literals,
    Node,
    Object,
    Primitive,
    Property,
    Reference,
    Schema,
    Text,
)
from etui.errors import InvalidRequest

SCHEMA_CHARACTERS = 65_536
DEPTH = 64
NODES = 2_000
PROPERTIES = 200
"""Most properties of one object: a grammar follows all that can come next."""

VALUES = 1_000
"""Most values of all ``enum`` lists of a schema."""

REPEATS = 1_000
"""Largest ``maxItems`` or ``maxLength``; llama.cpp itself refuses more than 2,000 repetitions."""

ALL_REPEATS = 8_000
"""Most repetitions of a whole schema: the grammar's parser writes each of them out."""

PATTERN_CHARACTERS = 200

_NOTE_NAMES = (
    "title description default examples example $schema $id $comment $anchor deprecated readOnly "
    "writeOnly $defs definitions contentMediaType contentEncoding"
)
_NOTES = frozenset(_NOTE_NAMES.split())
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_FORMATS = ("date", "time", "date-time", "uuid")
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties", "unevaluatedProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
}
_CHOICES = ("anyOf", "oneOf")


def read_schema(text: str, param: str) -> Schema:
    """Read a JSON schema.

    Args:
        param: The part of the request that it comes from, for errors.

    Raises:
        InvalidRequest: It is no schema, too large, contradicts itself, or asks for what a grammar
            cannot keep.
    """
    if len(text) > SCHEMA_CHARACTERS:
        raise InvalidRequest(
            f"the JSON schema has {len(text)} characters, more than {SCHEMA_CHARACTERS}",
            "use a smaller schema",
            param,
        )
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_float=_read_float)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not JSON: {error}", "", param) from error
    return _Reader(document, param).read()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


class _Reader:
    """Reads one document; references are read once, when they are first met."""

    def __init__(self, document: Any, param: str) -> None:
        self._document = document
        self._param = param
        self._named: dict[str, Node | None] = {}
        self._nodes = 0
        self._values = 0
        self._repeats = 0

    def read(self) -> Schema:
        root = self._read(self._document, 0)
        named = {name: node for name, node in self._named.items() if node is not None}
        return Schema(root, named)

    def _refuse(self, what: str, fix: str = "") -> InvalidRequest:
        return InvalidRequest(f"the JSON schema {what}", fix, self._param)

    def _read(self, schema: Any, depth: int) -> Node:
        self._nodes += 1
        if depth > DEPTH:
            raise self._refuse(f"is nested more than {DEPTH} levels deep")
        if self._nodes > NODES:
            raise self._refuse(f"has more than {NODES} parts")
        if schema is True:
            return Primitive("value")
        if schema is False:
            raise self._refuse("has a part that nothing matches (false)")
        if not isinstance(schema, dict):
            raise self._refuse(f"has {_short(schema)} where a schema belongs")
        own = {key: value for key, value in schema.items() if key not in _NOTES}
        if "$ref" in own:
            return self._read_reference(own, depth)
        for key in _CHOICES:
            if key in own:
                return self._read_choice(own, key, depth)
        if "allOf" in own:
            return self._read_all(own, depth)
        if "const" in own or "enum" in own:
            return self._read_values(own)
        return self._read_type(own, depth)

    def _read_reference(self, own: Mapping[str, Any], depth: int) -> Node:
        name = own["$ref"]
        if len(own) > 1:
            raise self._refuse(f"has keywords next to $ref {_short(name)}")
        if not isinstance(name, str) or not (name == "#" or name.startswith("#/")):
            raise self._refuse(
                f"refers to {_short(name)}, outside of itself",
                "put the schema into $defs and refer to it as #/$defs/NAME",
            )
        if name not in self._named:
            self._named[name] = None  # being read: a recursive reference ends here
            self._named[name] = self._read(self._find(name), depth + 1)
        return Reference(name)

    def _find(self, name: str) -> Any:
        target = self._document
        for part in name.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key[:6]) < len(target):
                target = target[int(key[:6])]
            else:
                raise self._refuse(f"refers to {_short(name)}, which it does not have")
        return target

    def _read_choice(self, own: Mapping[str, Any], key: str, depth: int) -> Node:
        alternatives = self._list(own, key)
        if not alternatives:
            raise self._refuse(f"has an empty {key}")
        rest = {name: value for name, value in own.items() if name != key}
        nodes = [self._read(self._merge(rest, each), depth + 1) for each in alternatives]
        return nodes[0] if len(nodes) == 1 else AnyOf(tuple(nodes))

    def _read_all(self, own: Mapping[str, Any], depth: int) -> Node:
        merged: Any = {name: value for name, value in own.items() if name != "allOf"}
        parts = self._list(own, "allOf")
        alone = len(parts) == 1 and not merged
        for part in parts:
            name = part.get("$ref") if isinstance(part, dict) else None
            if not alone and isinstance(name, str) and name.startswith("#/"):
                part = self._find(name)
            merged = self._merge(merged, part)
        return self._read(merged, depth + 1)

    def _merge(self, first: Any, second: Any) -> Any:
        """Merge two schemas that both have to match, if their keywords do not meet."""
        if second is True:
            return first
        if first is True or first == {} or not isinstance(second, dict):
            return second
        if not isinstance(first, dict):
            return first
        merged = {key: value for key, value in first.items() if key not in _NOTES}
        for key, value in second.items():
            if key in _NOTES or key not in merged or merged[key] == value:
                merged[key] = value
            elif key == "required" and _are_names(value) and _are_names(merged[key]):
                merged[key] = list(dict.fromkeys([*merged[key], *value]))
            elif key == "properties" and isinstance(value, dict) and _is_apart(merged[key], value):
                merged[key] = {**merged[key], **value}
            elif key == "type":
                both = [name for name in _as_list(merged[key]) if name in _as_list(value)]
                if not both:
                    raise self._refuse("contradicts itself: no value is of both types")
                merged[key] = both
            else:
                raise self._refuse(f"has {_short(key)} in two parts that both have to match")
        return merged

    def _read_values(self, own: Mapping[str, Any]) -> Node:
        extra = set(own) - {"const", "enum", "type"}
        if extra:
            raise self._refuse(f"has {_short(min(extra))} next to its values")
        values = self._list(own, "enum") if "enum" in own else [own["const"]]
        if "const" in own:
            values = [value for value in values if _same(value, own["const"])]
        if "type" in own:
            types = self._types(own)
            values = [value for value in values if any(_is_of(value, name) for name in types)]
        self._values += len(values)
        if self._values > VALUES:
            raise self._refuse(f"lists more than {VALUES} values")
        if not values:
            raise self._refuse("contradicts itself: it allows none of its values")
        return Literals(tuple(dict.fromkeys(_write(value) for value in values)))

    def _read_type(self, own: Mapping[str, Any], depth: int) -> Node:
        types = self._types(own) if "type" in own else self._guess_types(own)
        known = {"type"}.union(*(_KEYWORDS[name] for name in types)) if types else {"type"}
        extra = set(own) - known
        if extra:
            of = f" of type {types[0]}" if len(types) == 1 else ""
            raise self._refuse(
                f"has {_short(min(extra))}, which etui cannot keep{of}",
                "leave it out, and check the answer for it",
            )
        if not types:
            return Primitive("value")
        nodes = tuple(self._read_one_type(name, own, depth) for name in types)
        return nodes[0] if len(nodes) == 1 else AnyOf(nodes)

    def _types(self, own: Mapping[str, Any]) -> list[str]:
        types = list(dict.fromkeys(_as_list(own["type"]))) if _hashable(own["type"]) else []
        if not types or any(name not in _TYPES for name in types):
            raise self._refuse(f"has the unknown type {_short(own['type'])}")
        if "number" in types and "integer" in types:
            types.remove("integer")
        return types

    def _guess_types(self, own: Mapping[str, Any]) -> list[str]:
        """Return the type that keywords without a ``type`` speak of; none if there are none.

        Without ``type`` such a schema also allows values of other types, which is never meant.
        """
        return next(
            (
                [name]
                for name in ("object", "array", "string", "number")
                if _KEYWORDS[name] & set(own)
            ),
            [],
        )

    def _read_one_type(self, name: str, own: Mapping[str, Any], depth: int) -> Node:
        match name:
            case "object":
                return self._read_object(own, depth)
            case "array":
                return self._read_array(own, depth)
            case "string":
                return self._read_text(own)
            case "number" | "integer":
                return self._read_number(name, own)
            case "boolean":
                return Primitive("boolean")
            case _:
                return Primitive("null")

    def _read_object(self, own: Mapping[str, Any], depth: int) -> Node:
        if own.get("unevaluatedProperties", False) is not False:
            raise self._refuse("has unevaluatedProperties, which etui cannot keep")
        properties = own.get("properties", {})
        if not isinstance(properties, dict):
            raise self._refuse("has properties that are not an object")
        if len(properties) > PROPERTIES:
            raise self._refuse(f"has an object with more than {PROPERTIES} properties")
        required = own.get("required", [])
        if not _are_names(required):
            raise self._refuse("has a required that is not a list of names")
        additional = own.get("additionalProperties")
        closed = additional is False or (additional is None and "properties" in own)
        missing = [each for each in required if each not in properties]
        if missing and closed and additional is False:
            raise self._refuse(f"requires {_short(missing[0])}, which it does not allow")
        if not properties and not closed and additional in (None, True, {}) and not missing:
            return Primitive("object")
        read = [
            Property(each, self._read(part, depth + 1), each in required)
            for each, part in properties.items()
        ]
        rest = Primitive("value") if additional in (None, True, {}) else None
        read += [Property(each, self._rest(additional, depth), True) for each in missing]
        if not closed and rest is None:
            return Object(tuple(read), self._read(additional, depth + 1))
        return Object(tuple(read), None if closed else rest)

    def _rest(self, additional: Any, depth: int) -> Node:
        """Read what an additional property has to match."""
        return Primitive("value") if additional is None else self._read(additional, depth + 1)

    def _read_array(self, own: Mapping[str, Any], depth: int) -> Node:
        if own.get("uniqueItems", False) is not False:
            raise self._refuse("has uniqueItems, which etui cannot keep")
        items, prefix = own.get("items", True), own.get("prefixItems", [])
        if isinstance(items, list):  # the form of older drafts
            items, prefix = True, items
        if not isinstance(prefix, list):
            raise self._refuse("has prefixItems that are not a list")
        shortest, longest = self._bounds(own, "minItems", "maxItems")
        if items is False and shortest > len(prefix):
            raise self._refuse("contradicts itself: it requires more items than it allows")
        if items is True and not prefix and not shortest and longest is None:
            return Primitive("array")
        nodes = tuple(self._read(each, depth + 1) for each in prefix)
        return Array(
            nodes, None if items is False else self._read(items, depth + 1), shortest, longest
        )

    def _read_text(self, own: Mapping[str, Any]) -> Node:
        shortest, longest = self._bounds(own, "minLength", "maxLength")
        pattern, format_ = own.get("pattern"), own.get("format")
        bounded = bool(shortest or longest is not None)
        if pattern is not None:
            if not isinstance(pattern, str) or len(pattern) > PATTERN_CHARACTERS:
                raise self._refuse(
                    f"has a pattern that is not a text of at most {PATTERN_CHARACTERS} characters"
                )
            if bounded or format_ in _FORMATS:
                raise self._refuse("has a pattern and a length or format in one string")
            return Text(pattern=pattern)
        if format_ in _FORMATS and isinstance(format_, str):
            if bounded:
                raise self._refuse("has a length and a format in one string")
            return Text(format=format_)
        return Text(shortest, longest) if bounded else Primitive("string")

    def _read_number(self, name: str, own: Mapping[str, Any]) -> Node:
        limits = {key: own[key] for key in _KEYWORDS["number"] if key in own}
        for key, value in limits.items():
            if not _is_number(value):
                raise self._refuse(f"has a {key} that is not a number")
        if not limits:
            return Primitive("integer" if name == "integer" else "number")
        if name == "integer":
            low, high = _integer_limits(limits)
            if low is not None and high is not None:
                if low > high:
                    raise self._refuse("contradicts itself: no integer is within its limits")
                if high - low < VALUES - self._values:
                    self._values += high - low + 1
                    return Literals(tuple(map(str, range(low, high + 1))))
            if low == 0 and high is None:
                return Primitive("integer", positive=True)
        elif limits == {"minimum": 0}:
            return Primitive("number", positive=True)
        raise self._refuse(
            f"limits a {name} to a range that etui cannot keep",
            f"allowed are minimum 0, or integers between two limits less than {VALUES} apart",
        )

    def _bounds(self, own: Mapping[str, Any], low: str, high: str) -> tuple[int, int | None]:
        values: list[int | None] = []
        for key in (low, high):
            value = own.get(key)
            if value is not None and (not _is_number(value) or value != int(value) or value < 0):
                raise self._refuse(f"has a {key} that is not a whole number from 0 on")
            if value is not None and value > REPEATS:
                raise self._refuse(f"has a {key} above {REPEATS}")
            values.append(None if value is None else int(value))
        shortest, longest = values[0] or 0, values[1]
        if longest is not None and shortest > longest:
            raise self._refuse(f"contradicts itself: {low} is above {high}")
        self._repeats += shortest if longest is None else longest
        if self._repeats > ALL_REPEATS:
            raise self._refuse(f"asks for more than {ALL_REPEATS} repetitions in all")
        return shortest, longest

    def _list(self, own: Mapping[str, Any], key: str) -> list[Any]:
        value = own[key]
        if not isinstance(value, list):
            raise self._refuse(f"has {_short(key)} that is not a list")
        return value


def _integer_limits(limits: Mapping[str, float]) -> tuple[int | None, int | None]:
    lows = [math.ceil(limits["minimum"])] if "minimum" in limits else []
    highs = [math.floor(limits["maximum"])] if "maximum" in limits else []
    if "exclusiveMinimum" in limits:
        lows.append(math.floor(limits["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in limits:
        highs.append(math.ceil(limits["exclusiveMaximum"]) - 1)
    return max(lows, default=None), min(highs, default=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_of(value: Any, name: str) -> bool:
    match name:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "number":
            return _is_number(value)
        case "integer":
            return _is_number(value) and value == int(value)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return value is None


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_apart(first: Any, second: Mapping[str, Any]) -> bool:
    return isinstance(first, dict) and all(first.get(k, second[k]) == second[k] for k in second)


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _hashable(value: Any) -> bool:
    return all(isinstance(each, str) for each in _as_list(value))


def _write(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value)
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

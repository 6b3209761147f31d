"""Write the keywords of JSON Schema that a grammar cannot keep by those that it can.

What is written may be narrower than what was meant, never wider: each text of it matches the schema
of the client. Keywords for which there is no such way stay, so that they are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_TYPES = ("object", "array", "string", "number", "boolean", "null")
_NEXT = {
    "minimum": ("number", "exclusiveMaximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}
"""Bound -> the type that it speaks of, and the bound that just breaks it."""

_LARGEST_BOUND = 10**15
_MOST_VALUES = 64
"""Most values into which lists without repetition are written, and most alternatives or first items
that are written again: what is written grows faster than what was sent."""

_MOST_TRIED = 4_096


def rewrite(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with fewer kinds of keywords; its parts are not rewritten."""
    own = {key: _read_number(key, value) for key, value in schema.items()}
    parts: list[Any] = []
    _rewrite_dependent(own, parts)
    _rewrite_conditions(own, parts)
    _rewrite_one_of(own, parts)
    _rewrite_unevaluated(own, parts)
    if "not" in own and (unmet := negate(own["not"], own)) is not None:
        del own["not"]
        parts.append(unmet)
    _rewrite_names(own)
    _rewrite_contains(own)
    _rewrite_unique(own)
    if parts := [part for part in parts if part is not True]:
        own["allOf"] = [*own.get("allOf", ()), *parts]
    return own


def _read_number(key: str, value: Any) -> Any:
    """Write a count as a whole number, and a bound that no text reaches as one that is near."""
    if isinstance(value, float) and value.is_integer() and re.search("[mM](in|ax)", key):
        value = int(value)
    if isinstance(value, int) and abs(value) > _LARGEST_BOUND:
        upper = key in ("maximum", "exclusiveMaximum") and value > 0
        lower = key in ("minimum", "exclusiveMinimum") and value < 0
        return _LARGEST_BOUND if upper else -_LARGEST_BOUND if lower else value
    return value


def _rewrite_dependent(own: dict[str, Any], parts: list[Any]) -> None:
    given = [own.pop(key, {}) for key in ("dependentRequired", "dependentSchemas", "dependencies")]
    for name, then in (pair for each in given for pair in each.items()):
        needed = {"required": [name, *then]} if isinstance(then, list) else None
        present = needed or _both({"required": [name]}, then)
        parts.append({"anyOf": [{"properties": {name: False}}, present]})


def _rewrite_conditions(own: dict[str, Any], parts: list[Any]) -> None:
    condition, then, other = own.pop("if", None), own.pop("then", True), own.pop("else", True)
    if condition is not None and not then is other is True:
        unmet = negate(condition, own)
        cases = [_both(then, other), _both(condition, then)]
        cases += [] if unmet is None else [_both(unmet, other)]
        parts.append(True if True in cases else {"anyOf": cases})


def _rewrite_one_of(own: dict[str, Any], parts: list[Any]) -> None:
    """Let no text match two of the alternatives, unless these are descriptions of objects.

    Those are distinguished by a property in most schemas, and read as ``anyOf``.
    """
    given = own.get("oneOf")
    if not isinstance(given, list) or len(given) > _MOST_VALUES:
        return
    if any(each.keys() & _OBJECTS for each in given if isinstance(each, Mapping)):
        return
    kinds = [each.get("type") if isinstance(each, Mapping) else None for each in given]
    values = [_list_values(each) for each in given]
    apart = all(isinstance(kind, str) for kind in kinds) and len({*kinds}) == len(kinds)
    if (apart and not {"integer", "number"} <= {*kinds}) or None not in values:
        return
    exact = []
    for place, each in enumerate(given):
        others = [negate(other, own) for at, other in enumerate(given) if at != place]
        if None in others:
            return
        if False not in (each, *others):
            exact.append(_both(each, *others))
    del own["oneOf"]
    parts.append({"anyOf": exact})


_OBJECTS = {"$ref", "properties", "additionalProperties"}


def _rewrite_names(own: dict[str, Any]) -> None:
    names = own.get("propertyNames", True)
    if names is True or names is False:
        own.pop("propertyNames", None)
        own |= {} if names else {"type": "object", "maxProperties": 0}
        return
    values, rest = _list_values(names), own.get("additionalProperties", True)
    low, high = names.get("minLength", 0), names.get("maxLength", "")
    pattern = names.get("pattern", f"^.{{{low},{high}}}$" if names.keys() & _LENGTHS else None)
    described = own.get("properties", {})
    if values is not None:
        kept = {name: described.get(name, rest) for name in values if isinstance(name, str)}
        own |= {"properties": kept, "additionalProperties": False}
    elif pattern is not None and not described and len(names.keys() & _NAMED) == len(names):
        own |= {"patternProperties": {pattern: rest}, "additionalProperties": False}
    else:
        return
    del own["propertyNames"]


_LENGTHS = {"minLength", "maxLength"}
_NAMED = {"pattern", *_LENGTHS}


def _rewrite_contains(own: dict[str, Any]) -> None:
    """Let the first items be those that a list has to contain."""
    if own.get("minContains", 1) > _MOST_VALUES and "contains" in own:
        return
    low, high = own.pop("minContains", 1), own.pop("maxContains", None)
    contained = own.pop("contains", None)
    if contained is None:
        return
    if high is not None:
        own["maxItems"] = min(own.get("maxItems", high), high)
    if low:
        prefix, items = list(own.get("prefixItems", ())), own.get("items", True)
        prefix += [items] * (low - len(prefix))
        firsts = [_both(each, contained) for each in prefix[:low]]
        own["prefixItems"] = [*firsts, *prefix[low:]]
        own["minItems"] = max(own.get("minItems", 0), low)
    if own.pop("unevaluatedItems", True) is not True:
        most = len(own.get("prefixItems", ()))
        own["maxItems"] = min(own.get("maxItems", most), most)


def _rewrite_unique(own: dict[str, Any]) -> None:
    """List the lists without repetition of items that have few values."""
    if own.get("uniqueItems") is not True or own.get("maxItems", 2) < 2:
        own.pop("uniqueItems", None)
        return
    prefix, items = own.get("prefixItems", ()), own.get("items", True)
    domains = [_list_values(each) for each in prefix]
    last = [] if items is False else _list_values(items)
    if last is None or None in domains or own.keys() - _LIST_KEYS:
        return
    most = min(own.get("maxItems", len(prefix) + len(last)), len(prefix) + len(last))
    lists: list[list[Any]] = []
    longer: list[list[Any]] = [[]]
    for length in range(most + 1):
        lists += longer if length >= own.get("minItems", 0) else []
        domain = domains[length] if length < len(prefix) else last
        if len(lists) > _MOST_VALUES or len(longer) * len(domain or ()) > _MOST_TRIED:
            return
        longer = [
            [*values, value]
            for values in longer
            for value in domain or ()
            if repr(value) not in map(repr, values)
        ]
    own.clear()
    own["enum"] = lists


_LIST_KEYS = {"type", "prefixItems", "items", "minItems", "maxItems", "uniqueItems"}


def _names(part: Any) -> Iterator[str]:
    """Yield the names of the properties in a part, and in its alternatives."""
    if isinstance(part, Mapping):
        yield from part.get("properties", ())
        for key in ("allOf", "anyOf"):
            for each in part.get(key, ()):
                yield from _names(each)


def _rewrite_unevaluated(own: dict[str, Any], parts: list[Any]) -> None:
    """Leave out what no other keyword speaks of."""
    links = own.keys() & {"$ref", "allOf", "anyOf", "oneOf"} or parts
    rest = own.pop("unevaluatedProperties", True)
    if rest is not True and not links:
        own.setdefault("additionalProperties", rest)
    elif rest is not True:
        for key in own.keys() & {"anyOf", "oneOf"}:
            own[key] = _part_properties(own[key], own)
        own.setdefault("properties", {})  # which closes the object
        barred = {name for part in parts for name in _names(part)} - own["properties"].keys()
        parts.append({"properties": dict.fromkeys(sorted(barred), False)} if barred else True)
    if own.get("unevaluatedItems", True) is True or "items" in own:
        own.pop("unevaluatedItems", None)
    elif not links and "contains" not in own:
        own["items"] = own.pop("unevaluatedItems")
    elif "contains" not in own:
        most = len(own.get("prefixItems", ()))
        own["maxItems"] = min(own.get("maxItems", most), most)
        del own["unevaluatedItems"]


def _part_properties(alternatives: Sequence[Any], own: Mapping[str, Any]) -> list[Any]:
    """Keep the properties that one alternative describes out of the others."""
    parts = [each if isinstance(each, Mapping) else {} for each in alternatives]
    described = [each.get("properties", {}) for each in parts]
    names = {name for each in described for name in each} - own.get("properties", {}).keys()
    return [
        {**each, "properties": {**dict.fromkeys(sorted(names - known.keys()), False), **known}}
        if isinstance(each, Mapping)
        else each
        for each, known in zip(alternatives, described, strict=True)
    ]


def negate(schema: Any, context: Mapping[str, Any]) -> Any:
    """Return a schema whose texts do not match another one; None where there is no way to say it.

    Args:
        context: What the texts have to match besides, which says what else there can be.
    """
    if not isinstance(schema, Mapping):
        return not schema
    options = [each for key in schema for each in _negate_keyword(key, schema[key], context)]
    if not schema:
        return False
    return {"anyOf": options} if options else None


def _negate_keyword(key: str, value: Any, context: Mapping[str, Any]) -> Iterable[Any]:
    """Yield schemas whose texts break one keyword."""
    if key in _NEXT and isinstance(value, int | float):
        kind, bound, step = _NEXT[key]
        yield from [{"type": kind, bound: value + step}] if step >= 0 or value > 0 else ()
    elif key == "type":
        named = {value} if isinstance(value, str) else set(value)
        spoken = named | ({"number"} if "integer" in named else set())
        yield from ({"type": kind} for kind in _TYPES if kind not in spoken)
    elif key in ("enum", "const"):
        broken = list(value) if key == "enum" else [value]
        known = _list_values(context)
        if known is None:
            kinds = {_type_of(each) for each in broken}
            yield from ({"type": kind} for kind in _TYPES if kind not in kinds)
        elif rest := [each for each in known if each not in broken]:
            yield {"enum": rest}
    elif key == "required":
        yield from ({"type": "object", "properties": {name: False}} for name in value)
    elif key == "properties":
        for name, each in value.items():
            unmet = negate(each, context.get("properties", {}).get(name, {}))
            if unmet not in (None, False):
                yield {"type": "object", "required": [name], "properties": {name: unmet}}
    elif key == "prefixItems":
        for at, each in enumerate(value):
            unmet = negate(each, {})
            if unmet not in (None, False):
                prefix = [*[True] * at, unmet]
                yield {"type": "array", "prefixItems": prefix, "minItems": at + 1}
    elif key == "not":
        yield value
    elif key == "anyOf":
        unmet = [negate(each, context) for each in value]
        yield from [] if None in unmet else [_both(*unmet)]
    elif key == "allOf":
        found = (negate(each, context) for each in value)
        yield from (each for each in found if each not in (None, False))


def _both(*schemas: Any) -> Any:
    parts = [each for each in schemas if each is not True and each != {}]
    return {"allOf": parts} if len(parts) > 1 else parts[0] if parts else True


def _list_values(schema: Any) -> Sequence[Any] | None:
    """Return the values of a schema that has few; None for any other."""
    if not isinstance(schema, Mapping):
        return None
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    few: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
    return few.get(str(schema.get("type")))


def _type_of(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")

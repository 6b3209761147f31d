"""What the schema of policy files allows at the cursor: completions, and help on a key.

The text is parsed with a mark in place of the word at the cursor: where the mark is found in the
tree is the place that is completed. A text with a fault elsewhere has no completions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from etui.routing.decision import EFFORTS
from etui.routing.text_measures import LANGUAGES
from etui.yaml.tree import Node, YamlError, parse_tree

Schema: TypeAlias = Mapping[str, Any]  # A JSON Schema, or a part of one
Path: TypeAlias = tuple[str | int, ...]  # Keys and indexes from the root of the file
_MARK = "etui-cursor"
_MOST_CHARACTERS = 30_000  # A longer text is not completed: it is parsed again after every key
_MOST_NAMED = 6  # Names that the help lists
_DEEPEST = 8  # Longest chain of references and alternatives in the schema that is followed
_WORD = re.compile(r"[\w.@-]*")
_CLOSING = {"{": "}", "[": "]"}
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "array": "list",
    "object": "mapping",
}

_NAMES_AT: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Kind of name, path of the value; * is any key or index.
    ("model", ("models", "*", "*")),
    ("role", ("arms", "*", "model")),
    ("role", ("signals", "*", "is")),
    ("model", ("probes", "*", "host", "resident")),
    ("arm", ("rules", "*", "use")),
    ("arm", ("rules", "*", "otherwise")),
    ("arm", ("rules", "*", "arms", "*")),
    ("arm", ("rules", "*", "cascade", "arms", "*")),
    ("arm", ("rules", "*", "cascade", "arms", "*", "agree", "*")),
    ("arm", ("budgets", "degrade_to")),
    ("arm", ("fallbacks", "load_failed")),
    ("arm", ("efforts", "*")),
    ("arm", ("probes", "*", "arm")),
    ("arm", ("probes", "*", "not_arm")),
    ("arm", ("signals", "*", "nearest", "by")),
    ("condition", ("rules", "*", "when")),
    ("rule", ("probes", "*", "rule")),
    ("rule", ("probes", "*", "not_rule")),
    ("policy", ("shadow", "policy")),
    ("language", ("signals", "*", "language")),
)
_KEYS_AT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("condition", ("signals", "*", "score")),
    ("condition", ("probes", "*", "signals")),
    ("arm", ("rules", "*", "objective", "prior")),
    ("effort", ("efforts",)),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What a text may name: the schema of the file, and names that are defined elsewhere."""

    schema: Schema
    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path  # Of the value at the cursor, or of the mapping whose key is there
    is_key: bool
    typed: str  # The part of the word before the cursor
    word: str
    has_colon: bool
    tree: Node


def complete(text: str, row: int, column: int, known: Known) -> list[str]:
    """List what may follow the typed part of a word at a cursor, which counts from 0."""
    place = _find_place(text, row, column)
    if place is None or place.word != place.typed:
        return []
    found = list(_keys(place, known))
    if not place.is_key:
        found = [*_values(place, known), *found]
    rests = [one[len(place.typed) :] for one in found if one.startswith(place.typed)]
    return list(dict.fromkeys(rest for rest in rests if rest))


def help_line(text: str, row: int, column: int, known: Known) -> str:
    """Describe the key at a cursor, or the key whose value is there; may be empty.

    Example: ``use · quick, large · The arm that answers.``
    """
    place = _find_place(text, row, column)
    if place is None:
        return ""
    path = (*place.path, place.word) if place.is_key and place.word else place.path
    while path and isinstance(path[-1], int):
        path = path[:-1]
    nodes = _find_nodes(known.schema, path)
    if not path or not nodes:
        return ""
    kinds = _kinds(_without_branches(path), _NAMES_AT)
    names = [name for kind in kinds for name in _names(kind, place.tree, known)]
    allowed = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    texts = [str(path[-1]), allowed or _type_text(known.schema, nodes[0])]
    texts.append(str(nodes[0].get("description", "")))
    return " · ".join(text for text in texts if text)


def _find_place(text: str, row: int, column: int) -> _Place | None:
    lines = text.split("\n")
    if len(text) > _MOST_CHARACTERS or not 0 <= row < len(lines):
        return None
    line = lines[row]
    column = max(0, min(column, len(line)))
    start = column - len(_first_word(line[:column][::-1]))
    end = column + len(_first_word(line[column:]))
    has_colon = line[end:].lstrip(" ").startswith(":")
    closing = "".join(_CLOSING[line[at]] for at in reversed(open_brackets(line[:start])))
    for ends in ("", closing) if closing else ("",):
        for mark in (_MARK,) if has_colon else (_MARK, f"{_MARK}: "):
            lines[row] = f"{line[:start]}{mark}{line[end:]}{ends}"
            try:
                tree = parse_tree("\n".join(lines), "")
            except YamlError:
                continue
            found = _find_mark(tree, ())
            if found is None:
                return None
            path, is_key = found
            return _Place(path, is_key, line[start:column], line[start:end], has_colon, tree)
    return None


def _first_word(text: str) -> str:
    found = _WORD.match(text)
    return found[0] if found else ""


def open_brackets(line: str) -> list[int]:
    """Return the columns of the brackets that a line leaves open, the innermost last."""
    columns: list[int] = []
    for column, sign in enumerate(line):
        if sign in "{[":
            columns.append(column)
        elif sign in "}]" and columns:
            columns.pop()
    return columns


def _find_mark(node: Node, path: Path) -> tuple[Path, bool] | None:
    if node.data == _MARK:
        return path, False
    if _MARK in node.keys:
        return path, True
    for part, below in node.children.items():
        if (found := _find_mark(below, (*path, part))) is not None:
            return found
    return None


def _keys(place: _Place, known: Known) -> Iterator[str]:
    taken = {*_keys_at(place.tree, *place.path)} - {place.word}
    end = "" if place.has_colon else ": "
    for part_of_schema in _expand(known.schema, _find_nodes(known.schema, place.path)):
        yield from (f"{k}{end}" for k in part_of_schema.get("properties", {}) if k not in taken)
    for kind in _kinds(place.path, _KEYS_AT):
        names = _names(kind, place.tree, known)
        yield from (f"{name}{end}" for name in names if name not in taken)


def _values(place: _Place, known: Known) -> Iterator[str]:
    for kind in _kinds(_without_branches(place.path), _NAMES_AT):
        yield from _names(kind, place.tree, known)
    for node in _expand(known.schema, _find_nodes(known.schema, place.path)):
        yield from _fixed_values(node)


def _names(kind: str, tree: Node, known: Known) -> tuple[str, ...]:
    match kind:
        case "model":
            return known.models
        case "role":
            return (*_keys_at(tree, "models"), *known.models)
        case "arm":
            return _keys_at(tree, "arms")
        case "condition":
            return tuple(_conditions(tree))
        case "rule":
            below = tree.children.get("rules")
            rules = [] if below is None else [rule.data for rule in below.children.values()]
            named = [rule for rule in rules if isinstance(rule, dict) and "name" in rule]
            return tuple(str(rule["name"]) for rule in named)
        case "policy":
            return known.policies
        case "language":
            return tuple(LANGUAGES)
    return tuple(EFFORTS)


def _keys_at(tree: Node, *path: str | int) -> tuple[str, ...]:
    node: Node | None = tree
    for part in path:
        node = node.children.get(part) if node is not None else None
    return () if node is None else tuple(key for key in node.keys if key != _MARK)


def _conditions(tree: Node) -> Iterator[str]:
    """Yield the signals; a score with bands only with its bands."""
    for signal in _keys_at(tree, "signals"):
        bands = _keys_at(tree, "signals", signal, "bands")
        yield from (f"{signal}.{band}" for band in bands) if bands else (signal,)


def _without_branches(path: Path) -> Path:
    """Drop all, any and not from the path of a condition, which may nest."""
    if path[:1] != ("rules",) or path[2:3] != ("when",):
        return path
    below = path[3:]
    while below:
        if below[0] in ("all", "any") and (len(below) == 1 or isinstance(below[1], int)):
            below = below[2:]
        elif below[0] == "not":
            below = below[1:]
        else:
            return path
    return path[:3]


def _kinds(path: Path, table: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    for kind, pattern in table:
        if len(pattern) == len(path) and all(
            part in ("*", given) for part, given in zip(pattern, path, strict=True)
        ):
            yield kind


def _find_nodes(schema: Schema, path: Path) -> list[Schema]:
    nodes: list[Schema] = [schema]
    for part in path:
        nodes = [below for node in _expand(schema, nodes) for below in _below(node, part)]
    return nodes


def _expand(schema: Schema, nodes: Sequence[Schema], depth: int = _DEEPEST) -> list[Schema]:
    """Follow references and alternatives to the parts that describe one type."""
    found: list[Schema] = []
    for node in nodes:
        inner = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
        if "$ref" in node:
            inner.append(schema.get("$defs", {}).get(str(node["$ref"]).rpartition("/")[2], {}))
        if inner and depth:
            found += _expand(schema, inner, depth - 1)
        else:
            found.append(node)
    return found


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


def _fixed_values(node: Schema) -> list[str]:
    """Return the values that a part allows, as they are written in YAML; empty if any."""
    if node.get("type") == "boolean":
        return ["true", "false"]
    values = [node["const"]] if "const" in node else list(node.get("enum", ()))
    return [str(value) for value in values]


def _type_text(schema: Schema, node: Schema) -> str:
    """Describe the values that a part allows: ``whole number, 1 to 64``, ``direct, cot, vote``."""
    parts = [one for one in _expand(schema, [node]) if one.get("type") != "null"]
    texts = [", ".join(_fixed_values(one)) or _range_text(one) for one in parts]
    default = node.get("default")
    if default not in (None, (), [], {}):
        written = str(default).lower() if isinstance(default, bool) else str(default)
        texts[-1:] = [f"{texts[-1]}, default {written}" if texts else ""]
    return " or ".join(dict.fromkeys(text for text in texts if text))


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

"""Check a schema for what a grammar of it would do to llama.cpp: endless or exploding parses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from etui.engine.grammar.schema_nodes import AnyOf, Array, Node, Object, Reference, Schema
from etui.errors import InvalidRequest

AMBIGUITY = 64
"""Most ways to read one text that a grammar may follow at a time."""

_ALTERNATIVES = 512
"""Most alternatives of one part, those of the parts that it can stand for included."""


def check_schema(schema: Schema, param: str) -> None:
    """Refuse a schema that no finite JSON text matches, or whose grammar is too ambiguous.

    llama.cpp follows every way to read the text so far. A recursive part that can be entered in two
    ways doubles them with each level, without a bound on its memory.

    Raises:
        InvalidRequest: The schema is one of these.
    """
    finite = _find_finite(schema)
    if any(name in _find_units(schema, name) for name in schema.named):
        raise InvalidRequest(
            "the JSON schema has a part that refers to itself alone",
            "a recursive part has to be inside of an object or an array",
            param,
        )
    if any(not _is_finite(node, finite) for node in (schema.root, *schema.named.values())):
        raise InvalidRequest(
            "the JSON schema has a part that no finite JSON text matches",
            "a recursive property must not be required",
            param,
        )
    if _Ambiguity(schema).count(schema.root) > AMBIGUITY:
        raise InvalidRequest(
            "the JSON schema can be read in too many ways",
            "use fewer alternatives (anyOf, oneOf) that begin alike, above all in recursive parts",
            param,
        )


def _find_units(schema: Schema, name: str) -> set[str]:
    """Find the names that a name can stand for without a character in between."""
    found: set[str] = set()
    todo: list[Node] = [schema.named[name]]
    while todo:
        node = todo.pop()
        if isinstance(node, AnyOf):
            todo += node.alternatives
        elif isinstance(node, Reference) and node.name not in found:
            found.add(node.name)
            todo.append(schema.named[node.name])
    return found


def _find_finite(schema: Schema) -> set[str]:
    """Find the names that a finite text can match, by repeating until nothing is added."""
    finite: set[str] = set()
    while True:
        added = {
            n for n, node in schema.named.items() if n not in finite and _is_finite(node, finite)
        }
        if not added:
            return finite
        finite |= added


def _is_finite(node: Node, finite: set[str]) -> bool:
    match node:
        case Reference():
            return node.name in finite
        case AnyOf():
            return any(_is_finite(each, finite) for each in node.alternatives)
        case Object():
            return all(_is_finite(p.node, finite) for p in node.properties if p.required)
        case Array():
            needed = [*node.prefix]
            if node.items is not None and node.shortest > len(node.prefix):
                needed.append(node.items)
            return all(_is_finite(each, finite) for each in needed)
        case _:
            return True


class _Ambiguity:
    """Counts the ways to read a text that a schema allows at one time."""

    def __init__(self, schema: Schema) -> None:
        self._named = schema.named
        self._known: dict[str, int] = {}
        self._reached: dict[str, frozenset[str]] = {}
        self._open: set[str] = set()

    def count(self, node: Node) -> int:
        """Count the ways, at most one more than ``AMBIGUITY``."""
        match node:
            case Reference():
                return self._count_named(node.name)
            case AnyOf():
                parts = list(islice(self._flatten(node, ()), _ALTERNATIVES + 1))
                if len(parts) > _ALTERNATIVES:
                    return AMBIGUITY + 1
                return min(self._count_choice(parts), AMBIGUITY + 1)
            case Object():
                most = max((self.count(p.node) for p in node.properties), default=1)
                if node.additional is None:
                    return most
                if not node.properties:
                    return self.count(node.additional)
                inner = [*(p.node for p in node.properties), node.additional]
                return self._count_choice([(None, each) for each in inner], longest_only=True)
            case Array():
                items = [*node.prefix, *([node.items] if node.items is not None else [])]
                return max((self.count(each) for each in items), default=1)
            case _:
                return 1

    def _count_named(self, name: str) -> int:
        if name in self._open:
            return 1
        if name not in self._known:
            self._open.add(name)
            self._known[name] = self.count(self._named[name])
            self._open.discard(name)
        return self._known[name]

    def _count_choice(
        self, parts: list[tuple[str | None, Node]], *, longest_only: bool = False
    ) -> int:
        """Add up the ways of parts that can begin alike; too many if two of them are recursive."""
        counts: dict[str | None, int] = {}
        for kind in {kind for kind, _ in parts}:
            alike = [node for each, node in parts if each == kind]
            if longest_only:  # one of the named properties, and the additional one
                *named, additional = alike
                recursive = [any(map(self._recurs, named)), self._recurs(additional)]
                counts[kind] = max(map(self.count, named)) + self.count(additional)
            else:
                recursive = [self._recurs(node) for node in alike]
                counts[kind] = sum(map(self.count, alike))
            if sum(recursive) > 1:
                return AMBIGUITY + 1
        return max(counts.values(), default=1)

    def _recurs(self, node: Node) -> bool:
        """Return whether a node can contain a name that can contain itself."""
        return any(name in self._reach(name) for name in self._names_in(node))

    def _names_in(self, node: Node) -> frozenset[str]:
        names = frozenset(_direct_names(node))
        return names.union(*(self._reach(name) for name in names)) if names else names

    def _reach(self, name: str) -> frozenset[str]:
        if name not in self._reached:
            seen: set[str] = set()
            todo = [*_direct_names(self._named[name])]
            while todo:
                each = todo.pop()
                if each not in seen:
                    seen.add(each)
                    todo += _direct_names(self._named[each])
            self._reached[name] = frozenset(seen)
        return self._reached[name]

    def _flatten(self, node: Node, above: tuple[str, ...]) -> Iterator[tuple[str | None, Node]]:
        """Yield the alternatives of a node with the kind of text that each begins with."""
        if isinstance(node, AnyOf):
            for each in node.alternatives:
                yield from self._flatten(each, above)
        elif isinstance(node, Reference) and node.name not in above:
            target = self._named[node.name]
            if isinstance(target, AnyOf | Reference):
                yield from self._flatten(target, (*above, node.name))
            else:
                yield _kind(target), node
        elif not isinstance(node, Reference):
            yield _kind(node), node


def _kind(node: Node) -> str | None:
    return {Object: "object", Array: "array"}.get(type(node), "other")


def _direct_names(node: Node) -> list[str]:
    match node:
        case Reference():
            return [node.name]
        case AnyOf():
            return [name for each in node.alternatives for name in _direct_names(each)]
        case Object():
            inner = [p.node for p in node.properties]
            inner += [node.additional] if node.additional is not None else []
            return [name for each in inner for name in _direct_names(each)]
        case Array():
            items = [*node.prefix, *([node.items] if node.items is not None else [])]
            return [name for each in items for name in _direct_names(each)]
        case _:
            return []

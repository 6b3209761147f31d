"""What a JSON schema allows, as nodes that a grammar can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PrimitiveName = Literal[
    "value", "object", "array", "string", "number", "integer", "boolean", "null"
]


@dataclass(frozen=True, slots=True)
class Literals:
    """One of these values, each as JSON text."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Primitive:
    """Any value of a type; ``positive`` leaves out the minus sign of a number."""

    name: PrimitiveName
    positive: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A string: of a length, of a ``pattern``, or of a ``format``."""

    shortest: int = 0
    longest: int | None = None
    pattern: str | None = None
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Property:
    """One property of an object."""

    name: str
    node: Node
    required: bool


@dataclass(frozen=True, slots=True)
class Object:
    """An object with these properties, in this order, then any ``additional`` ones."""

    properties: tuple[Property, ...]
    additional: Node | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """An array that begins with ``prefix``; None as ``items`` allows no further ones."""

    prefix: tuple[Node, ...]
    items: Node | None
    shortest: int
    longest: int | None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A value of one of these forms."""

    alternatives: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """The node of this name in ``Schema.named``."""

    name: str


Node = Literals | Primitive | Text | Object | Array | AnyOf | Reference


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema: its root, and the nodes that references name."""

    root: Node
    named: Mapping[str, Node] = field(default_factory=dict)

"""The page of an experiment: one HTML file that loads nothing from the network or the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from etui import __version__, units
from etui.text import sanitize

DASH = "–"
"""Placeholder for a figure that does not exist."""


def render_template(package: str, *, style: str = "", script: str = "", **values: Any) -> str:
    """Render ``template.html`` of a package; all plain text is escaped and sanitised.

    A template may import the macros of this package from ``macros.html``.

    Args:
        style: Style sheet of the package, after that of every page; empty without.
        script: Script of the package, after that of every page; empty without.
        values: What the template uses; ``Markup`` passes unchanged.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__package__, ".")]),
        autoescape=True,
        finalize=_sanitize_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        style=_read(__package__, "page.css") + (_read(package, style) if style else ""),
        script=_read(__package__, "theme.js") + (_read(package, script) if script else ""),
        version=__version__,
        **values,
    )


def embed_json(value: Any) -> Markup:
    """Encode JSON so that no text in it can close a ``script`` element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a configuration tree: a text, or inner nodes."""

    name: str
    items: tuple[Node, ...] | None
    text: str


def build_tree(value: Any, name: str = "") -> Node:
    """Build a tree of a configuration; lists of plain values become one text."""
    items: list[tuple[str, Any]] | None = None
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = [(str(at + 1), item) for at, item in enumerate(value)]
    if items is not None:
        inner = tuple(build_tree(item, key) for key, item in items)
        return Node(sanitize(name), inner, units.count_text(len(inner), "entry", "entries"))
    if isinstance(value, list | tuple):
        text = ", ".join(str(item) for item in value)
    else:
        text = DASH if value is None else str(value)
    return Node(sanitize(name), None, sanitize(text))


def _read(package: str, name: str) -> Markup:
    return Markup((files(package) / name).read_text(encoding="utf-8"))


def _sanitize_text(value: Any) -> Any:
    """Sanitise plain text that the template prints; markup passes unchanged."""
    return sanitize(value) if type(value) is str else value

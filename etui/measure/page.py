"""The page of an experiment: one HTML file that loads nothing from the network or the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from etui import __version__, units
from etui.text import sanitize

if TYPE_CHECKING:
    from jinja2 import Environment

DASH = "–"  # Placeholder for a figure that does not exist


def render_template(package: str, *, style: str = "", script: str = "", **values: Any) -> str:
    """Render ``template.html`` of a package; all plain text is escaped and sanitised.

    A template may import the macros of this package from ``macros.html``. ``style`` and ``script``
    name files of the package, after those of every page; ``Markup`` passes unchanged.
    """
    environment = _open_templates(package, escaped=True)
    return environment.get_template("template.html").render(
        style=_read(__package__, "page.css") + (_read(package, style) if style else ""),
        script=_read(__package__, "theme.js") + (_read(package, script) if script else ""),
        version=__version__,
        **values,
    )


def render_text(package: str, name: str, **values: Any) -> str:
    """Render a template of a package that is Markdown, where ``|cell`` escapes names."""
    environment = _open_templates(package, escaped=False)
    environment.filters["cell"] = _escape_cell
    return environment.get_template(name).render(**values)


def _escape_cell(text: str) -> str:
    """Escape a name so that it neither ends a table cell nor starts HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def embed_json(value: Any) -> Markup:
    """Encode JSON so that no text in it can close a ``script`` element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@dataclass(frozen=True, slots=True)
class ConfigNode:
    """A node of a configuration tree: a text, or inner nodes."""

    name: str
    items: tuple[ConfigNode, ...] | None
    text: str


def build_tree(value: Any, name: str = "") -> ConfigNode:
    """Build a tree of a configuration; lists of plain values become one text."""
    items: list[tuple[str, Any]] | None = None
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = [(str(at + 1), item) for at, item in enumerate(value)]
    if items is not None:
        inner = tuple(build_tree(item, key) for key, item in items)
        return ConfigNode(sanitize(name), inner, units.count_text(len(inner), "entry", "entries"))
    if isinstance(value, list | tuple):
        text = ", ".join(str(item) for item in value)
    else:
        text = DASH if value is None else str(value)
    return ConfigNode(sanitize(name), None, sanitize(text))


def _open_templates(package: str, *, escaped: bool) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__package__, ".")]),
        autoescape=escaped,
        finalize=_sanitize_text if escaped else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escaped,
    )


def _read(package: str, name: str) -> Markup:
    return Markup((files(package) / name).read_text(encoding="utf-8"))


def _sanitize_text(value: Any) -> Any:
    """Sanitise plain text that the template prints; markup passes unchanged."""
    return sanitize(value) if type(value) is str else value

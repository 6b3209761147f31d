"""Render a page from the template and the resources of a package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from etui.text.sanitize import sanitize


def render_template(package: str, **values: Any) -> str:
    """Render ``template.html`` of a package; all plain text is escaped and sanitised.

    A template may import the macros of this package from ``macros.html``.

    Args:
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
    return environment.get_template("template.html").render(**values)


def read_resource(package: str, name: str) -> Markup:
    """Read a style or a script of a package, which a page includes as it is."""
    return Markup((files(package) / name).read_text(encoding="utf-8"))


def _sanitize_text(value: Any) -> Any:
    """Sanitise plain text that the template prints; markup passes unchanged."""
    return sanitize(value) if type(value) is str else value

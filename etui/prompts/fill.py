"""Variables of a saved prompt: find them, and put values in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*\}\}")
_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def find_variables(text: str) -> tuple[str, ...]:
    """Find the variables of a text, each once, in the order in which they appear."""
    return tuple(dict.fromkeys(_VARIABLE.findall(text)))


def find_bad_variables(text: str) -> tuple[str, ...]:
    """Find texts in double braces that are no name of a variable."""
    return tuple(b[1].strip() for b in _BRACES.finditer(text) if not _VARIABLE.fullmatch(b[0]))


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each variable by its value, once: a value with braces stays as it is.

    Args:
        values: Value by variable; one that is missing leaves its variable as it is.
    """
    return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), text)

"""Word pydantic's errors as sentences with a position in the YAML file."""

from __future__ import annotations

from typing import TypeAlias

Loc: TypeAlias = tuple[str | int, ...]

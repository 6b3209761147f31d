"""The path of a value in a YAML file, as pydantic's errors give it."""

from __future__ import annotations

from typing import TypeAlias

Loc: TypeAlias = tuple[str | int, ...]

"""Compare computed numbers with their golden files, to a relative difference of 1e-12.

A value becomes plain JSON: a dataclass or a struct the dict of its fields, so that a class may be
renamed. ``ETUI_REDRAW=1`` writes a golden file again only if all its numbers were in it before:
fields may be renamed, moved and dropped, and no number changes unnoticed. A new or changed number
needs ``ETUI_REDRAW=numbers``.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any

import numpy as np

from tests.contract.golden import GOLDEN

FOLDER = "numbers"
RELATIVE = 1e-12
ABSOLUTE = 1e-14
"""Differences of large numbers that cancel leave this much."""


def check_numbers(name: str, value: Any, *, relative: float = RELATIVE) -> None:
    """Compare a value with ``golden/numbers/NAME.json``, or write the file.

    Args:
        name: Name of the golden file.
        value: Dataclasses, structs, arrays, mappings and sequences, nested as they come.
        relative: Largest relative difference of a number.
    """
    found = to_plain(value)
    path = GOLDEN / FOLDER / f"{name}.json"
    mode = os.environ.get("ETUI_REDRAW")
    if mode in ("1", "numbers"):
        if path.is_file() and mode == "1":
            new = list_new_numbers(json.loads(path.read_text(encoding="utf-8")), found, relative)
            assert not new, (
                f"{name}: {len(new)} numbers were not in the golden file, such as {new[:5]}; "
                "ETUI_REDRAW=numbers writes them"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_json(found) + "\n", encoding="utf-8", newline="")
        return
    assert path.is_file(), f"there is no golden file {path.name}; ETUI_REDRAW=1 writes it"
    expected = json.loads(path.read_text(encoding="utf-8"))
    differences = list(find_differences(expected, found, relative))
    shown = "\n".join(differences[:20])
    assert not differences, f"{name}: {len(differences)} values have changed\n{shown}"


def to_plain(value: Any) -> Any:
    """Return the value as dicts, lists, texts, numbers, booleans and None."""
    if isinstance(value, Enum):
        return to_plain(value.value)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, PurePath):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if not field.name.startswith("_")]
        return {name: to_plain(getattr(value, name)) for name in names}
    if hasattr(value, "__struct_fields__"):
        return {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {_to_key(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((to_plain(item) for item in value), key=repr)
    if isinstance(value, Sequence):
        return [to_plain(item) for item in value]
    if hasattr(type(value), "model_fields"):
        return {name: to_plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, date | timedelta | Fraction | Decimal | range):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no plain form")


def _to_key(key: Any) -> str:
    plain = to_plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def write_json(value: Any, depth: int = 0) -> str:
    """Write JSON with what fits into 110 columns on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth <= 110 or not isinstance(value, dict | list) or not value:
        return flat
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        rows = [
            f"{json.dumps(key, ensure_ascii=False)}: {write_json(item, depth + 1)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(pad + row for row in rows) + f"\n{' ' * depth}}}"
    if all(isinstance(item, int | float | None) for item in value):
        return _write_numbers(value, pad) + f"\n{' ' * depth}]"
    rows = [write_json(item, depth + 1) for item in value]
    return "[\n" + ",\n".join(pad + row for row in rows) + f"\n{' ' * depth}]"


def _write_numbers(values: list[Any], pad: str) -> str:
    """Write a long list of numbers, as many to a line as fit."""
    lines, line = ["["], pad
    for at, value in enumerate(values):
        text = json.dumps(value) + ("," if at < len(values) - 1 else "")
        if len(line) + len(text) > 110:
            lines.append(line.rstrip())
            line = pad
        line += text + " "
    return "\n".join([*lines, line.rstrip()])


def find_differences(
    expected: Any, found: Any, relative: float = RELATIVE, path: str = ""
) -> Iterator[str]:
    """Describe every place where two plain values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() - found.keys():
            yield f"{path}.{key}: is missing"
        for key in found.keys() - expected.keys():
            yield f"{path}.{key}: is new"
        for key in expected.keys() & found.keys():
            yield from find_differences(expected[key], found[key], relative, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{path}: {len(expected)} items became {len(found)}"
        for at, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from find_differences(one, other, relative, f"{path}[{at}]")
    elif not _are_equal(expected, found, relative):
        yield f"{path}: {expected!r} became {found!r}"


def _are_equal(expected: Any, found: Any, relative: float) -> bool:
    numbers = [
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in (expected, found)
    ]
    if all(numbers):
        return math.isclose(expected, found, rel_tol=relative, abs_tol=ABSOLUTE)
    return bool(type(expected) is type(found) and expected == found)


def list_new_numbers(expected: Any, found: Any, relative: float) -> list[float]:
    """List the numbers that were nowhere in the golden file."""
    known = sorted(list_numbers(expected))
    new = []
    for number in list_numbers(found):
        at = bisect_left(known, number)
        near = known[max(at - 1, 0) : at + 1]
        if not any(math.isclose(number, one, rel_tol=relative, abs_tol=ABSOLUTE) for one in near):
            new.append(number)
    return new


def list_numbers(value: Any) -> Iterator[float]:
    """List every number of a plain value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from list_numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from list_numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value

"""Keys and types of the JSON of a sweep: ``result.json``, and what ``--json`` prints."""

from __future__ import annotations

from typing import Any

from tests.contract.golden import check_json
from tests.contract.internals import build_document
from tests.sweep import results

KEYS = "files/sweep-result.json"
FILES = frozenset({KEYS})
_FREE = ("axes", "values", "references", "provenance")
"""Objects whose keys are names of the sweep's own axes and of what was recorded."""


def test_the_keys_of_the_document() -> None:
    """Every key and the types that its value has in a full, an empty and an unmeasured sweep."""
    makes = (results.sixteen_settings, results.not_begun, results.unmeasured)
    sweeps = [make() for make in makes]
    found: dict[str, set[str]] = {}
    for sweep in sweeps:
        collect("", build_document(sweep.config, sweep.result, sweep.blocks), found)
    check_json(KEYS, {path: " | ".join(sorted(types)) for path, types in found.items()})


def collect(path: str, value: Any, found: dict[str, set[str]]) -> None:
    """Note the type of a value below its path, and those of all values in it."""
    if path:
        found.setdefault(path, set()).add("null" if value is None else type(value).__name__)
    if isinstance(value, dict) and path.rpartition(".")[2] not in _FREE:
        for key, item in value.items():
            collect(f"{path}.{key}" if path else key, item, found)
    elif isinstance(value, list):
        for item in value:
            collect(f"{path}[]", item, found)

"""The JSON of a sweep, ``result.json``, and a folder of a sweep that an earlier version wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.contract.golden import check_json
from tests.contract.internals import SweepFolder, analyse_folder, build_document, read_sweep
from tests.contract.numbers import find_differences
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


OLD = Path(__file__).with_name("old_sweep")


def test_a_sweep_of_an_earlier_version_has_the_result_that_it_had(tmp_path: Path) -> None:
    recorded = read_sweep(OLD)
    assert recorded.is_finished
    document = build_document(recorded.config, analyse_folder(recorded), recorded.blocks)
    expected = json.loads((OLD / "result.json").read_text())
    assert not list(find_differences(expected, json.loads(json.dumps(document))))
    place = tmp_path / "sweep"
    shutil.copytree(OLD, place)
    before = (place / "blocks.seal").read_bytes()
    folder, again = SweepFolder.resume(place)
    folder.close()
    assert (again.blocks, again.answers, again.power) == (
        recorded.blocks,
        recorded.answers,
        recorded.power,
    )
    assert (place / "blocks.seal").read_bytes() == before


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

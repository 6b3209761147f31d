"""Write docs/energy-record.schema.json, the JSON Schema of energy_record.json, from its types.

Run it after a change of the types in ``etui/energy/energy_record.py``, ``record_conditions.py`` or
``steadiness.py``; a test fails if the file is out of date.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from etui.energy.energy_record import RECORD_VERSION, EnergyRecord

PATH = Path(__file__).with_name("energy-record.schema.json")


def render() -> str:
    """Build the text of the schema."""
    schema = msgspec.json.schema(EnergyRecord)
    for definition in schema["$defs"].values():
        _describe(definition)
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etui energy record",
        "$comment": "Written by docs/make_energy_schema.py. Unknown values are null, and `missing` "
        "of a measurement says why. Later versions of etui may add fields.",
        **schema,
    }
    properties = document["$defs"]["EnergyRecord"]["properties"]
    properties["schema_version"] = {"const": RECORD_VERSION}
    document["$defs"]["Measurement"]["properties"]["pue"]["minimum"] = 1
    document["$defs"]["Measurement"]["required"].append("missing")
    return json.dumps(document, indent=2) + "\n"


def _describe(definition: dict[str, Any]) -> None:
    """Move the description of each attribute from the docstring to its property."""
    head, _, attributes = inspect.cleandoc(definition.get("description", "")).partition(
        "Attributes:\n"
    )
    definition["description"] = _unfold(head)
    names: list[str] = []
    texts: dict[str, list[str]] = {}
    for line in attributes.splitlines():
        if line.startswith("    ") and not line.startswith("        "):
            listed, _, rest = line.strip().partition(":")
            names = [name.strip() for name in listed.split(",")]
            texts.update({name: [rest] for name in names})
        else:
            for name in names:
                texts[name].append(line)
    for name, value in definition.get("properties", {}).items():
        if name in texts:
            value["description"] = _unfold(" ".join(texts[name]))


def _unfold(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")

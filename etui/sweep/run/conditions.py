"""Whether two sweeps ask for the same, and were measured under the same conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from etui.sweep.sweep_config import SweepConfig

_CONDITIONS = {
    "model_sha256": "the model file",
    "workload_sha256": "the texts of the workload",
    "suite_sha256": "the questions of the suite",
    "channels": "the power channels",
}
"""Field -> what it is; these are found on the machine and not asked for."""

_PROVENANCE = {
    "machine": "the machine",
    "system": "the system",
    "cpus": "the number of CPUs",
    "etui": "the version of etui",
    "llama_cpp_python": "the version of llama-cpp-python",
    "python": "the version of Python",
    "context_tokens": "context_tokens",
    "sample_hz": "sample_hz",
    "power_source": "the source of power",
    "in_use": "the settings in use",
}
"""Key of the provenance -> what it is; the others do not change what is measured."""

_OF_THIS_SWEEP = ("id", "created", "provenance", "notes", *_CONDITIONS)


def asks_for_the_same(one: SweepConfig, other: SweepConfig) -> bool:
    """Return whether both sweeps measure the same in the same way, on whatever machine."""
    names = [f.name for f in fields(SweepConfig) if f.name not in _OF_THIS_SWEEP]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def list_changes(before: SweepConfig, now: SweepConfig) -> tuple[str, ...]:
    """List the conditions that have changed, each in a few words; empty if none has."""
    return tuple(_iter_changes(before, now))


def _iter_changes(before: SweepConfig, now: SweepConfig) -> Iterator[str]:
    for name, what in _CONDITIONS.items():
        one, other = getattr(before, name), getattr(now, name)
        if one != other:
            yield f"{what} was {_describe(one)} and is now {_describe(other)}"
    for key, what in _PROVENANCE.items():
        one, other = before.provenance.get(key), now.provenance.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                yield from _iter_keys(what, one, other)
            else:
                yield f"{what} was {_describe(one)} and is now {_describe(other)}"
    if before.design.settings != now.design.settings:
        one, other = before.design.settings[0].key, now.design.settings[0].key
        if one != other:
            yield f"the baseline was {one} and is now {other}"
        else:
            yield "the settings of the same axes are others now"


def _iter_keys(what: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            values = f"{_describe(one.get(key))} and is now {_describe(other.get(key))}"
            yield f"{key} of {what} was {values}"


def _describe(value: object) -> str:
    quoted = json.dumps(value, ensure_ascii=False, default=str)
    text = value if isinstance(value, str) else quoted
    return text if len(text) <= 60 else f"{text[:57]}..."

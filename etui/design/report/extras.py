"""What ``summary.json`` adds where it has it: percentiles, and whether the machine was steady."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etui import units
from etui.bench.analysis.summary_text import DASH
from etui.bench.store.run_folder import SUMMARY
from etui.design.analysis.strategies import Layout
from etui.design.report.tables import Table

_FIGURES = (
    ("joules_per_question", "J/question"),
    ("joules_per_output_token", "J/token"),
    ("ttft_seconds", "first token"),
    ("inter_token_seconds", "between tokens"),
)
_PERCENTILES = ("p50", "p90", "p95")


def read_extras(folder: Path, layout: Layout) -> Table | None:
    """Read the percentiles and steady states of the arms.

    Args:
        folder: The run folder.
        layout: Its arms.

    Returns:
        None if there is no readable summary, or it has none of them.
    """
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    arms = _get(document, "arms")
    rows = []
    for strategy in layout.strategies:
        arm = _get(arms, strategy.arm)
        cells = [_format_percentiles(_get(arm, "percentiles"), name) for name, _ in _FIGURES]
        rows.append((strategy.label, *cells, _format_courses(arm)))
    header = ("arm", *(f"{text}, p50 / p90 / p95" for _, text in _FIGURES), "steady")
    kept = [0, *(at for at in range(1, len(header)) if any(row[at] != DASH for row in rows))]
    if len(kept) < 2:
        return None
    return Table(
        tuple(header[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)
    )


def _get(value: object, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _format_percentiles(percentiles: Mapping[str, Any], name: str) -> str:
    values = [_get(percentiles, name).get(key) for key in _PERCENTILES]
    if not all(isinstance(value, int | float) for value in values):
        return DASH
    format_one = units.seconds_text if name.endswith("seconds") else units.energy_text
    return " / ".join(format_one(float(value)) for value in values if value is not None)


def _format_courses(arm: Mapping[str, Any]) -> str:
    words = {True: "yes", False: "no", None: "not enough answers"}
    states = list(dict.fromkeys(words[state] for state in _list_states(arm)))
    return ", ".join(states) or DASH


def _list_states(arm: Mapping[str, Any]) -> Iterator[bool | None]:
    courses = arm.get("courses")
    for course in courses if isinstance(courses, list) else ():
        steady = _get(course, "steady_state")
        state = steady.get("is_steady")
        if "is_steady" in steady and (state is None or isinstance(state, bool)):
            yield state

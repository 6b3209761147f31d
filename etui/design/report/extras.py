"""What ``summary.json`` adds where it has it: percentiles, and whether the machine was steady."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etui import units
from etui.bench.folder import SUMMARY
from etui.bench.summary_text import DASH
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

    Returns:
        None if there is no readable summary, or it has none of them.
    """
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    arms = _get(document, "arms")
    rows = []
    estimated = False
    for strategy in layout.strategies:
        arm = _get(arms, strategy.arm)
        kind = _get(arm, "energy").get("kind")
        estimated = estimated or kind == units.ESTIMATE
        percentiles = _get(arm, "percentiles")
        cells = [_format_percentiles(percentiles, name, kind) for name, _ in _FIGURES]
        rows.append((strategy.label, *cells, _format_courses(arm)))
    mark = f" ({units.ESTIMATE})" if estimated else ""
    names = [text if name.endswith("seconds") else text + mark for name, text in _FIGURES]
    header = ("arm", *(f"{name}, p50 / p90 / p95" for name in names), "steady")
    kept = [0, *(at for at in range(1, len(header)) if any(row[at] != DASH for row in rows))]
    if len(kept) < 2:
        return None
    return Table(
        tuple(header[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)
    )


def _get(value: object, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _format_percentiles(percentiles: Mapping[str, Any], name: str, kind: object) -> str:
    values = [_get(percentiles, name).get(key) for key in _PERCENTILES]
    if not all(isinstance(value, int | float) for value in values):
        return DASH
    numbers = [float(value) for value in values if value is not None]
    if name.endswith("seconds"):
        return " / ".join(units.seconds_text(value) for value in numbers)
    shown = units.ESTIMATE if kind == units.ESTIMATE else None
    texts = [units.energy_text(value, None, shown) for value in numbers]
    return " / ".join(text.removesuffix(f" ({units.ESTIMATE})") for text in texts)


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

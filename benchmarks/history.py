"""The history file: one JSON line for each recorded run, the oldest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.machine import Machine
from benchmarks.runner import Outcome
from etui.errors import InvalidFile

FILE = Path(__file__).with_name("history.jsonl")
VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded run.

    Attributes:
        commit: Commit of the checkout; None where that is not known.
        modified: Whether files differed from the commit.
        date: When the run ended, ISO 8601 in UTC.
        machine: Where it ran.
        figures: ``benchmark/figure`` -> figure.
        skipped, failed: Benchmark -> reason.
    """

    commit: str | None
    modified: bool
    date: str
    machine: Machine
    figures: dict[str, Figure]
    skipped: dict[str, str]
    failed: dict[str, str]


def record_of(
    outcomes: Sequence[Outcome],
    commit: str | None,
    modified: bool,
    date: str,
    machine: Machine,
) -> Record:
    """Build the record of a run."""
    reasons = {
        status: {one.name: one.reason for one in outcomes if one.status == status}
        for status in ("skipped", "failed")
    }
    return Record(commit, modified, date, machine, figures_of(outcomes), **reasons)


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """Return ``benchmark/figure`` -> figure of all that was measured."""
    return {f"{one.name}/{figure.name}": figure for one in outcomes for figure in one.figures}


def append(record: Record, file: Path) -> None:
    """Add a line; an earlier last line without its end gets one."""
    document: dict[str, Any] = {"version": VERSION, **asdict(record)}
    for figure in document["figures"].values():
        del figure["name"]  # the key has it
    with file.open("a+b") as target:
        if target.tell():
            target.seek(-1, 2)
            if target.read(1) != b"\n":
                target.write(b"\n")
        target.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")


def read(file: Path) -> list[Record]:
    """Read every line; a file that does not exist has none.

    Raises:
        InvalidFile: A line is not a record.
    """
    if not file.exists():
        return []
    records = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidFile(
                f"{file}:{number}: not a recorded run ({error!r})", "repair or remove the line"
            ) from error
    return records


def before(records: Sequence[Record], machine: Machine) -> dict[str, Figure]:
    """Return each figure as the machine's latest record with that figure has it."""
    latest: dict[str, Figure] = {}
    for record in records:
        if record.machine.same_hardware(machine):
            latest |= record.figures
    return latest


def change(now: Figure, earlier: Figure | None) -> float | None:
    """Return the relative change of a figure; None where there is nothing to compare it with."""
    if earlier is None or earlier.unit != now.unit or earlier.kind != now.kind:
        return None
    return now.value / earlier.value - 1 if earlier.value else None


def _record(document: dict[str, Any]) -> Record:
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']}, not {VERSION}")
    values = {field.name: document[field.name] for field in fields(Record)}
    machine = {field.name: values["machine"][field.name] for field in fields(Machine)}
    values["machine"] = Machine(**machine | {"gpus": tuple(machine["gpus"])})
    values["figures"] = {
        key: Figure(key.partition("/")[2], **figure) for key, figure in values["figures"].items()
    }
    return Record(**values)

"""What etui writes to the disk: the database, run folders, and small files of its own."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Played
from tests.contract.golden import check, check_json
from tests.contract.machine import OLD_RUN
from tests.contract.normal import normalised

OLD_RUN_SHA256 = "d82fc934025ad6c1003d89b2842c30d02472fb9b1b9f994f21053d989b3224c0"
"""``config_sha256`` of a run of etui 0.1.0: runs of today must be comparable with it."""
CHANGED = "config.json does not match its hash"
SCHEMA = "files/schema.sql"
NOT_OURS = re.compile(r"turns_fts_(config|content|data|docsize|idx)$|(idx_)?_sqlite_migrations")
"""Tables whose SQL is SQLite's own or sqlite-utils'; it may differ between their versions."""
RUN_FOLDERS = {
    "r1": "files/run-letters.json",
    "r2": "files/run-cot.json",
    "r3": "files/run-policy.json",
}
SMALL_FILES = {
    "chat": {
        "idle": "home/idle.json",
        "model-record": "home/models/tiny-b.gguf.json",
        "checkpoint": "checkpoint.jsonl",
    },
    "meter": {"idle-loaded": "home/idle.json", "trace": "trace.jsonl"},
    "runs": {"fitted": "home/policies/mine.fitted.json"},
}
SMALL = [(machine, name) for machine, names in SMALL_FILES.items() for name in names]
FILES = frozenset({SCHEMA, *RUN_FOLDERS.values(), *(f"files/{name}.json" for _, name in SMALL)})


def test_the_schema_of_the_database(played: Mapping[str, Played]) -> None:
    with sqlite3.connect(played["chat"].root / "home" / "etui.db") as connection:
        made = connection.execute(
            "SELECT name, sql FROM sqlite_master ORDER BY type, name"
        ).fetchall()
        applied = connection.execute(
            "SELECT migration_set, name FROM _sqlite_migrations ORDER BY id"
        ).fetchall()
    lines = [f"-- migration {' '.join(row)}" for row in applied]
    lines += [
        f"{plain(sql)};" if sql and not NOT_OURS.match(name) else f"-- {name}" for name, sql in made
    ]
    check(SCHEMA, "\n".join(lines) + "\n")


def plain(sql: str) -> str:
    """A statement on one line, without comments."""
    return re.sub(r" (?=[,)])", "", " ".join(re.sub(r"--[^\n]*", "", sql).split()))


@pytest.mark.parametrize("name", RUN_FOLDERS)
def test_the_files_of_a_run(name: str, played: Mapping[str, Played]) -> None:
    root = played["runs"].root
    folder = root / name
    with (folder / "per_subject.csv").open(encoding="utf-8", newline="") as file:
        head = next(csv.reader(file))
    document = {
        "files": sorted(path.name for path in folder.iterdir()),
        "config.json": read(folder / "config.json"),
        "samples.jsonl": read_lines(folder / "samples.jsonl"),
        "samples.seal": list(read(folder / "samples.seal")),
        "summary.json": list(read(folder / "summary.json")),
        "per_subject.csv": head,
    }
    check_json(RUN_FOLDERS[name], normalised(document, root, floats=False))


def test_the_hash_of_an_old_run(played: Mapping[str, Played]) -> None:
    """``etui bench report`` says of a run whether its configuration still has its hash."""
    assert read(OLD_RUN / "config.json")["config_sha256"] == OLD_RUN_SHA256
    printed = played["runs"].printed
    assert "changed outside etui" not in printed["bench-report"].err
    assert CHANGED in printed["bench-report-changed"].err


@pytest.mark.parametrize(("machine", "name"), SMALL)
def test_a_small_file(machine: str, name: str, played: Mapping[str, Played]) -> None:
    root = played[machine].root
    path = root / SMALL_FILES[machine][name]
    document: Any
    if path.suffix == ".jsonl":
        # The head and one line: how many follow, and which channel is read first, depends on the
        # clock.
        head, *lines = read_lines(path)
        document = [head, next((line for line in lines if is_of_gpu(line)), lines[0])]
    else:
        document = read(path)
    check_json(f"files/{name}.json", normalised(document, root, floats=False))


def is_of_gpu(line: Any) -> bool:
    return str(line.get("id", "")).startswith("gpu:")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

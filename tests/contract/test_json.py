"""Every ``--json`` and ``--jsonl``, on simulated machines with a model of two megabytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.contract.cases import MACHINES, PINNED, Case
from tests.contract.commands import json_options, path_of, walk
from tests.contract.conftest import Played
from tests.contract.golden import check_json
from tests.contract.normal import normalised

STEPS = [(name, case) for name, cases in MACHINES.items() for case in cases]
WITHOUT_CASE: Mapping[str, str] = {
    "engine build --json": "it compiles llama.cpp",
    "engine compare --json": "it needs two builds; tests/runtime/test_engine_comparison.py has it",
    "engine status --json": "its builds are those of the machine; tests/cli/test_engine.py has it",
    "models search --json": "it asks a hub; tests/cli/test_models_pull.py has it",
    "power calibrate-wall --json": "it needs a wall meter; tests/cli/test_power_wall.py has it",
    "power run --json": "standard output is the command's; tests/cli/test_power_run.py has it",
    "power top --jsonl": "it runs until Ctrl-C; tests/cli/test_power_top.py has its lines",
    "serve --jsonl": "it runs until a signal; tests/cli/test_serve_status.py has its lines",
}
"""Command and option -> why no golden case can be made; a command that ends has one."""


def file_of(case: Case) -> str:
    return f"json/{case.name}.json"


FILES = frozenset(map(file_of, PINNED))


def documents(case: Case, out: str) -> Any:
    """What a command printed: its document, or the documents of its lines."""
    if case.form == "json":
        return json.loads(out)
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(
    ("machine", "case"), STEPS, ids=[f"{name}-{case.name}" for name, case in STEPS]
)
def test_a_command_prints_what_it_printed(
    machine: str, case: Case, played: Mapping[str, Played]
) -> None:
    printed = played[machine].printed[case.name]
    assert isinstance(printed.code, int), printed.code
    if case.code is not None:
        assert printed.code == case.code, printed.err
    if case.form != "none":
        found = normalised(documents(case, printed.out), played[machine].root, floats=case.floats)
        check_json(file_of(case), {"command": ["etui", *case.args], "prints": found})


def test_every_command_with_json_has_a_golden_case() -> None:
    asked = {
        f"{' '.join(path_of(case.args))} {option}"
        for case in PINNED
        for option in ("--json", "--jsonl")
        if option in case.args
    }
    there = {
        f"{' '.join(path)} {option}" for path, command in walk() for option in json_options(command)
    }
    assert there - asked == set(WITHOUT_CASE)
    assert asked <= there


def test_names_of_cases_are_unique() -> None:
    assert len(FILES) == len(PINNED)

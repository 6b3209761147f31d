"""No golden file is missing, and none is left over; those of numbers are apart."""

from __future__ import annotations

from tests.contract import (
    test_files,
    test_help,
    test_json,
    test_names,
    test_options,
    test_sweep_document,
    test_wire,
)
from tests.contract.golden import GOLDEN, HOW, REDRAW
from tests.contract.numbers import FOLDER


def test_the_golden_files_are_those_of_the_tests() -> None:
    expected = {
        name
        for module in (
            test_files, test_help, test_json, test_names, test_options, test_sweep_document,
            test_wire,
        )
        for name in module.FILES
    }  # fmt: skip
    there = {
        path.relative_to(GOLDEN).as_posix()
        for path in GOLDEN.rglob("*")
        if path.is_file() and path.parent != GOLDEN / FOLDER
    }
    if REDRAW:
        for name in there - expected:
            (GOLDEN / name).unlink()
        return
    assert there == expected, HOW
